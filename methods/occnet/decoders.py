"""Decoders f(p, z, c) -> logit of the probability that p lies inside (paper, section 3.1 and supplementary 1.1)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import relu

from methods.occnet.blocks import ConditionalNorm, PointNorm, ResidualConditional, ResidualLinear, ResidualNorm


class Decoder(nn.Module):
    """What decoders share. Forward: p (B, T, 3), z (B, z_dim), c (B, c_dim) -> logits (B, T).

    Args:
        c_dim, z_dim: sizes of the code of the input and of the latent code; 0: there is none.
        hidden: features of a point. blocks: how many residual blocks.
    """

    def __init__(self, c_dim: int, z_dim: int, hidden: int = 256, blocks: int = 5) -> None:
        super().__init__()
        if hidden < 1 or blocks < 1:
            raise ValueError(f"model.hidden and model.blocks must be positive, got {hidden} and {blocks}")
        self.lift = nn.Linear(3, hidden)
        self.of_latent = nn.Linear(z_dim, hidden) if z_dim else None
        self.out = nn.Linear(hidden, 1)

    def lifted(self, p: Tensor, z: Tensor) -> Tensor:
        """The points' first features, with the latent code added to each: (B, T, hidden)."""
        x = self.lift(p)
        return x if self.of_latent is None else x + self.of_latent(z)[:, None]


class ConditionalDecoder(Decoder):
    """The paper's: residual blocks with conditional batch norm, 11 of these. 3,548,417 parameters at c_dim 512."""

    def __init__(self, c_dim: int, z_dim: int, hidden: int = 256, blocks: int = 5) -> None:
        super().__init__(c_dim, z_dim, hidden, blocks)
        check_conditioned(c_dim, "cbatchnorm")
        self.blocks = nn.ModuleList(ResidualConditional(c_dim, hidden) for _ in range(blocks))
        self.norm = ConditionalNorm(c_dim, hidden)

    def forward(self, p: Tensor, z: Tensor, c: Tensor) -> Tensor:
        x = self.lifted(p, z)
        for block in self.blocks:
            x = block(x, c)
        return self.out(relu(self.norm(x, c))).squeeze(-1)


class LatentConditionalDecoder(ConditionalDecoder):
    """The same, with the latent code added to the input's code, not to the points (official code, cbatchnorm2)."""

    def __init__(self, c_dim: int, z_dim: int, hidden: int = 256, blocks: int = 5) -> None:
        super().__init__(c_dim, 0, hidden, blocks)
        self.to_code = nn.Linear(z_dim, c_dim) if z_dim else None

    def forward(self, p: Tensor, z: Tensor, c: Tensor) -> Tensor:
        return super().forward(p, z, c if self.to_code is None else c + self.to_code(z))


class PlainConditionalDecoder(Decoder):
    """Conditional batch norm without the residual connections (paper, table 4, `No ResNet`)."""

    def __init__(self, c_dim: int, z_dim: int, hidden: int = 256, blocks: int = 5) -> None:
        super().__init__(c_dim, z_dim, hidden, blocks)
        check_conditioned(c_dim, "cbatchnorm_noresnet")
        self.norms = nn.ModuleList(ConditionalNorm(c_dim, hidden) for _ in range(blocks + 1))
        self.layers = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(blocks))

    def forward(self, p: Tensor, z: Tensor, c: Tensor) -> Tensor:
        x = self.lifted(p, z)
        for norm, layer in zip(self.norms, self.layers, strict=False):
            x = layer(relu(norm(x, c)))
        return self.out(relu(self.norms[-1](x, c))).squeeze(-1)


class AdditiveDecoder(Decoder):
    """Codes are added to the points' features; a stack of blocks without conditions follows."""

    def __init__(self, c_dim: int, z_dim: int, hidden: int = 256, blocks: int = 5) -> None:
        super().__init__(c_dim, z_dim, hidden, blocks)
        self.of_code = nn.Linear(c_dim, hidden) if c_dim else None
        self.stack = self.make_stack(hidden, blocks)

    def make_stack(self, hidden: int, blocks: int) -> nn.Sequential:
        return nn.Sequential(*(ResidualLinear(hidden) for _ in range(blocks)))

    def forward(self, p: Tensor, z: Tensor, c: Tensor) -> Tensor:
        x = self.lifted(p, z)
        if self.of_code is not None:
            x = x + self.of_code(c)[:, None]
        return self.out(relu(self.stack(x))).squeeze(-1)


class NormDecoder(AdditiveDecoder):
    """Additive codes and an ordinary batch norm (paper, table 4, `No CBN`)."""

    def make_stack(self, hidden: int, blocks: int) -> nn.Sequential:
        return nn.Sequential(*(ResidualNorm(hidden) for _ in range(blocks)), PointNorm(hidden))


DECODERS: dict[str, type[Decoder]] = {  # by the names of the official code
    "cbatchnorm": ConditionalDecoder,
    "cbatchnorm2": LatentConditionalDecoder,
    "cbatchnorm_noresnet": PlainConditionalDecoder,
    "batchnorm": NormDecoder,
    "simple": AdditiveDecoder,
}


def make_decoder(name: str, c_dim: int, z_dim: int, hidden: int, blocks: int) -> Decoder:
    """Raises ValueError for an unknown name, and for a conditional decoder without anything to condition on."""
    if name not in DECODERS:
        raise ValueError(f"model.decoder={name} is unknown; choose from {', '.join(DECODERS)}")
    return DECODERS[name](c_dim, z_dim, hidden, blocks)


def check_conditioned(c_dim: int, name: str) -> None:
    if not c_dim:
        raise ValueError(f"model.decoder={name} is conditioned on an input, and there is none: model.decoder=simple")
