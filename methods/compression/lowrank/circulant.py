"""Linear layers of circulant matrices, multiplied by FFT (Cheng et al. 2015)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from methods.compression.layers import HEAD, OwnLayer
from methods.compression.lowrank.decomposition import Decomposition
from methods.compression.stage import Context


def circulant_matrix(r: Tensor) -> Tensor:
    """Return the matrix whose column j is r rolled down by j places, (d, d)."""
    return torch.stack([r.roll(j) for j in range(len(r))], 1)


class CirculantLinear(OwnLayer):
    """y = first m entries of C(r) (signs * x) + bias, x padded to d = max(m, n); d weights instead of m n.

    Args:
        in_features: number of inputs, n.
        out_features: number of outputs, m.
        bias: add a bias.
        seed: seed of the fixed random signs.
    """

    signs: Tensor

    def __init__(self, in_features: int, out_features: int, bias: bool = True, seed: int = 0) -> None:
        super().__init__()
        self.in_features, self.out_features, self.size = in_features, out_features, max(in_features, out_features)
        self.r = nn.Parameter(torch.empty(self.size))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("signs", torch.randint(0, 2, (in_features,), generator=generator).float() * 2 - 1)
        self.reset_parameters()

    @property
    def extra_macs(self) -> int:
        """Multiply-accumulates of three real FFTs and the products: about 4 d log2 d + 2 d."""
        return round(4 * self.size * math.log2(max(self.size, 2)) + 2 * self.size)

    def counted_weight(self) -> Tensor:
        """Return the first column of the circulant matrix."""
        return self.r

    def reset_parameters(self) -> None:
        """Draw new weights with the variance of a dense layer's."""
        nn.init.uniform_(self.r, -1 / math.sqrt(self.in_features), 1 / math.sqrt(self.in_features))
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @torch.no_grad()
    def project(self, weight: Tensor) -> None:
        """Set r to that of the circulant matrix closest to a dense weight (m, n), signs included.

        Args:
            weight: weight of a dense layer.
        """
        m, n = weight.shape
        signed = weight * self.signs
        diagonal = (torch.arange(m, device=weight.device)[:, None] - torch.arange(n, device=weight.device)) % self.size
        sums = torch.zeros_like(self.r).index_add_(0, diagonal.flatten(), signed.flatten())
        counts = torch.bincount(diagonal.flatten(), minlength=self.size).clamp(min=1)
        self.r.copy_(sums / counts)

    def forward(self, x: Tensor) -> Tensor:
        """Return the product.

        Shapes: (..., n) -> (..., m).
        """
        spectrum = torch.fft.rfft(x * self.signs, n=self.size) * torch.fft.rfft(self.r)
        y = torch.fft.irfft(spectrum, n=self.size)[..., : self.out_features]
        return y if self.bias is None else y + self.bias


class Circulant(Decomposition):
    """Replace linear layers by circulant ones, starting from the closest circulant matrix, and train.

    Args:
        project: start from the closest circulant matrix; False draws new weights.
        **options: arguments of `Decomposition`.
    """

    kinds = (nn.Linear,)

    def __init__(self, project: bool = True, ignore: Sequence[str] = (HEAD,), **options: Any) -> None:
        super().__init__(ignore=ignore, **options)
        self.project = project

    def factors(self, layer: nn.Linear, context: Context) -> tuple[nn.Module, tuple[int, int]]:
        """Return the circulant layer; its rank is given as its number of weights."""
        new = CirculantLinear(layer.in_features, layer.out_features, layer.bias is not None, context.seed)
        if self.project:
            new.project(layer.weight.cpu())
        if layer.bias is not None and new.bias is not None:
            new.bias.data.copy_(layer.bias)
        return new, (new.size, layer.weight.numel())
