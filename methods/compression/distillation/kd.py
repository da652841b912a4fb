"""Knowledge distillation by soft targets (Hinton et al. 2015), and the base of the other distillations."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from datasets.checks import check_choice, check_not_negative, check_positive
from datasets.images.loader import ImageSet
from methods.compression.stage import Context, Stage
from methods.compression.training import Recipe


def soft_target_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(softmax(teacher / T) || softmax(student / T)), the mean over the batch.

    Shapes: (B, K), (B, K) -> scalar.
    """
    log_p = log_softmax(student / temperature, 1)
    return temperature**2 * kl_div(log_p, softmax(teacher / temperature, 1), reduction="batchmean")


class Distillation(Stage):
    """Train a student on labels, on the soft targets of the dense network, and on a further loss of a subclass.

    Loss: r x cross-entropy + a x soft targets + b x further loss. The teacher does not change and is in eval mode.

    Args:
        student: function that builds the student from the data's dims; None: the network so far, such as a pruned one.
        temperature: temperature T of the soft targets.
        r: weight of the cross-entropy.
        a: weight of the soft targets.
        b: weight of the further loss.
        transfer_set: train; or unlabeled: also the held-out images (`dataset.holdout`), and labels of none.
        recipe: training.
    """

    def __init__(
        self,
        student: Callable[..., nn.Module] | None = None,
        temperature: float = 4.0,
        r: float = 0.1,
        a: float = 0.9,
        b: float = 0.0,
        transfer_set: str = "train",
        recipe: Recipe | None = None,
    ) -> None:
        check_positive("stage", temperature=temperature)
        check_not_negative("stage", r=r, a=a, b=b)
        check_choice("transfer_set", transfer_set, ("train", "unlabeled"))
        self.student, self.temperature, self.r, self.a, self.b = student, temperature, r, a, b
        self.first_only = student is not None  # which would take the place of what earlier stages made
        self.transfer_set = transfer_set
        self.recipe = recipe or Recipe(240, 0.05, weight_decay=5e-4, schedule="step", milestones=(0.625, 0.75, 0.875))

    def check(self, network: nn.Module, data: Any) -> None:
        """Check the student and the transfer set."""
        if self.transfer_set == "unlabeled" and "val" not in data.parts:
            raise ValueError("transfer_set=unlabeled takes the held-out images: set dataset.holdout to their number")
        if self.transfer_set == "unlabeled" and not self.a and not self.b:
            raise ValueError("transfer_set=unlabeled uses no labels: a or b must be above 0")
        if self.student is not None:
            self.student(**data.dims)

    def make_student(self, network: nn.Module, context: Context) -> nn.Module:
        """Return the student: a new one, whose weights follow from the seed, or the network so far."""
        if self.student is None:
            return network
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed + 2)
            return self.student(**context.dims).to(context.device)

    def prepare(self, student: nn.Module, teacher: nn.Module, context: Context) -> list[nn.Module]:
        """Prepare the further loss; return modules that are trained beside the student."""
        return []

    def further_loss(self, batch: Any) -> Tensor:
        """Return the further loss of the batch that student and teacher have just seen."""
        return torch.zeros((), device=batch.x.device)

    def finish(self) -> None:
        """Clean up after the training."""

    def loss(self, network: nn.Module, teacher: nn.Module, batch: Any) -> Tensor:
        """Return the loss of a batch."""
        logits = network(batch.x)
        with torch.no_grad():
            targets = teacher(batch.x)
        total = self.a * soft_target_loss(logits, targets, self.temperature) if self.a else logits.sum() * 0
        if self.r and self.transfer_set == "train":
            total = total + self.r * cross_entropy(logits, batch.y)
        return total + self.b * self.further_loss(batch) if self.b else total

    def transfer_loader(self, context: Context) -> Any:
        """Return the loader of the transfer set."""
        if self.transfer_set == "train":
            return context.batches()
        loader = context.batches()
        parts = [context.data.parts[name] for name in ("train", "val")]
        joined = ImageSet(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
        kind = cast(Any, type(loader))
        options = {"shuffle": True, "augment": loader.augment, "seed": loader.seed, "device": context.device}
        return kind(joined, context.data.batch_size, **options)

    def __call__(self, network: nn.Module, context: Context) -> nn.Module:
        """Train the student."""
        student = self.make_student(network, context)
        teacher = copy.deepcopy(context.dense).to(context.device).eval().requires_grad_(False)
        more = self.prepare(student, teacher, context)
        try:
            context.train(
                student,
                self.recipe,
                loader=self.transfer_loader(context),
                loss=lambda net, batch: self.loss(net, teacher, batch),
                more_modules=more,
            )
        finally:
            self.finish()
        return student


class KnowledgeDistillation(Distillation):
    """Distil by soft targets alone; arguments of `Distillation`."""
