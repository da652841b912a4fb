"""Reconstructions of image files, and images generated from the prior."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from datasets.images.folder import SUFFIXES
from datasets.images.prediction import picture_batches
from datasets.prediction import files_below, write_rows


def reconstruct_files(paths: list[Path], out: Path, module: Any, data: Any, samples: int) -> list[Path]:
    """Write `reconstructions/<number>.png` for each image, `reconstructions.csv`, and `samples/<number>.png`.

    Columns of the CSV: file, reconstruction (its path), and the mean squared error on the [-1, 1] scale. Images are
    read as the training images are, and numbered from 1 in the order of the command line. Sampling of the latents
    starts from the run's seed.

    Args:
        paths: image files, or folders of them.
        out: folder of the results.
        module: trained autoencoder with `forward` and `generate`.
        data: DataModule that it was trained on.
        samples: number of images generated from the prior.

    Raises:
        ValueError: there is no image, `samples` is negative, or the network generates nothing.
    """
    if samples < 0:
        raise ValueError(f"samples must not be negative, got {samples}")
    if samples and not module.network.generative:
        raise ValueError("samples: this network only reconstructs, it generates nothing")
    files = files_below(paths, SUFFIXES, "images")
    torch.manual_seed(module.seed)
    rows: list[list[Any]] = []
    for batch, pictures in picture_batches(files, data, "reconstructing, batch"):
        x = pictures.float() / 127.5 - 1
        reconstructed = module(x)
        targets = save_images(reconstructed, out / "reconstructions", first=len(rows) + 1)
        errors = mse_loss(reconstructed.float(), x, reduction="none").mean((1, 2, 3)).tolist()
        rows += [[str(f), str(t), f"{e:.6f}"] for f, t, e in zip(batch, targets, errors, strict=True)]
    written = [write_rows(out / "reconstructions.csv", ["file", "reconstruction", "error"], rows)]
    written += [Path(row[1]) for row in rows]
    for start in range(0, samples, module.sample_batch_size):
        count = min(module.sample_batch_size, samples - start)
        written += save_images(module.generate(count), out / "samples", first=start + 1)
    return written


def save_images(images: Tensor, folder: Path, first: int) -> list[Path]:
    """Save images (N, C, H, W) in [-1, 1] as PNG files, grey or RGB, and return their paths.

    Args:
        images: images.
        folder: folder of the files, made if it is missing.
        first: number of the first image.
    """
    from PIL import Image

    folder.mkdir(exist_ok=True)
    pixels = ((images + 1) * 127.5).clamp(0, 255).round().byte().permute(0, 2, 3, 1).numpy()
    paths = [folder / f"{number:05d}.png" for number in range(first, first + len(pixels))]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(path)
    return paths
