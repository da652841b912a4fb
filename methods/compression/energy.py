"""Energy of an inference: measured by a sensor where there is one, else estimated by a model of 45 nm hardware."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

RAPL = Path("/sys/class/powercap")
# Picojoules in 45 nm (Horowitz, ISSCC 2014) by bits of the operands: multiplication, addition to the accumulator.
MULTIPLY_PJ = {32: 3.7, 16: 1.1, 8: 0.2}
ADD_PJ = {32: 0.9, 16: 0.4, 8: 0.1}  # 8-bit products are added in 32-bit integers
SRAM_PJ, DRAM_PJ = 5.0, 640.0  # access to 32 bits: 8 KB of SRAM, DRAM


class Energy(NamedTuple):
    """Energy of one image.

    Args:
        joules: energy.
        source: `rapl`, `nvml` (measured) or `model45nm` (estimated).
    """

    joules: float
    source: str


def estimate(bops: int, weight_bits: int, activation_values: int) -> Energy:
    """Estimate the energy of one image.

    Arithmetic falls with the product of the bits of weight and input, anchored at the table's 32-bit multiplication
    and addition; each weight is read once from DRAM, each activation is written to and read from SRAM. It orders
    networks, and is no prediction of a device.

    Args:
        bops: bit operations, the sum of multiply-accumulates x weight bits x input bits.
        weight_bits: bits of all weights.
        activation_values: number of activations of all layers.
    """
    arithmetic = bops / 1024 * (MULTIPLY_PJ[32] + ADD_PJ[32])
    memory = weight_bits / 32 * DRAM_PJ + 2 * activation_values * SRAM_PJ
    return Energy((arithmetic + memory) * 1e-12, "model45nm")


def rapl_counters(root: Path = RAPL) -> dict[Path, int]:
    """Return the energy counters of the processor packages in microjoules; empty where they cannot be read."""
    counters = {}
    for path in sorted(root.glob("intel-rapl:*/energy_uj")):
        if path.parent.name.count(":") > 1:
            continue  # a part of a package
        try:
            counters[path] = int(path.read_text())
        except OSError:
            return {}
    return counters


def rapl_difference(before: dict[Path, int], after: dict[Path, int]) -> float:
    """Return the joules between two readings; a counter that started again is continued."""
    total = 0
    for path, start in before.items():
        difference = after[path] - start
        if difference < 0:
            difference += int((path.parent / "max_energy_range_uj").read_text())
        total += difference
    return total * 1e-6


def nvml_millijoules() -> int | None:
    """Return the energy counter of the first GPU; None without nvidia-ml-py, driver or counter."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByIndex(0)))
    except Exception:
        return None


def measure(call: Callable[[], object], images: int, on_gpu: bool, seconds: float = 10.0) -> Energy | None:
    """Measure the energy of an image by a sensor; the energy of an idle machine is subtracted.

    Args:
        call: a forward pass.
        images: images of a pass.
        on_gpu: read the GPU's counter instead of the processor's.
        seconds: duration of the measurement, and of the idle time before it.

    Returns:
        The energy, or None where there is no sensor.
    """
    read: Callable[[], Any] = nvml_millijoules if on_gpu else rapl_counters
    difference = (lambda before, after: 1e-3 * (after - before)) if on_gpu else rapl_difference
    start, begun = read(), time.perf_counter()
    if not start:
        return None
    time.sleep(seconds)
    middle, waited, passes = read(), time.perf_counter() - begun, 0
    while time.perf_counter() - begun < 2 * waited:
        call()
        passes += 1
    end, taken = read(), time.perf_counter() - begun - waited
    if not middle or not end:
        return None
    used = difference(middle, end) - difference(start, middle) * taken / waited
    return Energy(max(used, 0.0) / (passes * images), "nvml" if on_gpu else "rapl")
