"""Predictions for image files: a CSV with the probability of each class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from datasets.images.folder import SUFFIXES
from datasets.prediction import files_below, network_of, probabilities_rows, write_rows
from datasets.progress import track


def predict_images(paths: list[Path], out: Path, module: Any, data: Any) -> list[Path]:
    """Write `predictions.csv`: file, predicted class and the probability of each class, for every image.

    Images are read as the training images are: grey or RGB, resized without keeping proportions, or their centre.

    Args:
        paths: image files, or folders of them.
        out: folder of the CSV.
        module: method with a network from images (B, C, H, W) in [0, 1] to logits (B, K).
        data: DataModule that the network was trained on.
    """
    if data.task != "image-classification":
        raise ValueError(f"images are predicted for image-classification, not for {data.task}")
    files = files_below(paths, SUFFIXES, "images")
    network, rows = network_of(module), []
    for start in track(range(0, len(files), data.eval_batch_size), "predicting, batch"):
        batch = files[start : start + data.eval_batch_size]
        x = torch.stack([data.read_picture(path) for path in batch]).float() / 255
        probabilities = network(x).softmax(1).tolist()
        rows += probabilities_rows([str(path) for path in batch], probabilities, data.classes)
    return [write_rows(out / "predictions.csv", ["file", "predicted", *data.classes], rows)]
