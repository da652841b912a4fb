"""Operation counts of one forward pass, and the energy estimate that goes with them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d

from methods.esvae.networks import SpikingBlock
from methods.esvae.readout import AttentionReadout, MembraneReadout

ADDITION_PJ, MULTIPLY_ACCUMULATE_PJ = 0.9, 4.6  # 45 nm, 32-bit floating point (Horowitz, ISSCC 2014)


class Operations(NamedTuple):
    """Operations of a layer, summed over the batch and all time steps.

    Args:
        additions: additions that are no part of a multiply-accumulate: one for each spike and synapse, and one for
            each neuron and step.
        multiplications: multiply-accumulates on real-valued inputs, and one decay for each neuron and step.
    """

    additions: float
    multiplications: float

    @property
    def energy(self) -> float:
        """Energy in microjoules: 0.9 pJ an addition, 4.6 pJ a multiply-accumulate."""
        return (self.additions * ADDITION_PJ + self.multiplications * MULTIPLY_ACCUMULATE_PJ) * 1e-6


def synapses_used(layer: nn.Module, x: Tensor) -> float:
    """Return the number of pairs of a non-zero input and an output that it reaches.

    Borders are exact: the layer runs with a kernel of ones on the number of non-zero channels at each place.

    Args:
        layer: linear layer, convolution or transposed convolution, without groups and dilation.
        x: its input, the merged batch.
    """
    used = (x != 0).to(torch.float64)
    if isinstance(layer, nn.Linear):
        return float(used.sum()) * layer.out_features
    if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        raise TypeError(f"operations of {type(layer).__name__} cannot be counted")
    used = used.sum(1, keepdim=True)
    ones = torch.ones(1, 1, *layer.kernel_size, dtype=used.dtype, device=used.device)
    if isinstance(layer, nn.ConvTranspose2d):
        reached = conv_transpose2d(used, ones, None, layer.stride, layer.padding, layer.output_padding)  # type: ignore[arg-type]
    else:
        reached = conv2d(used, ones, None, layer.stride, layer.padding)  # type: ignore[arg-type]
    return float(reached.sum()) * layer.out_channels


def layer_operations(layer: nn.Module, x: Tensor, repeats: int) -> Operations:
    """Return the operations of a layer without memory: additions for spikes, multiply-accumulates for real inputs.

    Args:
        layer: layer, as in `synapses_used`.
        x: its input, the merged batch. Values other than 0 and 1 make it real-valued.
        repeats: number of time steps that this input stands for.
    """
    if bool(((x == 0) | (x == 1)).all()):
        return Operations(repeats * synapses_used(layer, x), 0.0)
    return Operations(0.0, repeats * synapses_used(layer, torch.ones_like(x)))


@torch.no_grad()
def count_operations(network: nn.Module, run: Callable[[], Any]) -> dict[str, Operations]:
    """Return the operations of each layer, its neurons included, in the order they run.

    Batch normalisation is folded into the layer before it and costs nothing. The readout's layer is counted as it
    runs on spikes, step by step, not in the collapsed form that is computed here. The counter of the official
    code differs: it takes output shapes for input shapes, counts the first convolution of the large network as
    spiking, and divides by the number of batches.

    Args:
        network: network whose layers are watched.
        run: forward pass to count, such as `lambda: network(x)`.
    """
    counts: dict[str, Operations] = {}

    def add(name: str, new: Operations) -> None:
        old = counts.get(name, Operations(0.0, 0.0))
        counts[name] = Operations(old.additions + new.additions, old.multiplications + new.multiplications)

    with ExitStack() as stack:
        for name, module in network.named_modules():
            if (count := _counter(name, module)) is not None:
                hook = partial(_on_forward, add, name, count)
                stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        run()
    return counts


Counter = Callable[[Any, Tensor, Tensor], Operations]


def _on_forward(
    add: Callable[[str, Operations], None],
    name: str,
    count: Counter,
    module: nn.Module,
    inputs: tuple[Any, ...],
    options: dict[str, Any],
    output: Tensor,
) -> None:
    add(name, count(module, inputs[0], output))


def _counter(name: str, module: nn.Module) -> Counter | None:
    """Return how the operations of a module are counted; None where they belong to another module."""
    if isinstance(module, SpikingBlock):
        return _count_block
    if isinstance(module, MembraneReadout | AttentionReadout):
        return lambda readout, x, _: layer_operations(readout.layer, x.flatten(0, 1), 1)
    inside = name.endswith((".layer", ".mixing"))
    if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d) and not inside:
        return lambda layer, x, _: layer_operations(layer, x, 1)
    return None


def _count_block(block: SpikingBlock, x: Tensor, spikes: Tensor) -> Operations:
    """Return the operations of the layer and the neurons."""
    layer = layer_operations(block.layer, x.flatten(0, 1), repeats=len(spikes) // len(x))
    neurons = float(spikes.numel())
    return Operations(layer.additions + neurons, layer.multiplications + neurons)
