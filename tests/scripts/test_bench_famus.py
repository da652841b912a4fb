"""The benchmark of FaMUS on a small network: contestants learn alike, and the command prints a line for each."""

from __future__ import annotations

import pytest
import torch

from scripts import bench_famus
from scripts.bench_famus import Benchmark


def weights_after_one_iteration(name: str) -> torch.Tensor:
    benchmark = Benchmark("smallcnn", batch_size=8, eligible=0, budget=1)
    torch.manual_seed(1)
    benchmark.contestants()[name]()
    return torch.cat([p.detach().flatten() for p in benchmark.weight_net.parameters()])


def test_the_published_loop_and_both_routes_learn_the_same_weight_net():
    published = weights_after_one_iteration(bench_famus.PUBLISHED)
    for name in ("MW-Net, unrolled", "MW-Net, forward mode"):
        torch.testing.assert_close(weights_after_one_iteration(name), published)
    torch.testing.assert_close(
        weights_after_one_iteration("FaMUS, unrolled"), weights_after_one_iteration("FaMUS, forward mode")
    )


@pytest.mark.slow  # a process for each contestant
def test_the_command_prints_all_contestants(monkeypatch, capsys):
    options = ["--models", "smallcnn", "--batch", "4", "--rounds", "1", "--threads", "1", "--eligible", "0"]
    monkeypatch.setattr("sys.argv", ["bench_famus", *options])
    bench_famus.main()
    printed = capsys.readouterr().out
    for name in Benchmark("smallcnn", 4, 0, 1).contestants():
        assert name in printed


def test_no_rounds_are_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench_famus", "--rounds", "0"])
    with pytest.raises(SystemExit) as ended:
        bench_famus.main()
    assert ended.value.code == 2
    assert "argument --rounds: must be at least 1, got 0" in capsys.readouterr().err
