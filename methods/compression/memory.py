"""Peak memory of the activations of a forward pass, by what is alive while it runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from methods.attacks import mode_of


class LiveBytes(TorchDispatchMode):
    """Mode that follows which results of operations are alive.

    Attributes:
        peak: largest number of bytes that were alive after an operation.

    Args:
        known: tensors that are not counted, such as weights.
    """

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage()._cdata for tensor in known}
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.alive = {key: entry for key, entry in self.alive.items() if not entry[0].expired()}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.known:
                    self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return result


@torch.inference_mode(False)
@torch.no_grad()
def peak_activation_bytes(network: nn.Module, x: Tensor) -> int:
    """Return the largest number of bytes of activations alive at once in a forward pass, the input included.

    Buffers inside of kernels are not seen.

    Args:
        network: network; it runs in eval mode.
        x: input (B, C, H, W).
    """
    known = [*network.parameters(), *network.buffers(), x]
    with mode_of(network, training=False), LiveBytes(known) as live:
        network(x)
    return live.peak + x.numel() * x.element_size()
