"""Learned step size (LSQ, Esser et al. 2020, arXiv 1902.08153), and PACT (Choi et al. 2018) for activations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from datasets.checks import check_choice, check_positive
from methods.compression.layers import replace_layer, weight_layers
from methods.compression.quantization.dorefa import DoReFaWeight
from methods.compression.quantization.layers import (
    AffineCodes,
    Quantizer,
    per_channel,
    quantized_layer,
)
from methods.compression.quantization.post_training import layer_inputs
from methods.compression.stage import QUANTIZED, Context, Stage
from methods.compression.training import Recipe, zero_masks

MIN_STEP = 1e-8


class _LearnedStep(torch.autograd.Function):
    """s round(clip(v / s, -q_n, q_p)) with LSQ's gradients of v and s (equations 3 and 5)."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, s: Tensor, q_n: int, q_p: int, g: float) -> Tensor:
        ctx.save_for_backward(v, s)
        ctx.limits, ctx.g = (q_n, q_p), g
        return torch.round((v / s).clamp(-q_n, q_p)) * s

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        v, s = ctx.saved_tensors
        q_n, q_p = ctx.limits
        x = v / s
        inside = (x > -q_n) & (x < q_p)
        of_step = torch.where(inside, torch.round(x) - x, x.clamp(-q_n, q_p))
        by_step = gradient * of_step * ctx.g
        dims = [d for d in range(v.dim()) if d >= s.dim() or s.shape[d] == 1]
        summed = by_step.sum() if s.dim() == 0 else by_step.sum(dims, keepdim=True).reshape(s.shape)
        return gradient * inside, summed, None, None, None


class LearnedStep(Quantizer):
    """Quantizer with a learned step s.

    Args:
        bits: bits of a code.
        signed: codes in -2^(b-1)..2^(b-1)-1, else 0..2^b-1 for activations after ReLU.
        channels: number of output channels with a step each; None: one step.
        dims: number of dimensions of what is quantized, for steps by channel.
        of_images: quantize a batch of activations; the gradient of the step is scaled by the features of one image.
    """

    ready: Tensor

    def __init__(
        self, bits: int, signed: bool, channels: int | None = None, dims: int = 4, of_images: bool = False
    ) -> None:
        super().__init__(bits)
        if bits < 2 and signed:
            raise ValueError(f"signed codes with a learned step need at least 2 bits, got {bits}; bwn_xnor does 1")
        self.of_images = of_images
        self.q_n: int = 2 ** (bits - 1) if signed else 0
        self.q_p: int = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
        shape = () if channels is None else (channels, *([1] * (dims - 1)))
        self.step = nn.Parameter(torch.ones(shape))
        self.register_buffer("ready", torch.tensor(False))

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Set the step to 2 mean|x| / sqrt(q_p)."""
        mean = x.abs().mean() if self.step.dim() == 0 else per_channel(x.abs().flatten(1).mean(1), x)
        self.step.copy_((2 * mean / math.sqrt(self.q_p)).clamp(min=MIN_STEP))
        self.ready.fill_(True)

    def forward(self, x: Tensor) -> Tensor:
        """Return quantized values. The first batch of a training sets the step of activations."""
        if self.training and not self.ready:
            self.initialize(x)
        count = x[0].numel() if self.of_images or self.step.dim() else x.numel()
        return _LearnedStep.apply(x, self.step.clamp(min=MIN_STEP), self.q_n, self.q_p, 1 / math.sqrt(count * self.q_p))

    def codes(self, x: Tensor) -> AffineCodes:
        """Return integer codes."""
        step = self.step.detach().clamp(min=MIN_STEP)
        codes = torch.round((x / step).clamp(-self.q_n, self.q_p)).to(torch.int32) + self.q_n
        return AffineCodes(codes, step, -self.q_n * step)


class _Pact(torch.autograd.Function):
    """Quantized clip(x, 0, alpha); the gradient of alpha is 1 where x >= alpha."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, bits: int) -> Tensor:
        ctx.save_for_backward(x, alpha)
        levels = 2**bits - 1
        return torch.round(torch.minimum(x.clamp(min=0), alpha) * (levels / alpha)) * (alpha / levels)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, alpha = ctx.saved_tensors
        return gradient * ((x >= 0) & (x < alpha)), (gradient * (x >= alpha)).sum(), None


class PactInput(Quantizer):
    """Inputs clipped at a learned level alpha and quantized (PACT).

    Args:
        bits: bits of a code.
        alpha: first level.
    """

    def __init__(self, bits: int, alpha: float = 10.0) -> None:
        super().__init__(bits)
        self.alpha = nn.Parameter(torch.tensor(float(alpha)))

    def forward(self, x: Tensor) -> Tensor:
        """Return quantized inputs."""
        return _Pact.apply(x, self.alpha, self.bits)


def signed_inputs(network: nn.Module, x: Tensor) -> list[str]:
    """Return the layers, but the first, that get inputs below zero."""
    inputs = layer_inputs(network, list(weight_layers(network))[1:], x)
    return [name for name, given in inputs.items() if bool((given < 0).any())]


WEIGHT_DECAY_FACTORS = {3: 0.5, 2: 0.25}  # of LSQ, by bits


class LearnedStepQuantization(Stage):
    """Train with learned steps, from the dense network. First and last layer have 8 bits.

    Args:
        w_bits: bits of weights.
        a_bits: bits of inputs; 32: not quantized.
        activations: lsq, or pact (with the weights of DoReFa).
        per_channel: one step for each output channel of the weights.
        first_last_bits: bits of the weights of the first and of the inputs and weights of the last layer. The images
            themselves are not quantized.
        alpha: first clipping level of PACT.
        recipe: training; its weight decay is halved at 3 and quartered at 2 bits. Steps have none, levels of PACT do.
    """

    result = QUANTIZED

    def __init__(
        self,
        w_bits: int = 4,
        a_bits: int = 4,
        activations: str = "lsq",
        per_channel: bool = False,
        first_last_bits: int = 8,
        alpha: float = 10.0,
        recipe: Recipe | None = None,
    ) -> None:
        check_choice("activations", activations, ("lsq", "pact"))
        for name, bits in (("w_bits", w_bits), ("first_last_bits", first_last_bits)):
            if not 2 <= bits <= 8:
                raise ValueError(f"{name} must be in 2..8, got {bits}; bwn_xnor does 1 bit")
        if a_bits != 32 and not 1 <= a_bits <= 8:
            raise ValueError(f"a_bits must be in 1..8, or 32 for full precision, got {a_bits}")
        self.w_bits, self.a_bits, self.activations, self.per_channel = w_bits, a_bits, activations, per_channel
        check_positive("stage", alpha=alpha)
        self.first_last_bits, self.alpha = first_last_bits, alpha
        self.keeps_zeros = activations == "lsq"  # the weights of PACT are DoReFa's
        self.recipe = recipe or Recipe(90, 0.01)

    def check(self, network: nn.Module, data: Any) -> None:
        """Check that PACT, which clips at zero, gets inputs above it."""
        if self.activations == "pact" and self.a_bits != 32:
            signed = signed_inputs(network, data.train_images[:32].float() / 255)
            if signed:
                raise ValueError(f"activations=pact clips inputs below zero, which {', '.join(signed[:3])} has")

    def quantize(self, network: nn.Module, signed: Sequence[str] = ()) -> nn.Module:
        """Return the network with quantizers.

        Args:
            network: network.
            signed: layers with inputs below zero.
        """
        layers = weight_layers(network)
        names = list(layers)
        for name, layer in layers.items():
            outer = name in (names[0], names[-1])
            bits = self.first_last_bits if outer else self.w_bits
            if self.activations == "pact" and not outer:
                weight: Quantizer = DoReFaWeight(bits)
            else:
                channels = len(layer.weight) if self.per_channel else None
                weight = LearnedStep(bits, True, channels, layer.weight.dim())
                weight.initialize(layer.weight)
            inputs: Quantizer | None = None
            if self.a_bits != 32 and name != names[0]:
                input_bits = self.first_last_bits if outer else self.a_bits
                if self.activations == "pact":
                    inputs = PactInput(input_bits, self.alpha)
                else:
                    inputs = LearnedStep(input_bits, name in signed, of_images=True)
            replace_layer(network, name, quantized_layer(layer, weight, inputs))
        return network

    def __call__(self, network: nn.Module, context: Context) -> nn.Module:
        """Quantize and train."""
        sparse = bool(zero_masks(network))
        images = context.images(128)
        network = self.quantize(network, signed_inputs(network, images)).to(context.device)
        with torch.no_grad():
            network.train()(images)  # first steps of activations
        if self.recipe.epochs:
            decay = self.recipe.weight_decay * WEIGHT_DECAY_FACTORS.get(self.w_bits, 1.0)
            steps = [p for n, p in network.named_parameters() if n.endswith(".step")]
            others = [p for n, p in network.named_parameters() if not n.endswith(".step")]
            groups = [{"params": others}, {"params": steps, "weight_decay": 0.0}]
            recipe = replace(self.recipe, weight_decay=decay)
            context.train(network, recipe, parameters=groups, keep_zeros=sparse)
        return network.eval()


__all__: Sequence[str] = ["LearnedStep", "LearnedStepQuantization", "PactInput"]
