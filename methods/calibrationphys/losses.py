"""Losses on predicted waves: the contrast between cameras, and those of the methods that it is compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from methods.calibrationphys.spectrum import TINY, power_spectrum

Similarity = Callable[[Tensor, Tensor], Tensor]


def negative_mse(x: Tensor, y: Tensor) -> Tensor:
    """Return minus the mean squared difference of each pair of distributions, (B, B').

    Args:
        x: distributions, (B, K).
        y: distributions, (B', K).
    """
    return -(x[:, None] - y[None]).square().mean(dim=-1)


def negative_sse(x: Tensor, y: Tensor) -> Tensor:
    """Return minus the sum of squared differences of each pair, (B, B'); K times as sharp as `negative_mse`."""
    return -(x[:, None] - y[None]).square().sum(dim=-1)


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """Return the cosine of each pair, (B, B')."""
    return cosine_similarity(x[:, None], y[None], dim=-1)


def pearson(x: Tensor, y: Tensor) -> Tensor:
    """Return the correlation of each pair, (B, B')."""
    return cosine(x - x.mean(dim=-1, keepdim=True), y - y.mean(dim=-1, keepdim=True))


SIMILARITIES: dict[str, Similarity] = {
    "neg_mse": negative_mse,
    "neg_sse": negative_sse,
    "cosine": cosine,
    "pearson": pearson,
}


def info_nce(
    a: Tensor,
    b: Tensor,
    temperature: float = 0.1,
    similarity: Similarity = negative_mse,
    negatives: Literal["cross", "cross+intra"] = "cross+intra",
    positive_in_denominator: bool = True,
) -> Tensor:
    """Return the InfoNCE loss of synchronous pairs, both cameras in turn as the anchor.

    The spectrum of a session seen by the other camera is the positive; other sessions, seen by the other camera and
    (`cross+intra`) by the same one, are the negatives. With B pairs that all look alike the loss is log(2B - 1).

    Args:
        a: spectra of camera A, (B, K).
        b: spectra of camera B, in the same order, (B, K).
        temperature: temperature tau.
        similarity: function of (B, K) and (B, K) to (B, B).
        negatives: which other spectra are negatives.
        positive_in_denominator: keep the positive in the denominator, as InfoNCE has it; False: decoupled, the loss may
            be negative.

    Raises:
        ValueError: there are fewer than two pairs.
    """
    if len(a) < 2:
        raise ValueError(f"a contrast needs at least two sessions in a batch, got {len(a)}: raise dataset.batch_size")
    cross = similarity(a, b) / temperature
    return (
        _anchor_loss(cross, a, temperature, similarity, negatives, positive_in_denominator)
        + _anchor_loss(cross.T, b, temperature, similarity, negatives, positive_in_denominator)
    ) / 2


def _anchor_loss(
    cross: Tensor,
    anchors: Tensor,
    temperature: float,
    similarity: Similarity,
    negatives: str,
    positive_in_denominator: bool,
) -> Tensor:
    """Return the mean loss with one camera as the anchor, given the logits (B, B) against the other one."""
    same = torch.eye(len(cross), dtype=torch.bool, device=cross.device)
    terms = [cross if positive_in_denominator else cross.masked_fill(same, -torch.inf)]
    if negatives == "cross+intra":
        terms.append((similarity(anchors, anchors) / temperature).masked_fill(same, -torch.inf))
    return (torch.logsumexp(torch.cat(terms, dim=1), dim=1) - cross.diagonal()).mean()


def chance_level(batch_size: int, negatives: str = "cross+intra", positive_in_denominator: bool = True) -> float:
    """Return the loss of `info_nce` when all spectra are equal.

    Args:
        batch_size: number of pairs B.
        negatives: as in `info_nce`.
        positive_in_denominator: as in `info_nce`.
    """
    count = (batch_size if negatives == "cross" else 2 * batch_size - 1) - (not positive_in_denominator)
    return float(torch.tensor(float(count)).log())


def negative_pearson(waves: Tensor, truth: Tensor) -> Tensor:
    """Return 1 minus the correlation of waves over time, mean over the batch (PhysNet, Yu et al. 2019).

    Args:
        waves: predicted waves, (B, T).
        truth: contact waves, (B, T).
    """
    x = waves - waves.mean(dim=-1, keepdim=True)
    y = truth - truth.mean(dim=-1, keepdim=True)
    return 1 - cosine_similarity(x, y, dim=-1).mean()


def triplet_psd(anchors: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """Return the loss of Gideon and Stent (2021): distances of all views, positives minus negatives.

    Args:
        anchors: spectra of views of the anchor, (V, B, K).
        positives: spectra of views of the positive, (V, B, K).
        negatives: spectra of views of the negative, (V, B, K).
    """

    def distance(x: Tensor, y: Tensor) -> Tensor:
        return (x[:, None] - y[None]).square().mean(dim=-1).sum(dim=(0, 1)).mean()

    return (distance(anchors, positives) - distance(anchors, negatives)) / len(anchors) ** 2


def contrast_phys(spectra: Tensor) -> Tensor:
    """Return the loss of Contrast-Phys (Sun and Li 2022): squared distance within videos minus that between them.

    Args:
        spectra: spectra of samples of each video, (B, S, K); B at least 2, S at least 2.
    """
    videos, samples, _ = spectra.shape
    flat = spectra.flatten(0, 1)
    distance = (flat[:, None] - flat[None]).square().mean(dim=-1)
    video = torch.arange(videos, device=spectra.device).repeat_interleave(samples)
    same = video[:, None] == video[None]
    itself = torch.eye(len(flat), dtype=torch.bool, device=spectra.device)
    return distance[same & ~itself].mean() - distance[~same].mean()


def sinc_losses(
    waves: Tensor, fs: float, low: Tensor, high: Tensor, nfft: int = 5400, width: float = 0.1
) -> dict[str, Tensor]:
    """Return the three losses of SiNC (Speth et al. 2023): bandwidth, sparsity, variance.

    Bandwidth is the share of power outside the band, sparsity the share of its power that is farther than `width` from
    the peak, variance the squared earth mover's distance between the mean spectrum of the batch and a uniform one.

    Args:
        waves: waves, (B, T).
        fs: samples a second.
        low: lower end of the band in Hz; of each clip, since the band follows the clip's speed, (B,).
        high: upper end of the band in Hz, (B,).
        nfft: length of the transform.
        width: half width of the peak in Hz.
    """
    frequencies, power = power_spectrum(waves, fs, nfft)
    inside = (frequencies >= low[:, None]) & (frequencies <= high[:, None])
    banded = power * inside
    band_power = banded.sum(dim=-1) + TINY
    bandwidth = 1 - band_power / (power.sum(dim=-1) + TINY)
    peak = frequencies[banded.argmax(dim=-1)]
    far = (frequencies - peak[:, None]).abs() > width
    sparsity = (banded * far).sum(dim=-1) / band_power
    share = (banded / band_power[:, None]).mean(dim=0)
    any_inside = inside.any(dim=0)
    share = share[any_inside] / (share[any_inside].sum() + TINY)
    uniform = torch.full_like(share, 1 / len(share))
    variance = (share.cumsum(0) - uniform.cumsum(0)).square().mean()
    return {"bandwidth": bandwidth.mean(), "sparsity": sparsity.mean(), "variance": variance}
