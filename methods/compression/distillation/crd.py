"""Contrastive representation distillation (Tian et al. 2020, arXiv 1910.10699)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from datasets.checks import check_fraction, check_positive
from methods.compression.distillation.features import POOLED, FeatureTap, features_of
from methods.compression.distillation.kd import Distillation
from methods.compression.stage import Context


def contrast_loss(scores: Tensor, negatives: int, images: int) -> Tensor:
    """Return the noise-contrastive loss, -log p/(p + K/N) - sum log (K/N)/(p_neg + K/N), the mean over the batch.

    Args:
        scores: (B, 1 + K), exp(similarity / tau) / Z, the positive first.
        negatives: K.
        images: N, images of the training part.
    """
    noise = negatives / images
    positive = (scores[:, 0] / (scores[:, 0] + noise)).log()
    negative = (noise / (scores[:, 1:] + noise)).log().sum(1)
    return -(positive + negative).mean()


class ContrastMemory(nn.Module):
    """Banks of embeddings of student and teacher, and linear embeddings that are trained.

    Args:
        student_dim: length of the student's features.
        teacher_dim: length of the teacher's features.
        labels: (N,) classes of the training images; negatives come from other classes.
        dim: length of an embedding.
        negatives: number of negatives of an image, K.
        tau: temperature.
        momentum: weight of an old embedding in its update.
    """

    labels: Tensor
    bank_student: Tensor
    bank_teacher: Tensor

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        labels: Tensor,
        dim: int = 128,
        negatives: int = 16384,
        tau: float = 0.07,
        momentum: float = 0.5,
    ) -> None:
        super().__init__()
        self.embed_student, self.embed_teacher = nn.Linear(student_dim, dim), nn.Linear(teacher_dim, dim)
        bound = 1 / math.sqrt(dim / 3)
        for name in ("student", "teacher"):
            self.register_buffer(f"bank_{name}", torch.empty(len(labels), dim).uniform_(-bound, bound))
            self.register_buffer(f"z_{name}", torch.tensor(0.0))
        self.register_buffer("labels", labels)
        self.negatives, self.tau, self.momentum = negatives, tau, momentum

    def draw(self, index: Tensor, y: Tensor) -> Tensor:
        """Return the places of the positive and of K negatives of other classes, (B, 1 + K)."""
        other = (self.labels[None] != y[:, None]).float()
        drawn = torch.multinomial(other, self.negatives, replacement=True)
        return torch.cat([index[:, None], drawn], 1)

    def forward(self, student: Tensor, teacher: Tensor, index: Tensor, y: Tensor) -> Tensor:
        """Return the sum of the losses of both directions, and update the banks.

        Args:
            student: features of the student (B, D_s).
            teacher: features of the teacher (B, D_t).
            index: places of the images in the training part (B,).
            y: classes (B,).
        """
        g_s, g_t = normalize(self.embed_student(student)), normalize(self.embed_teacher(teacher))
        places = self.draw(index, y)
        loss = self._contrast(g_s, self.bank_teacher[places].clone(), "teacher") + self._contrast(
            g_t, self.bank_student[places].clone(), "student"
        )
        with torch.no_grad():
            for bank, new in ((self.bank_student, g_s), (self.bank_teacher, g_t)):
                bank[index] = normalize(self.momentum * bank[index] + (1 - self.momentum) * new)
        return loss

    def _contrast(self, embedding: Tensor, bank: Tensor, name: str) -> Tensor:
        scores = (torch.einsum("bd,bkd->bk", embedding, bank) / self.tau).exp()
        z = getattr(self, f"z_{name}")
        if not float(z):
            z.fill_(float(scores.detach().mean()) * len(self.labels))  # fixed by the first batch
        return contrast_loss(scores / z, self.negatives, len(self.labels))


class CRD(Distillation):
    """Distil pooled features by contrast: the same image near, images of other classes far.

    Args:
        dim: length of an embedding.
        negatives: number of negatives of an image (published: 16384).
        tau: temperature of the contrast.
        momentum: weight of an old embedding in its update.
        **options: arguments of `Distillation`.
    """

    def __init__(
        self, dim: int = 128, negatives: int = 1024, tau: float = 0.07, momentum: float = 0.5, **options: Any
    ) -> None:
        super().__init__(**({"r": 1.0, "a": 0.0, "b": 0.8} | options))
        check_positive("stage", dim=dim, negatives=negatives, tau=tau)
        check_fraction("stage", momentum=momentum)
        if self.transfer_set != "train":
            raise ValueError("crd needs the classes of its images: transfer_set=train")
        self.dim, self.negatives, self.tau, self.momentum = dim, negatives, tau, momentum

    def prepare(self, student: nn.Module, teacher: nn.Module, context: Context) -> list[nn.Module]:
        """Make the memory."""
        dims = [features_of(net, [], context.images(2))[POOLED].shape[1] for net in (student, teacher)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed + 3)
            labels = context.data.train_labels
            memory = ContrastMemory(dims[0], dims[1], labels, self.dim, self.negatives, self.tau, self.momentum)
        self.memory = memory.to(context.device)
        self.taps = FeatureTap(student, []), FeatureTap(teacher, [])
        return [self.memory]

    def further_loss(self, batch: Any) -> Tensor:
        """Return the loss of both directions."""
        own, other = (tap.maps[POOLED] for tap in self.taps)
        return self.memory(own, other.detach(), batch.index, batch.y)

    def finish(self) -> None:
        """Remove the hooks."""
        for tap in self.taps:
            tap.remove()
