"""Measurements of speed, small."""

from __future__ import annotations

import pytest

from datasets.faces.detect import make_detector
from scripts.bench_faces import main


def test_inference_and_training(capsys):
    main(["inference", "--width", "4", "--repeats", "1"])
    main(["training", "--width", "4", "--repeats", "1", "--batch", "2"])
    printed = capsys.readouterr().out
    for name in ("pos: ", "flowmean: ", "network of width 4: ", "4 windows a step: "):
        assert name in printed


def test_front_end(capsys, monkeypatch):
    pytest.importorskip("av")
    pytest.importorskip("cv2")
    try:
        make_detector("ultralight")
    except ValueError as error:
        pytest.skip(str(error))
    monkeypatch.setattr("scripts.bench_faces.SIZE", (96, 128))
    main(["frontend", "--repeats", "1", "--seconds", "2"])
    assert "plain loop: " in capsys.readouterr().out
