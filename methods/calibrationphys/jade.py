"""Independent components by JADE (Cardoso and Souloumiac 1993), for few channels."""

from __future__ import annotations

from itertools import combinations

import numpy as np


def whiten(channels: np.ndarray) -> np.ndarray:
    """Return channels with zero mean, unit variance and no correlation, (n, T).

    Args:
        channels: channels, (n, T).
    """
    centred = channels - channels.mean(axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(centred @ centred.T / centred.shape[1])
    return (vectors / np.sqrt(np.maximum(values, 1e-12))).T @ centred


def cumulant_matrices(white: np.ndarray) -> np.ndarray:
    """Return the fourth-order cumulant matrices of whitened channels, (n (n + 1) / 2, n, n).

    Args:
        white: whitened channels, (n, T).
    """
    count, samples = white.shape
    identity = np.eye(count)
    matrices = []
    for i in range(count):
        for j in range(i + 1):
            moment = (white * white[i] * white[j]) @ white.T / samples
            pair = np.outer(identity[i], identity[j])
            matrix = moment - (identity if i == j else 0) - pair - pair.T
            matrices.append(matrix if i == j else np.sqrt(2) * matrix)
    return np.array(matrices)


def joint_rotation(matrices: np.ndarray, sweeps: int = 100, tolerance: float = 1e-8) -> np.ndarray:
    """Return the rotation (n, n) that makes symmetric matrices as diagonal as possible together, by Jacobi's method.

    Args:
        matrices: symmetric matrices, (k, n, n).
        sweeps: most passes over all pairs of axes.
        tolerance: angle below which a pair counts as done.
    """
    matrices = matrices.copy()
    count = matrices.shape[1]
    rotation = np.eye(count)
    for _ in range(sweeps):
        largest = 0.0
        for p, q in combinations(range(count), 2):
            difference = matrices[:, p, p] - matrices[:, q, q]
            off = matrices[:, p, q] + matrices[:, q, p]
            on, cross = difference @ difference - off @ off, 2 * difference @ off
            angle = 0.5 * np.arctan2(cross, on + np.hypot(on, cross))
            largest = max(largest, abs(angle))
            cos, sin = np.cos(angle), np.sin(angle)
            givens = np.array([[cos, -sin], [sin, cos]])
            pair = [p, q]
            rotation[:, pair] = rotation[:, pair] @ givens
            matrices[:, pair] = givens.T @ matrices[:, pair]
            matrices[:, :, pair] = matrices[:, :, pair] @ givens
        if largest < tolerance:
            break
    return rotation


def jade(channels: np.ndarray) -> np.ndarray:
    """Return independent components of unit variance, in no order and with no sign, (n, T).

    Args:
        channels: channels, (n, T).
    """
    white = whiten(channels)
    return joint_rotation(cumulant_matrices(white)).T @ white
