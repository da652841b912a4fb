"""Numbers on the command lines of scripts."""

from __future__ import annotations

import argparse
import importlib
import re

import pytest

from runner.config.place import CONF
from scripts.arguments import not_negative, not_negative_number, positive, positive_number

SCRIPTS = CONF.parent / "scripts"


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (positive, {"1": 1, "12": 12}, ["0", "-1", "1.5", "abc", ""]),
        (not_negative, {"0": 0, "12": 12}, ["-1", "0.5", "abc"]),
        (positive_number, {"0.5": 0.5, "3": 3.0}, ["0", "-0.5", "nan", "inf", "abc"]),
        (not_negative_number, {"0": 0.0, "2.5": 2.5}, ["-0.5", "nan", "inf", "abc"]),
    ],
)
def test_numbers_are_read_or_refused(kind, good, bad):
    assert {text: kind(text) for text in good} == good
    for text in bad:
        with pytest.raises((argparse.ArgumentTypeError, ValueError)):
            kind(text)


@pytest.mark.parametrize(
    ("script", "words", "said"),
    [
        ("render_faces", ["out", "--sessions", "0"], "argument --sessions: must be at least 1, got 0"),
        ("render_faces", ["out", "--seconds", "0"], "argument --seconds: must be above 0, got 0"),
        ("render_faces", ["out", "--level", "-1"], "argument --level: must be at least 0, got -1"),
        ("render_faces", ["out", "--seed", "-1"], "argument --seed: must be at least 0, got -1"),
        ("prepare_ctr", ["generate", "file", "--rows", "-5"], "argument --rows: must be at least 1, got -5"),
        ("bench_ctr", ["step", "--batch", "0"], "argument --batch: must be at least 1, got 0"),
        ("measure_video", ["a.mp4", "--step", "0"], "argument --step: must be above 0, got 0"),
        ("build_stmaps", ["own", "a", "b", "--grid", "0"], "argument --grid: must be at least 1, got 0"),
        ("random_llama", ["7b", "out", "--layers", "0"], "argument --layers: must be at least 1, got 0"),
    ],
)
def test_scripts_refuse_numbers_that_make_no_sense(script, words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [script, *words])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"scripts.{script}").main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_numbers_of_scripts_have_a_range():
    unlimited = {"--seed", "--box", "--val", "--test"}  # any number, pixels, and shares that are checked together
    for file in sorted(SCRIPTS.glob("*.py")):
        for option, _ in re.findall(r'add_argument\(\s*"(--[\w-]+)"[^)]*?type=(int|float)\b', file.read_text()):
            assert option in unlimited, f"{file.name}: {option}"
