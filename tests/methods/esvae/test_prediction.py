"""Reconstructions of image files, compared with the network on the same images."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from datasets.images.datamodule import Digits
from methods.esvae.module import AutoencoderTraining
from methods.esvae.networks import ESVAE, SAE

SMALL = {"latent_dim": 8, "steps": 2, "widths": (8, 16, 16)}


@pytest.fixture(scope="module")
def digits():
    data = Digits(size=16, batch_size=32, eval_batch_size=4, limit_train=64, limit_test=16, validate_on_test=True)
    data.setup()
    return data


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 16, 16), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number}.png")
    return folder, torch.from_numpy(pixels)[:, None].float() / 127.5 - 1


def make(network, data):
    pl.seed_everything(0, verbose=False)
    module = AutoencoderTraining(network(1, 16, **SMALL), sample_batch_size=2)
    module.prepare(data)
    return module.eval().requires_grad_(False)


def read(path):
    image = np.asarray(Image.open(path))
    return torch.from_numpy(image.copy()).float() / 127.5 - 1


def test_files_are_reconstructed_as_the_network_does(digits, pictures, tmp_path):
    folder, x = pictures
    module = make(ESVAE, digits)
    table, *files = module.predict_files([folder], tmp_path, digits)
    torch.manual_seed(module.seed)
    expected = torch.cat([module(part) for part in x.split(4)])
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [str(folder / f"{i}.png") for i in range(6)]
    assert [row["reconstruction"] for row in rows] == [str(path) for path in files]
    errors = ((expected - x) ** 2).mean((1, 2, 3)).tolist()
    assert [float(row["error"]) for row in rows] == pytest.approx(errors, abs=1e-5)
    for path, image in zip(files, expected[:, 0], strict=True):
        assert (read(path) - image).abs().max() < 1.01 / 255


def test_images_are_generated_from_the_prior(digits, pictures, tmp_path):
    module = make(ESVAE, digits)
    written = module.predict_files([pictures[0]], tmp_path, digits, samples=3)
    samples = [path for path in written if path.parent.name == "samples"]
    assert [path.name for path in samples] == ["00001.png", "00002.png", "00003.png"]
    assert all(read(path).shape == (16, 16) for path in samples)


def test_a_network_without_prior_generates_nothing(digits, pictures, tmp_path):
    with pytest.raises(ValueError, match="it generates nothing"):
        make(SAE, digits).predict_files([pictures[0]], tmp_path, digits, samples=1)
    with pytest.raises(ValueError, match="must not be negative"):
        make(ESVAE, digits).predict_files([pictures[0]], tmp_path, digits, samples=-1)
