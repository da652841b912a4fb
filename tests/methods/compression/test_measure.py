"""The measurement sheet: counts, bits, memory, latency, energy."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from torch import nn

from methods.architectures.cifar_resnet import CifarResNet
from methods.compression import energy
from methods.compression.compact.group_conv import GroupConvNet
from methods.compression.energy import estimate, rapl_counters, rapl_difference
from methods.compression.figures import pipeline_figures, plot_cell, plot_pareto, plot_ranks, plot_sensitivity
from methods.compression.latency import speedup, summarize, time_in_turns
from methods.compression.lowrank.circulant import CirculantLinear
from methods.compression.macs import count_macs, effective_macs, layer_macs
from methods.compression.measure import add_latencies, count_parameters, markdown, measure, net_score, storage_bits
from methods.compression.memory import peak_activation_bytes
from methods.compression.quantization.post_training import FakePTQ
from tests.methods.compression.problems import context, dense, dims


def test_the_sheet_of_resnet_20_has_the_known_numbers():
    sheet = measure(CifarResNet(**dims()), torch.rand(1, 3, 32, 32), "resnet20", 0.9)
    assert (sheet.params, sheet.params_nonzero) == (269_722, 269_722 - 2 * 688 // 2)  # shifts start at zero
    assert sheet.macs == sheet.macs_effective == 40_551_040
    assert sheet.bops == 1024 * sheet.macs
    statistics = 2 * 688 * 32 + 19 * 64 + 6 * 32  # running statistics, counters, mean and std of the images
    assert sheet.bits <= 32 * 269_722 + statistics
    assert sheet.bits > 32 * 269_000
    assert 0 <= sheet.bytes_file - sheet.bits / 8 < 5000
    assert not sheet.simulated
    assert "| resnet20 | 90.00 |" in markdown([sheet])


def test_bits_follow_from_the_weights():
    network = nn.Sequential(nn.Linear(100, 100, bias=False))
    assert storage_bits(network) == 320_000
    with torch.no_grad():
        network[0].weight.copy_(torch.randint(0, 4, (100, 100)) * 0.5)
    assert storage_bits(network) <= 10_000 * 2 + 4 * 32
    with torch.no_grad():
        network[0].weight.zero_()
        network[0].weight[0, 7] = 1.0
    assert storage_bits(network) < 6000
    assert count_parameters(network) == (10_000, 1)


def test_effective_operations_leave_out_zeros():
    network, x = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, bias=False)), torch.rand(1, 2, 5, 5)
    network[0].weight.data[:, 1] = 0
    counts = layer_macs(network, x)
    assert counts == {"0": 25 * 4 * 18}
    assert effective_macs(network, counts) == 25 * 4 * 9


def test_simulated_networks_are_marked():
    sheet = measure(FakePTQ(4, 8)(dense(), context()), context().example)
    assert sheet.simulated
    assert sheet.bops == 32 * sheet.macs
    assert "(simulated)" in markdown([sheet])
    plain = measure(dense(), context().example)
    assert sheet.peak_memory == plain.peak_memory
    assert sheet.energy_j < plain.energy_j


def test_peak_memory_is_that_of_the_largest_moment():
    network = nn.Sequential(nn.Linear(10, 100), nn.Linear(100, 1000), nn.Linear(1000, 10))
    floats = 10 + 100 + 1000  # input, and both sides of the second layer
    assert peak_activation_bytes(network, torch.rand(1, 10)) == 4 * floats


def test_functions_are_timed_in_turns():
    times = time_in_turns({"a": lambda: time.sleep(0.002), "b": lambda: time.sleep(0.004)}, 5, 0.001, 1)
    ratio, low, high = speedup(times["b"], times["a"])
    assert 1.2 < ratio < 3
    assert low <= ratio <= high
    p50, p90, iqr = summarize(np.array([1.0, 2.0, 3.0, 4.0, 100.0]))
    assert (p50, iqr) == (3.0, 2.0)
    assert p90 > 4


def test_latencies_are_entered():
    sheets = [measure(dense(), context().example, name) for name in ("one", "two")]
    add_latencies(sheets, {"one": dense(), "two": dense()}, context().example, 9, 0.005)
    assert sheets[0].speedup == 1.0
    assert 0.4 < sheets[1].speedup < 2.5


def test_energy_is_read_from_counters_that_wrap(tmp_path):
    for package, value in enumerate((1_000_000, 9_000_000)):
        folder = tmp_path / f"intel-rapl:{package}"
        folder.mkdir()
        (folder / "energy_uj").write_text(f"{value}\n")
        (folder / "max_energy_range_uj").write_text("10000000\n")
    part = tmp_path / "intel-rapl:0:0"
    part.mkdir()
    (part / "energy_uj").write_text("5\n")
    before = rapl_counters(tmp_path)
    assert len(before) == 2
    after = dict(zip(before, (3_000_000, 500_000), strict=True))
    assert rapl_difference(before, after) == pytest.approx(2 + 1.5)
    assert rapl_counters(tmp_path / "none") == {}


def test_measured_energy_goes_on_over_the_end_of_a_counter(tmp_path, monkeypatch):
    counter = tmp_path / "energy_uj"
    (tmp_path / "max_energy_range_uj").write_text("1000000000\n")
    readings = iter([999_000_000, 999_500_000, 5_000_000])  # the counter starts again while the network runs
    monkeypatch.setattr(energy, "rapl_counters", lambda: {counter: next(readings)})
    passes = []
    joules, source = energy.measure(lambda: (passes.append(1), time.sleep(0.001)), 1, on_gpu=False, seconds=0.05)
    assert source == "rapl"
    assert joules == pytest.approx((5.5 - 0.5) / len(passes), rel=0.1)


def test_operations_of_own_layers_are_counted_by_layer():
    x = torch.rand(1, 3, 8, 8)
    network = GroupConvNet(widths=[3, 4], **dims(size=8))
    circulant = nn.Sequential(nn.Flatten(), CirculantLinear(192, 20), nn.Linear(20, 4))
    for net in (network, circulant):
        counts = layer_macs(net, x)
        assert sum(counts.values()) == count_macs(net, x)
        assert measure(net, x).macs_effective == count_macs(net, x)
    network.layers[4].weight.data[:, 0] = 0
    counts = layer_macs(network, x)
    saved = counts["layers.4"] // 3
    assert effective_macs(network, counts) == count_macs(network, x) - saved


def test_energy_is_none_without_a_sensor_and_estimated_by_the_table(monkeypatch):
    monkeypatch.setattr(energy, "rapl_counters", dict)
    assert energy.measure(lambda: None, 1, on_gpu=False, seconds=0.01) is None
    joules, source = estimate(bops=1024, weight_bits=32, activation_values=1)
    assert joules == pytest.approx((3.7 + 0.9 + 640 + 10) * 1e-12)
    assert source == "model45nm"


def test_net_score_is_its_formula():
    assert net_score(0.9, 1_000_000, 100_000_000) == pytest.approx(20 * math.log10(8100 / 10))


def test_figures_are_drawn_and_simulated_points_are_hollow():
    sheets = [measure(dense(), context().example, "dense", 0.9)]
    sheets.append(measure(FakePTQ(4)(dense(), context()), context().example, "ptq", 0.8))
    for sheet in sheets:
        sheet.latency_ms = 1.0
    figures = pipeline_figures(sheets, {"dense": dense(), "ptq": FakePTQ(4)(dense(), context())})
    assert set(figures) == {"pareto_bytes", "pareto_macs", "pareto_latency", "weights"}
    for draw in figures.values():
        draw()
    styles = [[line.get_fillstyle() for line in plot_pareto(sheets, axis).axes[0].lines] for axis in ("macs", "bytes")]
    assert styles == [["full", "none"], ["full", "full"]]
    plot_sensitivity({"a": {0.1: 0.9, 0.5: 0.2}})
    plot_ranks({"a": (3, 9), "b": (4, 8)})
    plot_cell([("sep_conv_3x3", 0, 2), ("skip_connect", 1, 2)], 6, "cell")
    import matplotlib.pyplot as plt

    plt.close("all")
