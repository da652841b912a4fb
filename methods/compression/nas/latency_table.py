"""A table of measured latencies of single blocks, which predicts the latency of a chain as a sum."""

from __future__ import annotations

import json
import logging
import platform
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from methods.compression.files import write_json
from methods.compression.latency import time_in_turns
from methods.compression.nas.chain_space import SKIP, BlockPlace, ChainNetwork, ChainSpace, make_block
from methods.compression.stage import Context

log = logging.getLogger(__name__)


def host_signature() -> dict[str, str]:
    """Return what a latency depends on beside the network."""
    return {
        "machine": platform.machine(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
    }


def key_of(operation: str, place: BlockPlace) -> str:
    """Return the key of a block in the table."""
    return f"{operation} {place.channels}->{place.width} at {place.size}, stride {place.stride}"


class LatencyTable:
    """Latencies of blocks in milliseconds, by key, and of what all chains share.

    Args:
        blocks: latency of each block.
        rest: latency of stem and head.
        host: where it was measured.
    """

    def __init__(self, blocks: dict[str, float], rest: float = 0.0, host: dict[str, str] | None = None) -> None:
        self.blocks, self.rest, self.host = blocks, rest, host or host_signature()

    def __getitem__(self, key: str) -> float:
        return 0.0 if key.startswith(SKIP) else self.blocks[key]

    def predict(self, space: ChainSpace, architecture: tuple[str, ...], image_size: int) -> float:
        """Return the latency of a chain: the sum over its blocks, and the rest."""
        places = space.places(image_size)
        return self.rest + sum(self[key_of(o, p)] for o, p in zip(architecture, places, strict=True))

    def save(self, path: Path) -> None:
        """Write the table as JSON."""
        write_json(path, {"host": self.host, "rest": self.rest, "blocks": self.blocks})

    @classmethod
    def load(cls, path: Path, anywhere: bool = False) -> LatencyTable:
        """Read a table.

        Args:
            path: file.
            anywhere: take a table that was measured on another machine too.

        Raises:
            ValueError: it is damaged, or was measured on another machine.
        """
        try:
            content = json.loads(path.read_text())
            table = cls(content["blocks"], content["rest"], content["host"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"lut={path} cannot be read: {error}") from error
        if not anywhere and table.host != host_signature():
            raise ValueError(f"lut={path} was measured elsewhere ({table.host}), this machine is {host_signature()}")
        return table


def measure_table(
    space: ChainSpace, dims: dict[str, Any], repeats: int = 30, block_seconds: float = 0.005
) -> LatencyTable:
    """Measure every block of a space for one image; the cost of calling an empty module is subtracted.

    Args:
        space: space.
        dims: dims of the images.
        repeats: timed blocks of each.
        block_seconds: shortest duration of a block.
    """
    modules: dict[str, tuple[nn.Module, torch.Tensor]] = {}
    for place in space.places(dims["image_size"]):
        for operation in space.operations:
            x = torch.randn(1, place.channels, place.size, place.size)
            modules.setdefault(key_of(operation, place), (make_block(operation, place).eval(), x))
    base = ChainNetwork(
        space, [SKIP if p.can_skip else space.operations[0] for p in space.places(dims["image_size"])], **dims
    )
    image = torch.rand(1, dims["in_channels"], dims["image_size"], dims["image_size"])
    kept = [p for p in space.places(dims["image_size"]) if not p.can_skip]
    with torch.inference_mode():
        calls: dict[str, Any] = {key: partial(m, x) for key, (m, x) in modules.items()}
        calls["empty"] = partial(nn.Identity(), image)
        base.eval()
        calls["base"] = partial(base, image)
        times = {name: float(np.median(t)) for name, t in time_in_turns(calls, repeats, block_seconds, 5).items()}
    empty, whole = times.pop("empty"), times.pop("base")
    blocks = {key: max(value - empty, 0.0) for key, value in times.items()}
    rest = max(whole - sum(blocks[key_of(space.operations[0], p)] for p in kept), 0.0)
    return LatencyTable(blocks, rest)


def additivity(
    table: LatencyTable, space: ChainSpace, dims: dict[str, Any], count: int = 20, seed: int = 0
) -> dict[str, float]:
    """Compare predicted with measured latencies of random chains.

    Returns:
        mape: mean relative error; kendall_tau: rank correlation.
    """
    from scipy.stats import kendalltau

    rng = random.Random(seed)
    chains = [space.random(rng, dims["image_size"]) for _ in range(count)]
    image = torch.rand(1, dims["in_channels"], dims["image_size"], dims["image_size"])
    networks = {str(i): ChainNetwork(space, chain, **dims).eval() for i, chain in enumerate(chains)}
    with torch.inference_mode():
        times = time_in_turns({n: partial(m, image) for n, m in networks.items()}, 7, 0.005)
    measured = np.array([float(np.median(times[str(i)])) for i in range(count)])
    predicted = np.array([table.predict(space, chain, dims["image_size"]) for chain in chains])
    error = float(np.mean(np.abs(predicted - measured) / measured))
    return {"lut_mape": error, "lut_kendall_tau": float(kendalltau(predicted, measured).statistic)}


def table_for(space: ChainSpace, context: Context, lut: str | None) -> LatencyTable:
    """Return the table of a file, or measure it, and write the file if it does not exist.

    Without a file the table is kept in the folder of the stage, so that a resumed search goes on with the same numbers.

    Args:
        space: space.
        context: context of the search.
        lut: file; None: measured in the run.
    """
    own = context.folder / "lut.json" if context.folder and lut is None else None
    path = own or (Path(lut) if lut else None)
    if path is not None and path.exists():
        return LatencyTable.load(path, anywhere=path == own)
    size = context.dims["image_size"]
    log.info("measuring the latency of %d blocks", len(space.operations) * len(set(space.places(size))))
    table = measure_table(space, context.dims)
    if path is not None:
        table.save(path)
    return table
