"""Choice of the memory layout of images and weights."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def preferred_memory_format(device: torch.device, channels_last: bool | None = None) -> torch.memory_format:
    """Return the memory layout for a device.

    It is chosen by what torch reports, not by a measurement, so that a run repeats to the last digit: contiguous on
    CPUs for which torch uses AVX-512, channels_last on other CPUs and on GPUs.

    Args:
        device: device of the training.
        channels_last: True or False to choose the layout, None to follow the device.
    """
    if channels_last is None:
        channels_last = device.type != "cpu" or torch.backends.cpu.get_cpu_capability() != "AVX512"
    return torch.channels_last if channels_last else torch.contiguous_format


def to_memory_format(module: Module, layout: torch.memory_format) -> Module:
    """Convert the weights and buffers of a module in place and return it."""
    untyped: Any = module  # torch's type hints of Module.to lack memory_format
    return untyped.to(memory_format=layout)
