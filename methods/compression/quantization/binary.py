"""Binary weights and activations: BinaryConnect (Courbariaux et al. 2015), BWN and XNOR-Net (Rastegari et al. 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, one_hot

from datasets.checks import check_choice, check_not_negative
from methods.compression.layers import HEAD, STEM, selected_layers
from methods.compression.quantization.layers import (
    AffineCodes,
    CodedConv2d,
    QuantConv2d,
    Quantizer,
    coded_weight,
    per_channel,
    quantize_layers,
    straight_through,
)
from methods.compression.stage import QUANTIZED, Context, Stage
from methods.compression.training import Recipe, classification_loss


def binary_sign(x: Tensor) -> Tensor:
    """Return +1 where x >= 0, else -1."""
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


def binary_scale(weight: Tensor) -> Tensor:
    """Return the scale that makes scale x sign(W) closest to W: the mean of |W| of each filter, (O,) (paper, eq. 6)."""
    return weight.abs().flatten(1).mean(1)


class SignWithClippedGradient(torch.autograd.Function):
    """Sign whose gradient passes where |x| <= 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return the sign."""
        ctx.save_for_backward(x)
        return binary_sign(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Return the gradient."""
        (x,) = ctx.saved_tensors
        return gradient * (x.abs() <= 1)


class BinaryConnectQuantizer(Quantizer):
    """Weights of +1 and -1, without a scale; the gradient passes straight through.

    Args:
        stochastic: in training, draw +1 with probability clip((w + 1) / 2, 0, 1).
    """

    def __init__(self, stochastic: bool = False) -> None:
        super().__init__(bits=1)
        self.stochastic = stochastic

    def forward(self, x: Tensor) -> Tensor:
        """Return binary weights."""
        if self.stochastic:
            if not self.training:
                return x  # at test time the paper's stochastic form uses the real weights
            chance = ((x.detach() + 1) / 2).clamp(0, 1)
            return straight_through(x, 2 * torch.bernoulli(chance) - 1)
        return straight_through(x, binary_sign(x))

    def codes(self, x: Tensor) -> AffineCodes:
        """Return codes 0 and 1 for -1 and +1."""
        return AffineCodes((x >= 0).to(torch.int32), x.new_tensor(2.0), x.new_tensor(-1.0))


class _ScaledSign(torch.autograd.Function):
    """alpha sign(W) with the gradient of XNOR-Net: dL/dW = dL/dW~ (1/n + alpha 1[|W| <= 1])."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        alpha = per_channel(binary_scale(weight), weight)
        ctx.save_for_backward(weight, alpha)
        return alpha * binary_sign(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        weight, alpha = ctx.saved_tensors
        return gradient * (1 / weight[0].numel() + alpha * (weight.abs() <= 1))


class BinaryWeightQuantizer(Quantizer):
    """Weights alpha sign(W) with one scale a filter (BWN)."""

    def __init__(self) -> None:
        super().__init__(bits=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return binary weights."""
        return _ScaledSign.apply(x)

    def codes(self, x: Tensor) -> AffineCodes:
        """Return codes 0 and 1 for -alpha and +alpha."""
        alpha = per_channel(binary_scale(x), x)
        return AffineCodes((x >= 0).to(torch.int32), 2 * alpha, -alpha)


class BinaryInput(nn.Module):
    """Inputs of +1 and -1, after a batch normalisation of their own: the paper's order is BN, sign, convolution.

    Without it the outputs of a ReLU would all have the sign +1.

    Args:
        layer: layer that takes the inputs.
    """

    bits = 1

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        convolution = isinstance(layer, nn.Conv2d)
        self.norm = nn.BatchNorm2d(layer.in_channels) if convolution else nn.BatchNorm1d(layer.in_features)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Return the sign of the normalised inputs."""
        return SignWithClippedGradient.apply(self.norm(x))


class XnorConv2d(QuantConv2d):
    """Convolution of binary inputs and binary weights, times the scale of the inputs (paper, section 3.2)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution."""
        x = self.input_quantizer.norm(x)
        out = self._conv_forward(SignWithClippedGradient.apply(x), self.weight_quantizer(self.weight), None)
        out = out * input_scale(x, self)
        return out if self.bias is None else out + self.bias[:, None, None]

    def coded(self) -> nn.Module:
        """Return the layer with stored codes."""
        return CodedXnorConv2d(self)


class CodedXnorConv2d(CodedConv2d):
    """`XnorConv2d` with stored codes."""

    def __init__(self, layer: XnorConv2d) -> None:
        super().__init__(layer)
        self.kernel_size = layer.kernel_size

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution."""
        x = self.input_quantizer.norm(x)
        args: Any = (self.stride, self.padding, self.dilation, self.groups)
        out = conv2d(SignWithClippedGradient.apply(x), coded_weight(self), None, *args) * input_scale(x, self)
        return out if self.bias is None else out + self.bias[:, None, None]


def input_scale(x: Tensor, layer: Any) -> Tensor:
    """Return K, the mean of |x| over channels and over the window of each output, (B, 1, H', W').

    Places of zero padding count as zeros.
    """
    padding = cast(tuple[int, int], layer.padding)
    stride = cast(tuple[int, int], layer.stride)
    return avg_pool2d(x.abs().mean(1, keepdim=True), layer.kernel_size, stride, padding)  # type: ignore[arg-type]


def squared_hinge(network: nn.Module, batch: Any) -> Tensor:
    """Return the squared hinge loss with targets +1 and -1, as BinaryConnect trains with."""
    logits = network(batch.x)
    targets = 2 * one_hot(batch.y, logits.shape[1]) - 1
    return (1 - targets * logits).clamp(min=0).square().sum(1).mean()


def clip_weights(network: nn.Module) -> None:
    """Clip the real weights of binary layers to [-1, 1]."""
    with torch.no_grad():
        for module in network.modules():
            quantizer = getattr(module, "weight_quantizer", None)
            if isinstance(quantizer, BinaryConnectQuantizer | BinaryWeightQuantizer):
                module.get_parameter("weight").clamp_(-1, 1)


class BinaryStage(Stage):
    """Base class of stages with binary weights: training, and batch normalisation measured anew.

    Args:
        fresh: start from new weights instead of the dense network's.
        ignore: layers that stay in full precision, see `selected_layers`.
        recipe: training; 0 epochs binarise the trained weights as they are.
        bn_recal_batches: batches that measure batch normalisation anew at the end.
    """

    result = QUANTIZED
    keeps_zeros = False

    def __init__(
        self,
        fresh: bool = True,
        ignore: Sequence[str] = (STEM, HEAD),
        recipe: Recipe | None = None,
        bn_recal_batches: int = 50,
    ) -> None:
        self.fresh = self.first_only = fresh
        self.ignore = tuple(ignore)
        self.recipe = recipe or Recipe(200, 0.001, optimizer="adam", weight_decay=0.0)
        check_not_negative("stage", bn_recal_batches=bn_recal_batches)
        self.bn_recal_batches = bn_recal_batches

    def check(self, network: nn.Module, data: Any) -> None:
        """Check the names of the layers."""
        selected_layers(network, self.ignore)

    def quantize(self, network: nn.Module) -> nn.Module:
        """Return the network with quantizers."""
        raise NotImplementedError(f"{type(self).__name__} does not define quantize")

    loss = staticmethod(classification_loss)

    def __call__(self, network: nn.Module, context: Context) -> nn.Module:
        """Quantize and train."""
        network = self.quantize(context.fresh() if self.fresh else network).to(context.device)
        if self.recipe.epochs:
            context.train(network, self.recipe, loss=self.loss, after_step=clip_weights, keep_zeros=False)
        context.recalibrate(network, self.bn_recal_batches)
        return network


class BinaryConnect(BinaryStage):
    """Train with weights of +1 and -1 on the squared hinge loss.

    The stochastic form is a regulariser: at test time it uses the real weights, so nothing is compressed.

    Args:
        stochastic: draw the binary weights in training.
        **options: arguments of `BinaryStage`.
    """

    loss = staticmethod(squared_hinge)

    def __init__(self, stochastic: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.stochastic = stochastic

    def quantize(self, network: nn.Module) -> nn.Module:
        """Return the network with binary weights."""
        return quantize_layers(network, lambda layer: BinaryConnectQuantizer(self.stochastic), None, self.ignore)

    def __call__(self, network: nn.Module, context: Context) -> nn.Module:
        """Quantize and train; the stochastic form gives up its quantizers in the end."""
        network = super().__call__(network, context)
        if self.stochastic:
            for module in network.modules():
                if isinstance(module, QuantConv2d | nn.Linear) and hasattr(module, "weight_quantizer"):
                    module.__class__ = nn.Conv2d if isinstance(module, nn.Conv2d) else nn.Linear  # type: ignore[assignment]
                    del module._modules["weight_quantizer"], module._modules["input_quantizer"]
        return network


class BinaryNetwork(BinaryStage):
    """Train with binary weights (BWN), or with binary weights and inputs (XNOR-Net).

    Args:
        inputs: real (BWN) or binary (XNOR-Net).
        **options: arguments of `BinaryStage`.
    """

    def __init__(self, inputs: str = "real", **options: Any) -> None:
        super().__init__(**options)
        check_choice("inputs", inputs, ("real", "binary"))
        self.inputs = inputs

    def quantize(self, network: nn.Module) -> nn.Module:
        """Return the network with binary layers."""
        make_input = BinaryInput if self.inputs == "binary" else None
        quantize_layers(network, lambda layer: BinaryWeightQuantizer(), make_input, self.ignore)
        if self.inputs == "binary":
            for module in network.modules():
                if isinstance(module, QuantConv2d):
                    module.__class__ = XnorConv2d
        return network
