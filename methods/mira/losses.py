"""Losses of inversion, unlearning and embedding, as plain functions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, log_softmax, relu


def total_variation(x: Tensor) -> Tensor:
    """Return the total variation of a batch: squared differences of neighbours (official code).

    2 / n (sum of squared vertical differences / (C (H - 1) W) + sum of squared horizontal ones / (C H (W - 1))).

    Shapes: (n, C, H, W) -> ().
    """
    n, channels, height, width = x.shape
    vertical = (x[:, :, 1:] - x[:, :, :-1]).square().sum() / (channels * (height - 1) * width)
    horizontal = (x[:, :, :, 1:] - x[:, :, :, :-1]).square().sum() / (channels * height * (width - 1))
    return 2 / n * (vertical + horizontal)


def l2_norm(x: Tensor) -> Tensor:
    """Return the Frobenius norm of the whole batch divided by its size (official code).

    It scales like 1 / sqrt(n), so a weight that was tuned for 250 images fits only them.

    Shapes: (n, C, H, W) -> ().
    """
    return x.norm() / len(x)


def uniform_kl(logits: Tensor) -> Tensor:
    """Return KL(uniform || softmax(logits)), averaged over images and classes.

    The official code passes "batchmean" to PyTorch's old argument `reduce`, which gives this mean over all elements:
    1 / C of the mean over images. Its weight of 15 was tuned for it.

    Shapes: (B, C) -> ().
    """
    classes = logits.shape[1]
    uniform = 1 / classes
    return (uniform * (torch.tensor(uniform).log() - log_softmax(logits, dim=1))).mean()


def snnl(activations: Tensor, groups: Tensor, temperature: Tensor | float, epsilon: float = 1e-5) -> Tensor:
    """Return the soft nearest neighbour loss with cosine distance (Jia et al. 2021; Frosst et al. 2019).

    -1/B sum_i log(sum_{j != i, g_j = g_i} e^{-d_ij / t} / sum_{k != i} e^{-d_ik / t}), with `epsilon` inside the
    logarithm and added to the denominator. A high value means that the groups are entangled.

    Args:
        activations: features of each image, flattened and rectified here (B, ...).
        groups: group of each image (B,).
        temperature: temperature t.
        epsilon: constant that keeps logarithm and quotient finite.
    """
    features = relu(activations.flatten(1).float())
    distance = 1 - cosine_similarity(features[:, None], features[None], dim=2)
    others = 1 - torch.eye(len(features), device=features.device)
    near = torch.exp(-distance / temperature).clamp(0, 1) * others
    same = (groups[:, None] == groups[None]).float()
    share = (near * same).sum(1) / (near.sum(1) + epsilon)
    return -(share + epsilon).log().mean()
