"""Tucker-2 decomposition of convolutions with ranks by EVBMF (Kim et al. 2016, arXiv 1511.06530)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from datasets.checks import check_count, check_not_negative
from methods.compression.lowrank.decomposition import Decomposition, checked_rank, share_of
from methods.compression.lowrank.ranks import evbmf_rank
from methods.compression.stage import Context


def left_vectors(matrix: Tensor, rank: int) -> Tensor:
    """Return the first left singular vectors of a wide matrix, (L, rank), by the eigenvectors of its Gram matrix."""
    return torch.linalg.eigh(matrix @ matrix.T).eigenvectors.flip(1)[:, :rank]


def tucker2(weight: Tensor, rank_out: int, rank_in: int, sweeps: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Return core (R_o, R_i, kh, kw), U_o (O, R_o) and U_i (I, R_i): HOSVD, refined by sweeps of HOOI.

    Args:
        weight: weight (O, I, kh, kw).
        rank_out: rank of the output channels.
        rank_in: rank of the input channels.
        sweeps: sweeps of higher-order orthogonal iteration.
    """
    w = weight.detach().double()
    u_out = left_vectors(w.flatten(1), rank_out)
    u_in = left_vectors(w.transpose(0, 1).flatten(1), rank_in)
    for _ in range(sweeps):
        u_out = left_vectors(torch.einsum("oihw,ir->orhw", w, u_in).flatten(1), rank_out)
        u_in = left_vectors(torch.einsum("oihw,or->irhw", w, u_out).flatten(1), rank_in)
    core = torch.einsum("oihw,or,is->rshw", w, u_out, u_in)
    return core.to(weight.dtype), u_out.to(weight.dtype), u_in.to(weight.dtype)


def tucker_conv(layer: nn.Conv2d, rank_out: int, rank_in: int, sweeps: int = 2) -> nn.Sequential:
    """Return a 1x1 convolution, one with the kernel of the layer, and a 1x1 convolution with its bias."""
    core, u_out, u_in = tucker2(layer.weight, rank_out, rank_in, sweeps)
    args: dict[str, Any] = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
    first = nn.Conv2d(layer.in_channels, rank_in, 1, bias=False)
    middle = nn.Conv2d(rank_in, rank_out, layer.kernel_size, bias=False, **args)  # type: ignore[arg-type]
    last = nn.Conv2d(rank_out, layer.out_channels, 1, bias=layer.bias is not None)
    first.weight.data.copy_(u_in.T[:, :, None, None])
    middle.weight.data.copy_(core)
    last.weight.data.copy_(u_out[:, :, None, None])
    if layer.bias is not None:
        last.bias = nn.Parameter(layer.bias.detach().clone())
    return nn.Sequential(first, middle, last)


class Tucker2(Decomposition):
    """Replace convolutions by their Tucker-2 decomposition.

    Args:
        rank: rank of output and input channels, or a share of the full ranks; None: by EVBMF.
        min_rank: smallest rank; EVBMF may return 0.
        sweeps: sweeps of HOOI.
        **options: arguments of `Decomposition`.
    """

    def __init__(self, rank: float | None = None, min_rank: int = 4, sweeps: int = 2, **options: Any) -> None:
        super().__init__(**options)
        check_count("stage", min_rank=min_rank)
        check_not_negative("stage", sweeps=sweeps)
        self.rank, self.min_rank, self.sweeps = rank, min_rank, sweeps

    def check_layer(self, layer: nn.Conv2d) -> None:
        """Check the rank."""
        if self.rank is not None:
            for full in layer.weight.shape[:2]:
                checked_rank(share_of(self.rank, full), full, "rank")

    def ranks(self, weight: Tensor) -> tuple[int, int]:
        """Return the ranks of output and input channels."""
        full = weight.shape[0], weight.shape[1]
        if self.rank is not None:
            found = tuple(share_of(self.rank, f) for f in full)
        else:
            found = evbmf_rank(weight.flatten(1))[0], evbmf_rank(weight.transpose(0, 1).flatten(1))[0]
        low, high = (min(max(r, self.min_rank), f) for r, f in zip(found, full, strict=True))
        return low, high

    def factors(self, layer: nn.Conv2d, context: Context) -> tuple[nn.Module, tuple[int, int]]:
        """Return the three layers."""
        rank_out, rank_in = self.ranks(layer.weight)
        new = tucker_conv(layer, rank_out, rank_in, self.sweeps)
        return new, (rank_out + rank_in, layer.out_channels + layer.in_channels)
