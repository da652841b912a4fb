"""Latency of several functions, measured in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn


class Latency(NamedTuple):
    """Latency of a call in milliseconds.

    Args:
        p50: median.
        p90: 90th percentile.
        iqr: distance of the quartiles.
    """

    p50: float
    p90: float
    iqr: float


def forward_call(network: nn.Module, x: Tensor) -> Callable[[], object]:
    """Return a function that runs a network on each image of a batch by itself, and waits until a GPU has done so."""
    images = x.split(1)

    def call() -> None:
        for image in images:
            network(image)
        if x.is_cuda:
            torch.cuda.synchronize()

    return call


def time_in_turns(
    calls: Mapping[str, Callable[[], object]], repeats: int = 20, block_seconds: float = 0.02, warmup: int = 3
) -> dict[str, np.ndarray]:
    """Return milliseconds of a call for each repeat of each function.

    The functions take turns, so that a busy moment of the machine hits all of them. A block of calls lasts at least
    `block_seconds`.

    Args:
        calls: functions by name.
        repeats: number of blocks of each function.
        block_seconds: shortest duration of a block.
        warmup: calls before the measurement.

    Returns:
        (repeats,) by name.
    """
    counts = {}
    for name, call in calls.items():
        for _ in range(warmup):
            call()
        started = time.perf_counter()
        call()
        counts[name] = max(1, int(np.ceil(block_seconds / max(time.perf_counter() - started, 1e-9))))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            started = time.perf_counter()
            for _ in range(counts[name]):
                call()
            times[name].append(1000 * (time.perf_counter() - started) / counts[name])
    return {name: np.array(values) for name, values in times.items()}


def summarize(times: np.ndarray) -> Latency:
    """Return median, 90th percentile and distance of the quartiles."""
    q25, p50, q75, p90 = np.percentile(times, [25, 50, 75, 90])
    return Latency(float(p50), float(p90), float(q75 - q25))


def speedup(base: np.ndarray, other: np.ndarray, seed: int = 0, draws: int = 2000) -> tuple[float, float, float]:
    """Return how many times faster `other` is than `base`: quotient of medians, and its 95 % bootstrap interval.

    Args:
        base: times of the first function, repeat by repeat.
        other: times of the second function, measured in turns with the first.
        seed: seed of the bootstrap.
        draws: number of bootstrap samples.
    """
    rng = np.random.default_rng(seed)
    index = rng.integers(0, len(base), (draws, len(base)))  # pairs stay together
    ratios = np.median(base[index], axis=1) / np.median(other[index], axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(np.median(base) / np.median(other)), float(low), float(high)
