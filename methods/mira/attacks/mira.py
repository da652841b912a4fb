"""MIRA, basic and improved: recovered samples are unlearned."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from datasets.batching import generator
from datasets.checks import check_fraction, check_not_negative, check_positive
from methods.mira.attack_data import SETTINGS, AttackData, endless_batches, shuffled_batches
from methods.mira.attacks.attack import RemovalAttack
from methods.mira.detection import Detection, detect_target, margin_of
from methods.mira.fine_tuning_loop import SGD, Observer, fine_tune
from methods.mira.losses import uniform_kl
from methods.mira.splitting import last_activations, split
from methods.mira.verification import predict

NOISE, RELABEL, RECOVERED = 105, 106, 107
OFFICIAL_CLASSES = {10: (9, 5), 100: (22, 33)}  # published least likely classes, by the number of classes
Joint = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]


def noise_images(shape: tuple[int, ...], seed: int) -> Tensor:
    """Draw images of noise as the inversion starts from: (tanh(z) + 1) / 2 with standard normal z."""
    return (torch.randn(shape, generator=generator(seed, NOISE)).tanh() + 1) / 2


def joint_batches(data: AttackData, x: Tensor, y: Tensor, sgd: SGD, size: int) -> Callable[[int], Iterator[Joint]]:
    """Return a function from the epoch to pairs of a batch of the attacker's images and one of recovered samples.

    Args:
        data: attacker's data; its images set the number of steps.
        x: recovered samples (R, C, H, W).
        y: their labels (R,).
        sgd: settings with the size of a batch of images.
        size: recovered samples in a batch.
    """
    recovered = endless_batches(x, y, size, (data.seed, RECOVERED))

    def epoch_batches(epoch: int) -> Iterator[Joint]:
        for clean in data.batches(sgd.batch_size, epoch):
            yield clean, next(recovered)

    return epoch_batches


class BasicMira(RemovalAttack):
    """Basic variant: the predictions on all recovered samples are flattened.

    It minimises CE(f(x), y) + weight KL(uniform || softmax f(x_r)), one forward pass over a batch of images and one of
    recovered samples. The KL is the mean over images and classes, see `losses.uniform_kl`.

    Args:
        sgd: settings of fine-tuning.
        recovered_batch: recovered samples in a batch.
        weight: weight of the KL (official: 15 for CIFAR-10).

    Raises:
        ValueError: a value is out of its range.
    """

    uses_recovered = True

    def __init__(self, sgd: SGD | None = None, recovered_batch: int = 128, weight: float = 15.0) -> None:
        super().__init__()
        check_positive("method.attack", recovered_batch=recovered_batch)
        check_not_negative("method.attack", weight=weight)
        self.sgd, self.recovered_batch, self.weight = sgd or SGD(), recovered_batch, weight

    def loss(self, network: nn.Module, batch: Joint) -> Tensor:
        """Return the loss of a pair of batches."""
        (x, y), (recovered, _) = batch
        logits = network(torch.cat([x, recovered]))
        return cross_entropy(logits[: len(y)], y) + self.weight * uniform_kl(logits[len(y) :])

    def __call__(self, network: nn.Module, data: AttackData, observe: Observer) -> nn.Module:
        """Return the model after unlearning; see `RemovalAttack`."""
        assert data.recovered is not None
        x = data.recovered.flatten(0, 1)
        labels = torch.arange(data.num_classes, device=x.device).repeat_interleave(data.recovered.shape[1])
        self.metrics["recovered_acc"] = float((predict(network, x) == labels).float().mean())
        self.tensors["recovered"] = data.recovered
        batches = joint_batches(data, x, labels, self.sgd, self.recovered_batch)
        return fine_tune(network, self.sgd, batches, self.loss, observe)


class ImprovedMira(RemovalAttack):
    """Improved variant: detection of the target class, splitting, and unlearning of the proxies of triggers alone.

    Fixed-class watermark (a class stands out): the proxies of triggers of that class get random other labels, drawn
    once; the proxies of normal samples keep the class. Without images both halves of each step are recovered samples.
    Otherwise the proxies of triggers of all classes get the least likely class as label, and its own the second one.
    The published code has the least likely classes as constants (9 and 5; 22 and 33 for 100 classes) and does not say
    how they were found; here they are those of the lowest mean probability over images and recovered samples.

    Args:
        sgd: settings of fine-tuning.
        detection: detection of the target class.
        recovered_batch: recovered samples in a batch.
        salient_quantile: quantile of the salient units.
        proxy_fraction: share of a class's recovered samples that are proxies of triggers.
        weights: weights of images and recovered samples in the loss for non-fixed watermarks.
        official_constants: take the published constants as least likely classes.
        noise_control: put images of noise in place of the recovered ones, with the same labels: the control that shows
            what recovery brings.

    Raises:
        ValueError: a value is out of its range.
    """

    settings = SETTINGS
    uses_recovered = True

    def __init__(
        self,
        sgd: SGD | None = None,
        detection: Detection | None = None,
        recovered_batch: int = 128,
        salient_quantile: float = 0.95,
        proxy_fraction: float = 0.5,
        weights: tuple[float, float] = (1.0, 1.0),
        official_constants: bool = False,
        noise_control: bool = False,
    ) -> None:
        super().__init__()
        check_positive("method.attack", recovered_batch=recovered_batch)
        check_fraction("method.attack", salient_quantile=salient_quantile, proxy_fraction=proxy_fraction)
        self.sgd, self.detection, self.recovered_batch = sgd or SGD(), detection or Detection(), recovered_batch
        self.splitting = salient_quantile, proxy_fraction
        if len(weights) != 2 or min(weights) < 0 or not sum(weights) > 0:
            raise ValueError(f"method.attack.weights must be two numbers from 0 on, not both 0, got {list(weights)}")
        self.weights = (weights[0] / sum(weights), weights[1] / sum(weights))
        self.official_constants, self.noise_control = official_constants, noise_control

    def check(self, setting: str, target: int | None, marked: bool) -> None:
        """Refuse the data-free setting for a scheme without a fixed class; see `RemovalAttack.check`."""
        super().check(setting, target, marked)
        if setting == "data_free" and marked and target is None:
            raise ValueError(
                "method.setting=data_free works only on watermarks whose triggers share one class (content, noise, "
                "unrelated, piracy, ewe); the triggers of this one do not: method.setting=in_distribution"
            )

    def __call__(self, network: nn.Module, data: AttackData, observe: Observer) -> nn.Module:
        """Return the model after unlearning; see `RemovalAttack`."""
        assert data.recovered is not None
        smooth_acc = self.detection.smooth_accuracy(network, data.recovered, data.seed)
        target = detect_target(smooth_acc, self.detection.margin)
        self.metrics |= {
            "margin": float(margin_of(smooth_acc)),
            "detected_target": -1.0 if target is None else float(target),
            "top_class": float(smooth_acc.argmax()),
        }
        self.tensors["smooth_acc"] = smooth_acc
        if not self.noise_control:
            self.tensors["recovered"] = data.recovered
        if target is not None:
            return self._unlearn_fixed(network, data, target, observe)
        if data.x is None:
            raise ValueError(
                f"no class stands out (margin {self.metrics['margin']:.3f} below method.attack.detection.margin="
                f"{self.detection.margin}): without a target class MIRA needs images; "
                "set method.setting=in_distribution, or a smaller margin"
            )
        return self._unlearn_other(network, data, observe)

    def _split(self, network: nn.Module, samples: Tensor) -> tuple[Tensor, Tensor]:
        proxies, others = split(last_activations(network, samples), *self.splitting)
        if not len(proxies):
            raise ValueError(
                f"method.attack.proxy_fraction={self.splitting[1]} of {len(samples)} recovered samples of a class is "
                "none: nothing would be unlearned"
            )
        return proxies, others

    def _images(self, samples: Tensor, seed: int) -> Tensor:
        """Return the samples, or images of noise in the control."""
        return noise_images(tuple(samples.shape), seed).to(samples.device) if self.noise_control else samples

    def _unlearn_fixed(self, network: nn.Module, data: AttackData, target: int, observe: Observer) -> nn.Module:
        assert data.recovered is not None
        samples = data.recovered[target]
        proxies, _ = self._split(network, samples)
        shift = torch.randint(1, data.num_classes, (len(proxies),), generator=generator(data.seed, RELABEL))
        labels = torch.full((len(samples),), target, device=samples.device)
        labels[proxies] = (target + shift.to(samples.device)) % data.num_classes
        images = self._images(samples, data.seed)
        batches = joint_batches(data, images, labels, self.sgd, self.recovered_batch)
        if data.x is None:
            batches = self._recovered_only(images, labels, data.seed)
        return fine_tune(network, self.sgd, batches, joint_cross_entropy, observe)

    def _recovered_only(self, x: Tensor, y: Tensor, seed: int) -> Callable[[int], Iterator[Joint]]:
        """Return the batches of the data-free setting: two batches of recovered samples a step."""
        second = endless_batches(x, y, self.recovered_batch, (seed, RECOVERED))

        def epoch_batches(epoch: int) -> Iterator[Joint]:
            for first in shuffled_batches(x, y, self.recovered_batch, (seed, epoch)):
                yield first, next(second)

        return epoch_batches

    def _unlearn_other(self, network: nn.Module, data: AttackData, observe: Observer) -> nn.Module:
        assert data.recovered is not None
        least, second = self._least_likely(network, data)
        self.metrics |= {"least_likely": float(least), "second_least_likely": float(second)}
        proxies = torch.cat([samples[self._split(network, samples)[0]] for samples in data.recovered])
        classes = torch.arange(data.num_classes, device=proxies.device)
        labels = torch.where(classes == least, second, least).repeat_interleave(len(proxies) // data.num_classes)
        images = self._images(proxies, data.seed)
        batches = joint_batches(data, images, labels, self.sgd, self.recovered_batch)
        return fine_tune(network, self.sgd, batches, self.weighted_cross_entropy, observe)

    def _least_likely(self, network: nn.Module, data: AttackData) -> tuple[int, int]:
        """Return the least likely class and the second one."""
        if self.official_constants:
            if data.num_classes not in OFFICIAL_CLASSES:
                raise ValueError(
                    f"method.attack.official_constants are for 10 and 100 classes, and this data set has "
                    f"{data.num_classes}"
                )
            return OFFICIAL_CLASSES[data.num_classes]
        assert data.recovered is not None
        with torch.no_grad():
            parts = torch.cat([data.images, data.recovered.flatten(0, 1)]).split(500)
            likelihood = torch.stack([network.eval()(part).softmax(1).sum(0) for part in parts]).sum(0)
        least, second = likelihood.topk(2, largest=False).indices.tolist()
        return least, second

    def weighted_cross_entropy(self, network: nn.Module, batch: Joint) -> Tensor:
        """Return the weighted mean of the cross-entropies of images and recovered samples."""
        (x, y), (recovered, labels) = batch
        logits = network(torch.cat([x, recovered]))
        own, other = self.weights
        return own * cross_entropy(logits[: len(y)], y) + other * cross_entropy(logits[len(y) :], labels)


def joint_cross_entropy(network: nn.Module, batch: Joint) -> Tensor:
    """Return the cross-entropy of both batches together, so that their sizes are their weights."""
    (x, y), (recovered, labels) = batch
    return cross_entropy(network(torch.cat([x, recovered])), torch.cat([y, labels]))
