"""Benchmarks of E-Sparse: their arguments, the commands in the docs, and the loop that the shuffle is timed against."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest
import torch

from methods.esparse.channel_shuffle import local_block_shuffle
from methods.esparse.group_ranking import retained_score
from scripts import bench_esparse

PAGE = Path(__file__).parents[2] / "docs" / "methods" / "esparse.md"
COMMANDS = re.findall(r"^    python -m (.+?)(?:\s+#.*)?$", PAGE.read_text().replace("\\\n", " "), re.MULTILINE)


def arguments_of(module: str) -> list[list[str]]:
    """Arguments of each command of a module on the page."""
    commands = [shlex.split(command) for command in COMMANDS]
    return [words for name, *words in commands if name == module]


@pytest.mark.parametrize("module", ["scripts.bench_esparse", "scripts.bench_sparse_gemm", "scripts.random_llama"])
def test_benchmarks_on_the_page_have_valid_arguments(module):
    commands = arguments_of(module)
    assert commands
    for words in commands:
        importlib.import_module(module).parse_arguments(words)


@pytest.mark.parametrize("columns", [8, 24])
def test_the_loop_over_pairs_retains_the_same_score(columns):
    scores = torch.rand(20, columns, generator=torch.Generator().manual_seed(0)) ** 3
    loop = bench_esparse.pair_loop(scores, 8)
    fast = local_block_shuffle(scores, torch.arange(columns), 2, 4, columns, assignment_rounds=0, max_sweeps=8)
    assert sorted(loop.tolist()) == list(range(columns))
    assert retained_score(scores, loop, 2, 4) == pytest.approx(retained_score(scores, fast, 2, 4), rel=1e-6)


def test_no_repeats_leave_the_runs_out(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench", "--columns", "8", "--rows", "4", "--repeats", "0"])
    monkeypatch.setattr(bench_esparse, "compare_runs", lambda *_: pytest.fail("a model was pruned"))
    bench_esparse.main()
    printed = capsys.readouterr().out
    assert "(a) local block shuffle of 8 columns and 4 rows" in printed
    assert "ratio" in printed
    assert "(b)" not in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--repeats", "-1"], "argument --repeats: must be at least 0, got -1"),
        (["--columns", "0"], "argument --columns: must be at least 1, got 0"),
        (["--columns", "10"], "--columns must be a multiple of 4"),
        (["--threads", "0"], "argument --threads: must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused(words, message, capsys):
    with pytest.raises(SystemExit) as error:
        bench_esparse.parse_arguments(words)
    assert error.value.code == 2
    assert message in capsys.readouterr().err
