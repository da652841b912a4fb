"""Decoders f(p, z, c): logit of the probability that p lies inside (paper, section 3.1; supplementary 1.1).

All decoders take points p (B, T, 3), latent codes z (B, z_dim) and codes c of the input (B, c_dim), and return logits
(B, T). Layers have the names of the official code.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import relu

from datasets.checks import check_choice, check_positive
from methods.occnet.blocks import (
    BatchNormResnetBlock,
    ConditionalBatchNorm,
    ConditionalResnetBlock,
    PointNorm,
    ResnetBlockFC,
)


class Decoder(nn.Module):
    """Base class of the decoders.

    Args:
        c_dim: size of the code of the input; 0: there is none.
        z_dim: size of the latent code; 0: there is none.
        hidden: features per point.
        blocks: number of residual blocks.
    """

    def __init__(self, c_dim: int, z_dim: int, hidden: int = 256, blocks: int = 5) -> None:
        super().__init__()
        check_positive("model", hidden=hidden, blocks=blocks)
        self.fc_p = nn.Linear(3, hidden)
        self.fc_z = nn.Linear(z_dim, hidden) if z_dim else None
        self.fc_out = nn.Linear(hidden, 1)

    def embed(self, p: Tensor, z: Tensor) -> Tensor:
        """Return the first features of the points (B, T, hidden), with the latent code added to each."""
        x = self.fc_p(p)
        return x if self.fc_z is None else x + self.fc_z(z)[:, None]


class ConditionalDecoder(Decoder):
    """Decoder of the paper: residual blocks with conditional batch norm. 3,548,417 parameters at c_dim 512."""

    def __init__(self, c_dim: int, z_dim: int, hidden: int = 256, blocks: int = 5) -> None:
        super().__init__(c_dim, z_dim, hidden, blocks)
        _check_conditioned(c_dim, "cbatchnorm")
        self.blocks = nn.ModuleList(ConditionalResnetBlock(c_dim, hidden) for _ in range(blocks))
        self.norm = ConditionalBatchNorm(c_dim, hidden)

    def forward(self, p: Tensor, z: Tensor, c: Tensor) -> Tensor:
        """Return logits (B, T)."""
        x = self.embed(p, z)
        for block in self.blocks:
            x = block(x, c)
        return self.fc_out(relu(self.norm(x, c))).squeeze(-1)


class LatentConditionalDecoder(ConditionalDecoder):
    """Conditional decoder whose latent code is added to the code of the input, not to the points (cbatchnorm2)."""

    def __init__(self, c_dim: int, z_dim: int, hidden: int = 256, blocks: int = 5) -> None:
        super().__init__(c_dim, 0, hidden, blocks)
        self.latent_to_code = nn.Linear(z_dim, c_dim) if z_dim else None

    def forward(self, p: Tensor, z: Tensor, c: Tensor) -> Tensor:
        """Return logits (B, T)."""
        return super().forward(p, z, c if self.latent_to_code is None else c + self.latent_to_code(z))


class ConditionalPlainDecoder(Decoder):
    """Conditional batch norm without residual connections (paper, table 4, `No ResNet`)."""

    def __init__(self, c_dim: int, z_dim: int, hidden: int = 256, blocks: int = 5) -> None:
        super().__init__(c_dim, z_dim, hidden, blocks)
        _check_conditioned(c_dim, "cbatchnorm_noresnet")
        self.norms = nn.ModuleList(ConditionalBatchNorm(c_dim, hidden) for _ in range(blocks + 1))
        self.layers = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(blocks))

    def forward(self, p: Tensor, z: Tensor, c: Tensor) -> Tensor:
        """Return logits (B, T)."""
        x = self.embed(p, z)
        for norm, layer in zip(self.norms, self.layers, strict=False):
            x = layer(relu(norm(x, c)))
        return self.fc_out(relu(self.norms[-1](x, c))).squeeze(-1)


class AdditiveDecoder(Decoder):
    """Decoder that adds the codes to the features of the points, with unconditional residual blocks."""

    def __init__(self, c_dim: int, z_dim: int, hidden: int = 256, blocks: int = 5) -> None:
        super().__init__(c_dim, z_dim, hidden, blocks)
        self.fc_c = nn.Linear(c_dim, hidden) if c_dim else None
        self.stack = self._make_stack(hidden, blocks)

    def _make_stack(self, hidden: int, blocks: int) -> nn.Sequential:
        return nn.Sequential(*(ResnetBlockFC(hidden) for _ in range(blocks)))

    def forward(self, p: Tensor, z: Tensor, c: Tensor) -> Tensor:
        """Return logits (B, T)."""
        x = self.embed(p, z)
        if self.fc_c is not None:
            x = x + self.fc_c(c)[:, None]
        return self.fc_out(relu(self.stack(x))).squeeze(-1)


class BatchNormDecoder(AdditiveDecoder):
    """Additive decoder with ordinary batch norm (paper, table 4, `No CBN`)."""

    def _make_stack(self, hidden: int, blocks: int) -> nn.Sequential:
        return nn.Sequential(*(BatchNormResnetBlock(hidden) for _ in range(blocks)), PointNorm(hidden))


DECODERS: dict[str, type[Decoder]] = {  # by the names of the official code
    "cbatchnorm": ConditionalDecoder,
    "cbatchnorm2": LatentConditionalDecoder,
    "cbatchnorm_noresnet": ConditionalPlainDecoder,
    "batchnorm": BatchNormDecoder,
    "simple": AdditiveDecoder,
}


def make_decoder(name: str, c_dim: int, z_dim: int, hidden: int, blocks: int) -> Decoder:
    """Return a decoder by its name in the official code.

    Args:
        name: key of `DECODERS`.
        c_dim: size of the code of the input; 0: there is none.
        z_dim: size of the latent code; 0: there is none.
        hidden: features per point.
        blocks: number of residual blocks.

    Raises:
        ValueError: for an unknown name, and for a conditional decoder without an input.
    """
    check_choice("model.decoder", name, tuple(DECODERS))
    return DECODERS[name](c_dim, z_dim, hidden, blocks)


def _check_conditioned(c_dim: int, name: str) -> None:
    if not c_dim:
        raise ValueError(f"model.decoder={name} is conditioned on an input, and there is none: model.decoder=simple")
