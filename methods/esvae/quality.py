"""Quality of generated images: feature networks, their statistics over the test images, and the metrics from them.

Every class here takes batches of generated images and returns metrics by name. Names say which network they rest on:
`fad` and `fad_batch` (feature autoencoder), `cfid`, `cis`, `ckid` (a classifier trained on the data set), `fid`, `is`,
`kid` (Inception). Values of different networks cannot be compared with each other.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor, nn

from methods.checkpoints import weights_below
from methods.esvae.ann import FeatureAutoencoder
from methods.esvae.classifier import FeatureNet
from methods.esvae.inception import InceptionV3, load_inception, resized_for_inception
from methods.esvae.metrics import Moments, frechet_distance, inception_score, kernel_distance, moments

log = logging.getLogger(__name__)

REFERENCE_BATCH = 256  # of the official statistics; the last batch of the test images has 16
# without `same`, so that methods with other batch sizes share the run
TRAINED_FEATURES = "\"+needs.feature_checkpoint.run=['method=esvae/feature_autoencoder','dataset=NAME']\""
KID_IMAGES = 2000  # at most, of each side: the kernel matrix grows with their square


class Quality(Protocol):
    """Metrics of generated images."""

    def update(self, images: Tensor) -> None:
        """Take a batch of generated images (N, C, H, W) in [-1, 1]."""

    def compute(self) -> dict[str, float]:
        """Return the metrics of all images since the last call, by name, and forget the images."""


@contextmanager
def batch_statistics(network: nn.Module) -> Iterator[None]:
    """Let batch normalisation use the statistics of the batch, without updating the running ones."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [(norm.training, norm.track_running_stats) for norm in norms]
    for norm in norms:
        norm.train()
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm, (training, tracks) in zip(norms, before, strict=True):
            norm.train(training)
            norm.track_running_stats = tracks


def scaled(images: Tensor) -> Tensor:
    """Return uint8 images as float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def load_state(path: Path) -> dict[str, Tensor]:
    """Return the weights of a network: of a run's checkpoint, or a plain state dict such as the official ones.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no weights.
    """
    if not path.is_file():
        raise FileNotFoundError(f"feature weights {path} are missing; put the file there or name another path")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"feature weights {path} cannot be read: {error}") from error
    if isinstance(content, dict) and "state_dict" in content:
        return weights_below(path, "network.")
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path} holds no state dict of a network")
    return content


def feature_autoencoder(path: Path, in_channels: int, image_size: int) -> FeatureAutoencoder:
    """Return the feature autoencoder of a checkpoint; widths and latent size are those of its weights.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the weights are of another network, or for images of other channels or size.
    """
    state = load_state(path)
    try:
        widths = [
            len(state[f"encoder.{i}.0.weight"])
            for i in range(sum(k.endswith(".0.bias") for k in state))
            if f"encoder.{i}.0.weight" in state
        ]
        network = FeatureAutoencoder(
            in_channels, image_size, widths=widths, latent_dim=len(state["latent_layer.weight"])
        )
        network.load_state_dict(state)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{path} holds no feature autoencoder for images of {in_channels} x {image_size} x {image_size}: {error}"
        ) from error
    return network.eval().requires_grad_(False)


class FrechetAutoencoderDistance:
    """FAD, the Frechet distance of features of an autoencoder, with both treatments of batch normalisation.

    The official code never puts the feature network into evaluation mode, so its values depend on the batches:
    `fad_batch` follows it (statistics of each batch; reference batches of 256 in file order) and compares with the
    published values. `fad` uses the running statistics for the generated and the reference images: a sound metric,
    but other numbers.

    Args:
        network: feature autoencoder.
        images: reference images (N, C, H, W) uint8, the test part in file order.
        official: published mean and covariance for `fad_batch`; None: computed from `images`.
    """

    def __init__(self, network: FeatureAutoencoder, images: Tensor, official: Moments | None = None) -> None:
        self.network, self.images, self.official = network, images, official
        self.batches: list[dict[str, Tensor]] = []

    @cached_property
    def reference(self) -> dict[str, Moments]:
        """Moments of the reference images' features, computed when the first generated ones are compared."""
        device = next(self.network.parameters()).device
        features = joined([self._features(scaled(batch.to(device))) for batch in self.images.split(REFERENCE_BATCH)])
        return {"fad": moments(features["fad"]), "fad_batch": self.official or moments(features["fad_batch"])}

    def update(self, images: Tensor) -> None:
        """Take a batch of generated images (N, C, H, W) in [-1, 1]."""
        self.network.to(images.device)
        self.batches.append(self._features(images))

    def compute(self) -> dict[str, float]:
        """Return `fad` and `fad_batch`."""
        features, self.batches = joined(self.batches), []
        return {name: frechet_distance(moments(found), self.reference[name]) for name, found in features.items()}

    @torch.no_grad()
    def _features(self, images: Tensor) -> dict[str, Tensor]:
        """Return the features (N, D) of a batch with both treatments of batch normalisation."""
        running = self.network.representation(images).cpu()
        with batch_statistics(self.network):
            return {"fad": running, "fad_batch": self.network.representation(images).cpu()}


def joined(batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the features of all batches, by name."""
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


class ClassifierQuality:
    """Frechet distance, score and kernel distance by a classifier trained on the same data set.

    They stand in for FID, IS and KID where no Inception weights are at hand. They are not comparable with those, and
    `cis` is at most the number of classes.

    Args:
        network: classifier with `features` and `head`.
        images: reference images (N, C, H, W) uint8.
        prefix: before the names of the metrics.
    """

    def __init__(self, network: FeatureNet | InceptionV3, images: Tensor, prefix: str = "c") -> None:
        self.network, self.images, self.prefix = network, images, prefix
        self.features: list[Tensor] = []
        self.probabilities: list[Tensor] = []

    @cached_property
    @torch.no_grad()
    def real(self) -> Tensor:
        """Features (N, D) of the reference images, computed when the first generated ones are compared."""
        device = next(self.network.parameters()).device
        batches = (scaled(batch.to(device)) for batch in self.images.split(REFERENCE_BATCH))
        return torch.cat([self.network.features(self.preprocess(batch)).cpu() for batch in batches])

    @torch.no_grad()
    def update(self, images: Tensor) -> None:
        """Take a batch of generated images (N, C, H, W) in [-1, 1]."""
        self.network.to(images.device)
        features = self.network.features(self.preprocess(images))
        self.features.append(features.cpu())
        self.probabilities.append(self.network.head(features).softmax(1).cpu())

    def preprocess(self, images: Tensor) -> Tensor:
        """Return what the network takes: images in [0, 1]."""
        return (images + 1) / 2

    def compute(self) -> dict[str, float]:
        """Return the Frechet distance, the score (each batch is a split) and the kernel distance."""
        features, probabilities = torch.cat(self.features), self.probabilities
        self.features, self.probabilities = [], []
        chosen = torch.randperm(len(self.real), generator=torch.Generator().manual_seed(0))[:KID_IMAGES]
        return {
            f"{self.prefix}fid": frechet_distance(moments(features), moments(self.real)),
            f"{self.prefix}is": inception_score(probabilities)[0],
            f"{self.prefix}kid": kernel_distance(features[:KID_IMAGES], self.real[chosen]),
        }


class InceptionQuality(ClassifierQuality):
    """FID, IS and KID by the Inception network of the FID (its TensorFlow weights, ported to PyTorch).

    The official code computes FID by clean-fid with the same network, and IS by torchvision's ImageNet weights on
    inputs in [0, 255] that are not normalised, an error that all papers of this line keep. `is` here is the score of
    the FID's network, as usual, and differs from the published one for that reason.
    """

    def __init__(self, network: InceptionV3, images: Tensor) -> None:
        super().__init__(network, images, prefix="")

    def preprocess(self, images: Tensor) -> Tensor:
        """Return RGB images of 299 x 299 in [-1, 1], resized as clean-fid does."""
        return resized_for_inception(images)


def read_official_moments(path: Path) -> Moments:
    """Return the mean and covariance of a published npz file (keys mu and sigma).

    Raises:
        ValueError: the file cannot be read or lacks a key.
    """
    try:
        with np.load(path) as arrays:
            published = Moments(arrays["mu"].astype(np.float64), arrays["sigma"].astype(np.float64))
    except (OSError, KeyError, ValueError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path} holds no reference statistics mu and sigma: {error}") from error
    if published.mean.ndim != 1 or published.covariance.shape != 2 * published.mean.shape:
        raise ValueError(f"{path} holds no mean (D,) and covariance (D, D)")
    return published


def build_qualities(
    data: Any,
    fad_folder: str,
    feature_checkpoint: Path | None,
    classifier_checkpoint: Path | None,
    inception_weights: str | None,
) -> list[Quality]:
    """Return the metrics whose feature networks are given or found; log those that cannot be computed.

    Args:
        data: DataModule after `setup`. Its attribute `feature_set` names the published feature autoencoder.
        fad_folder: folder of the published feature autoencoders, below the data folder.
        feature_checkpoint: checkpoint of a feature autoencoder of our own.
        classifier_checkpoint: checkpoint of a classifier.
        inception_weights: file of Inception weights, below the data folder or absolute.
    """
    images = reference_images(data)
    channels, size = images.shape[1:3]
    qualities: list[Quality] = []
    if feature_checkpoint is not None:
        qualities.append(FrechetAutoencoderDistance(feature_autoencoder(feature_checkpoint, channels, size), images))
    elif (quality := _official_fad(data, Path(data.root) / fad_folder, images)) is not None:
        qualities.append(quality)
    if classifier_checkpoint is not None:
        state = load_state(classifier_checkpoint)
        qualities.append(ClassifierQuality(feature_net(state, channels, size), images))
    if inception_weights is not None:
        part = data.parts[getattr(data, "fid_part", "test")]
        qualities.append(InceptionQuality(load_inception(Path(data.root) / inception_weights), part.images))
    else:
        log.info("FID, IS and KID are not computed: method.inception_weights names no file")
    return qualities


def _official_fad(data: Any, folder: Path, images: Tensor) -> FrechetAutoencoderDistance | None:
    """Return the FAD by the published autoencoder of the data set, or None, logged, where there is none."""
    name = getattr(data, "feature_set", None)
    weights = None if name is None else folder / f"{name}.pth"
    if name is None or weights is None or not weights.is_file():
        where = f"put the official file at {weights}" if name else "no published one for this data set is at hand"
        log.warning(
            "FAD is not computed: the feature autoencoder is missing (%s). To train and use one of our own, add %s "
            "with the data set's name",
            where,
            TRAINED_FEATURES,
        )
        return None
    network = feature_autoencoder(weights, *images.shape[1:3])
    published = weights.with_name(name.replace("_", "_test_") + ".npz")
    return FrechetAutoencoderDistance(network, images, read_official_moments(published) if published.exists() else None)


def feature_net(state: dict[str, Tensor], in_channels: int, image_size: int) -> FeatureNet:
    """Return the classifier of the given weights; its sizes are those of the weights.

    Raises:
        ValueError: the weights are of another network, or for other images.
    """
    try:
        widths = [len(value) for name, value in state.items() if name.startswith("convs.") and value.dim() == 4]
        classes, feature_dim = state["head.weight"].shape
        network = FeatureNet(in_channels, classes, image_size, widths=widths, feature_dim=feature_dim)
        network.load_state_dict(state)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"the classifier checkpoint does not fit images of {in_channels} x {image_size} x {image_size}: {error}"
        ) from error
    return network.eval().requires_grad_(False)


def reference_images(data: Any) -> Tensor:
    """Return the test images (N, C, H, W) uint8 of a DataModule, in file order."""
    return data.parts["test"].images
