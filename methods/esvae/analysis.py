"""Experiments on trained autoencoders: robustness of the decoder, information in the encoder, operation counts.

The paper shows figures of the first and states the second in words; neither protocol is published. These are ours.
Each run has a test stage alone and takes the checkpoint of a training run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.nn.functional import mse_loss

from datasets.checks import check_choice, check_positive
from datasets.progress import track
from methods.checkpoints import weights_below
from methods.esvae.networks import TASKS, Autoencoder, SpikingAutoencoder
from methods.esvae.operations import Operations, count_operations

SHOWN = 8
PROBABILITIES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)  # of the noise figures in the official repository


def flipped(spikes: Tensor, probability: float) -> Tensor:
    """Return spikes of which each is inverted with the given probability, independently."""
    return (spikes - (torch.rand_like(spikes) < probability).to(spikes)).abs()


def dropped(spikes: Tensor, probability: float) -> Tensor:
    """Return spikes of which each is deleted with the given probability."""
    return spikes * (torch.rand_like(spikes) >= probability)


def added(spikes: Tensor, probability: float) -> Tensor:
    """Return spikes with one more at each place, with the given probability, where there was none."""
    return torch.maximum(spikes, (torch.rand_like(spikes) < probability).to(spikes))


NOISES: dict[str, Callable[[Tensor, float], Tensor]] = {"flip": flipped, "drop": dropped, "add": added}


class TrainedAutoencoder(LightningModule):
    """Base of the experiments: an autoencoder with the weights of a training run.

    Args:
        network: autoencoder of the training run.
        checkpoint: its checkpoint.

    Raises:
        ValueError: the checkpoint is of another network.
    """

    tasks: tuple[str, ...] = TASKS
    distributed = False

    def __init__(self, network: Autoencoder, checkpoint: Path) -> None:
        super().__init__()
        try:
            network.load_state_dict(weights_below(checkpoint, "network."))
        except RuntimeError as error:
            raise ValueError(
                f"the checkpoint {checkpoint} does not fit model {type(network).__name__}; vars.source and model "
                f"must belong together: {str(error)[:300]}"
            ) from error
        self.network = network.eval()
        self.seed = 0

    def prepare(self, data: Any) -> None:
        """Keep the seed of the data."""
        self.seed = data.seed

    def on_test_epoch_start(self) -> None:
        """Seed the random numbers of the experiment."""
        torch.manual_seed(self.seed)
        random.seed(self.seed)


class Robustness(TrainedAutoencoder):
    """Reconstruction loss of a spiking autoencoder with noise on its latent spikes, and with shuffled time steps.

    Metrics: `test/recon_loss`; `test/recon_loss_<percent>` at each probability of the noise; `test/shuffled_loss`, one
    random permutation of the time steps for each batch.

    Args:
        network: spiking autoencoder of the training run.
        checkpoint: its checkpoint.
        noise: "flip", "drop" or "add".
        probabilities: probabilities of the noise per latent spike.
    """

    def __init__(
        self,
        network: Autoencoder,
        checkpoint: Path,
        noise: str = "flip",
        probabilities: Sequence[float] = PROBABILITIES,
    ) -> None:
        super().__init__(network, checkpoint)
        if not isinstance(network, SpikingAutoencoder):
            raise ValueError(f"method=esvae/robustness needs a spiking autoencoder, model is {type(network).__name__}")
        check_choice("method.noise", noise, tuple(NOISES))
        if not probabilities or not all(0 <= p <= 1 for p in probabilities):
            raise ValueError(f"method.probabilities must lie in [0, 1], got {list(probabilities)}")
        if len({round(100 * p) for p in probabilities}) < len(probabilities):
            raise ValueError(
                f"method.probabilities must differ by a percent at least, since metrics name it: {list(probabilities)}"
            )
        self.noise, self.probabilities = noise, list(probabilities)
        self.shown: dict[str, Tensor] = {}

    def decoded(self, latents: Tensor) -> dict[str, Tensor]:
        """Return images by condition: reconstructed, time shuffled, and one for each probability."""
        images = {
            "reconstructed": self.network.decode(latents),
            "time shuffled": self.network.decode(latents[torch.randperm(len(latents), device=latents.device)]),
        }
        for p in self.probabilities:
            images[f"{self.noise} {p:g}"] = self.network.decode(NOISES[self.noise](latents, p))
        return images

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log the losses of a batch."""
        x = batch.x * 2 - 1
        images = self.decoded(self.network.encode(x).latents)
        names = ["recon_loss", "shuffled_loss", *(f"recon_loss_{round(100 * p)}" for p in self.probabilities)]
        losses = {f"test/{name}": mse_loss(image, x) for name, image in zip(names, images.values(), strict=True)}
        self.log_dict(losses, batch_size=len(x))
        if not self.shown:
            self.shown = {label: image[:SHOWN].cpu() for label, image in ({"input": x} | images).items()}

    def figures(self) -> dict[str, Any]:
        """Return the curve of the loss and rows of decoded images."""
        from methods.esvae.figures import image_rows, robustness_curve

        metrics = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        losses = {0.0: metrics["test/recon_loss"]}
        losses |= {p: metrics[f"test/recon_loss_{round(100 * p)}"] for p in self.probabilities}
        curve = robustness_curve(losses, metrics["test/shuffled_loss"], self.noise)
        return {"robustness": curve, "decoded": image_rows(self.shown)}


class Information(TrainedAutoencoder):
    """Class labels predicted from the latent representation, by logistic regression and nearest neighbours.

    Representations are the firing rates of spiking encoders and the posterior means of ordinary ones. Metrics,
    fractions: `test/linear_acc`, `test/knn_acc`.

    Args:
        network: autoencoder of the training run.
        checkpoint: its checkpoint.
        neighbours: number of nearest neighbours.
        train_images: training images that the classifiers are fitted to, the first of a random order; null: all.
    """

    tasks: tuple[str, ...] = ("image-classification",)

    def __init__(
        self, network: Autoencoder, checkpoint: Path, neighbours: int = 5, train_images: int | None = 10_000
    ) -> None:
        super().__init__(network, checkpoint)
        check_positive("method", neighbours=neighbours, train_images=train_images)
        self.neighbours, self.train_images = neighbours, train_images
        self.test: list[tuple[Tensor, Tensor]] = []

    def prepare(self, data: Any) -> None:
        """Keep the training images."""
        super().prepare(data)
        part = data.parts["train"]
        order = torch.randperm(len(part.labels), generator=torch.Generator().manual_seed(self.seed))
        index = order[: self.train_images]
        self.train_part = part.images[index], part.labels[index]

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Collect the representations of the test images."""
        self.test.append((self.network.representation(batch.x * 2 - 1).cpu(), batch.y.cpu()))

    @torch.no_grad()
    def on_test_epoch_end(self) -> None:
        """Fit the classifiers to the training images and log their accuracy on the test images."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.neighbors import KNeighborsClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        images, labels = self.train_part
        batches = list(images.split(256))
        train = torch.cat(
            [
                self.network.representation(batch.to(self.device).float() / 127.5 - 1).cpu()
                for batch in track(batches, "encoded training batches")
            ]
        ).numpy()
        test, expected = (torch.cat(parts).numpy() for parts in zip(*self.test, strict=True))
        classifiers = {
            "linear_acc": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
            "knn_acc": KNeighborsClassifier(self.neighbours),
        }
        for name, classifier in classifiers.items():
            classifier.fit(train, labels.numpy())
            self.log(f"test/{name}", float(classifier.score(test, expected)))


class OperationCount(TrainedAutoencoder):
    """Additions, multiplications and estimated energy of encoding and decoding one test image.

    A prior network is not counted: only the divergence of training and the drawing of new images need it.

    Metrics, per image: `test/additions`, `test/multiplications`, `test/energy_uj` (microjoules).
    """

    def __init__(self, network: Autoencoder, checkpoint: Path) -> None:
        super().__init__(network, checkpoint)
        self.totals: dict[str, Operations] = {}
        self.images = 0

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Count the operations of a batch."""
        x = batch.x * 2 - 1
        counts = count_operations(self.network, lambda: self.network.decode(self.network.encode(x).latents))
        for name, new in counts.items():
            if name.partition(".")[0] == "prior":
                continue
            old = self.totals.get(name, Operations(0.0, 0.0))
            self.totals[name] = Operations(old.additions + new.additions, old.multiplications + new.multiplications)
        self.images += len(x)

    def per_image(self) -> dict[str, Operations]:
        """Return the operations of each layer for one image."""
        return {name: Operations(*(value / self.images for value in total)) for name, total in self.totals.items()}

    def on_test_epoch_end(self) -> None:
        """Log the sums over all layers."""
        total = Operations(*(sum(values) for values in zip(*self.per_image().values(), strict=True)))
        self.log_dict(
            {
                "test/additions": total.additions,
                "test/multiplications": total.multiplications,
                "test/energy_uj": total.energy,
            }
        )

    def figures(self) -> dict[str, Any]:
        """Return the operations of each layer."""
        from methods.esvae.figures import operation_bars

        counts = self.per_image()
        additions = {name: count.additions for name, count in counts.items()}
        return {"operations": operation_bars(additions, {name: c.multiplications for name, c in counts.items()})}
