"""Predictions for image files: a CSV with the probability of each class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
    for batch, pictures in picture_batches(files, data, "predicting, batch"):
        probabilities = network(pictures.float() / 255).softmax(1).tolist()
        rows += probabilities_rows([str(path) for path in batch], probabilities, data.classes)
    return [write_rows(out / "predictions.csv", ["file", "predicted", *data.classes], rows)]


def picture_batches(files: list[Path], data: Any, what: str) -> Iterator[tuple[list[Path], Tensor]]:
    """Yield image files in evaluation batches, with their pictures (B, C, H, W) uint8 as the data read theirs.

    Args:
        files: image files.
        data: DataModule that the network was trained on.
        what: name of the progress display.
    """
    for start in track(range(0, len(files), data.eval_batch_size), what):
        batch = files[start : start + data.eval_batch_size]
        yield batch, torch.stack([data.read_picture(path) for path in batch])
