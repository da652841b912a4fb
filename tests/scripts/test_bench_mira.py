"""The benchmark of MIRA's inversion and attacks: the command prints a line for each."""

from __future__ import annotations

import pytest

from scripts import bench_mira


def test_inversion_prints_the_ratio_to_the_published_loop(monkeypatch, capsys):
    options = ["--steps", "1", "--per-class", "2", "--rounds", "1", "--classes-per-batch", "1", "5"]
    monkeypatch.setattr("sys.argv", ["bench_mira", *options])
    bench_mira.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["published", "ours, 1 a batch", "ours, 5 a batch"]
    assert lines[0].endswith("1.00x")


def test_patterns_have_their_number_as_label():
    data = bench_mira.noisy_patterns(40)
    assert data.images.shape == (40, 1, 28, 28)
    same, other = (data.images[0] - data.images[i] for i in (10, 11))
    assert data.labels.tolist()[:11] == [*range(10), 0]
    assert same.norm() < other.norm()


@pytest.mark.slow  # a process for each attack
def test_attacks_print_seconds_and_memory(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench_mira", "--attacks", "mira/pruning,mira/ftll", "--images", "256"])
    bench_mira.main()
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["mira/pruning", "mira/ftll"]
    assert all(float(line.split()[2]) >= 0 for line in lines)
