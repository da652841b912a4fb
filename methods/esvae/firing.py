"""Firing rates of the layers of a network, gathered while it runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from methods.esvae.lif import LIF

log = logging.getLogger(__name__)


class FiringRates:
    """Mean number of spikes per neuron and step of each layer, over all forward passes since `clear`.

    Args:
        network: network whose `LIF` layers are watched.
    """

    def __init__(self, network: nn.Module) -> None:
        self.layers = {
            name.removesuffix(".neuron"): module for name, module in network.named_modules() if isinstance(module, LIF)
        }
        self.sums: dict[str, Tensor] = {}
        self.calls: dict[str, int] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count the spikes of forward passes inside the `with` statement."""
        handles = [
            module.register_forward_hook(lambda _, __, spikes, name=name: self._add(name, spikes))
            for name, module in self.layers.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _add(self, name: str, spikes: Any) -> None:
        self.sums[name] = self.sums.get(name, 0) + spikes.detach().mean()
        self.calls[name] = self.calls.get(name, 0) + 1

    def rates(self) -> dict[str, float]:
        """Return the rates of the layers that have run, in the order of the network."""
        return {name: float(self.sums[name]) / self.calls[name] for name in self.layers if name in self.sums}

    def clear(self) -> None:
        """Forget what was counted."""
        self.sums, self.calls = {}, {}

    def warn_of_silence(self) -> list[str]:
        """Log a warning that names the layers without a single spike; return their names."""
        silent = [name for name, rate in self.rates().items() if rate == 0]
        if silent:
            log.warning(
                "no neuron fired in the validation images in %s: reconstructions cannot depend on the images. "
                "Lower method.lr, or check that images are not constant",
                ", ".join(silent),
            )
        return silent
