"""The benchmark of attacks: that its contestants do the same, and that it prints a table of them."""

from __future__ import annotations

import pytest
import torch

from scripts import bench_attacks
from tests.methods.networks import batch, small_network


def test_contestants_attack_alike():
    pytest.importorskip("foolbox")
    network, (x, y) = small_network(channels=3), batch(channels=3)
    contestants = bench_attacks.attackers(network, 3, bf16=False)
    expected = contestants.pop("published loop")(x, y)
    for name, attack in contestants.items():
        apart = (attack(x, y) - expected).abs() > 1e-3
        assert apart.float().mean() < (0.05 if "channels_last" in name else 1e-6), name
    losses = [step(x, y) for step in bench_attacks.trainers(network, 3, bf16=False).values()]
    assert all(torch.isclose(loss, losses[0], rtol=1e-2) for loss in losses)


def test_the_benchmark_prints_speed_and_differences(capsys):
    pytest.importorskip("foolbox")
    threads = torch.get_num_threads()
    try:
        bench_attacks.main(["--model", "smallcnn", "--batch", "4", "--steps", "1", "--repeats", "1", "--threads", "1"])
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    assert "smallcnn, batches of 4, 1 steps, 1 threads" in printed
    assert "CPU capability" in printed
    for name in ("foolbox", "published loop", "ours, contiguous", "ours, channels_last"):
        assert f"\n{name} " in printed
