"""Devices of a model in memory: one, or several GPUs where it does not fit on one."""

from __future__ import annotations

import logging

import torch

from methods.esparse.decoder import Decoder

log = logging.getLogger(__name__)

LARGEST_SHARE = 0.9  # of a GPU's free memory for weights that lie on it alone
SHARE_OF_SEVERAL = 0.8  # of each GPU's free memory for weights that are spread; hidden states need the rest


def place(decoder: Decoder, device: torch.device) -> None:
    """Move a model to a device, and its blocks to other GPUs too where it does not fit on this one.

    Blocks are placed whole by accelerate, whose hooks move hidden states and arguments to the device of a block.

    Args:
        decoder: model.
        device: device of the run.

    Raises:
        ValueError: if the model does not fit on all GPUs together.
    """
    free = free_memory() if device.type == "cuda" else []
    size = sum(tensor.numel() * tensor.element_size() for tensor in decoder.model.parameters())
    if len(free) < 2 or size <= LARGEST_SHARE * free[device.index or 0]:
        decoder.model.to(device)
        return
    spread(decoder, {i: int(SHARE_OF_SEVERAL * size) for i, size in enumerate(free)})


def free_memory() -> list[int]:
    """Return the free bytes of each visible GPU."""
    return [torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count())]


def spread(decoder: Decoder, limits: dict[int | str, int]) -> None:
    """Place the blocks of a model on several devices.

    Args:
        decoder: model.
        limits: bytes of weights for each device.

    Raises:
        ValueError: if the model does not fit, or accelerate is not installed.
    """
    try:
        from accelerate import dispatch_model, infer_auto_device_map
    except ImportError as error:
        raise ValueError(
            "the model does not fit on one GPU, and spreading it over several needs accelerate: pip install .[llm]. "
            "Or prune it block by block with method.stream=true"
        ) from error
    whole = sorted({type(block).__name__ for block in decoder.blocks})
    places = infer_auto_device_map(decoder.model, max_memory=dict(limits), no_split_module_classes=whole)
    if left_over := [name for name, place in places.items() if place not in limits]:
        raise ValueError(
            f"the model does not fit in the memory of {len(limits)} devices ({left_over[0]}, ... are left over): "
            "prune it block by block with method.stream=true"
        )
    log.info("spread over %d devices: %s", len(set(places.values())), places)
    dispatch_model(decoder.model, device_map=places, force_hooks=True)
