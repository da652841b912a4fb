"""Generator of click logs with planted interactions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PlantedPair:
    """Pair of fields whose interaction changes the click probability.

    Args:
        first: number of the first field.
        second: number of the second field, above `first`.
        values: local ids of the first field for which the pair matters; None: all, the pair is field-wide.
    """

    first: int
    second: int
    values: tuple[int, ...] | None = None


@dataclass(frozen=True)
class SyntheticLog:
    """Generated click log.

    Args:
        ids: local ids, (N, n) int32; the largest id of a field never occurs, it is left for unseen values.
        labels: clicks, (N,) uint8.
        probabilities: true click probabilities, (N,) float64.
        sizes: number of ids of each field, the one for unseen values included.
        planted: pairs that interact.
    """

    ids: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    sizes: tuple[int, ...]
    planted: tuple[PlantedPair, ...]


def zipf_values(generator: np.random.Generator, rows: int, size: int, exponent: float) -> np.ndarray:
    """Draw values whose frequency falls with their number as 1 / (number + 1)^exponent.

    Args:
        generator: source of random numbers.
        rows: number of values.
        size: number of distinct values.
        exponent: exponent of the law; 0 is uniform.

    Returns:
        Values, (rows,) int32 in 0..size-1.
    """
    weights = np.arange(1, size + 1, dtype=np.float64) ** -exponent
    cumulative = np.cumsum(weights)
    draws = np.searchsorted(cumulative, generator.random(rows) * cumulative[-1], side="right")
    return np.minimum(draws, size - 1).astype(np.int32)


def generate(
    rows: int,
    cardinalities: tuple[int, ...],
    field_pairs: int,
    value_pairs: int,
    *,
    exponent: float = 1.0,
    main_effect: float = 0.3,
    pair_effect: float = 1.0,
    rank: int = 2,
    positive_rate: float = 0.25,
    seed: int = 0,
) -> SyntheticLog:
    """Generate a click log whose logit is a sum of main effects and of the effects of planted pairs.

    The effect of a field-wide pair is an inner product of two random vectors, one for each value, centred so that it
    shows in no single field. The effect of a value-level pair is the same, but for half of the frequency mass of the
    first field, taken value by value, it is zero.

    Args:
        rows: number of rows.
        cardinalities: number of values of each field.
        field_pairs: number of pairs that interact for all values.
        value_pairs: number of pairs that interact for some values only.
        exponent: exponent of the Zipf law of the values.
        main_effect: standard deviation of the effect of a single value, in logits.
        pair_effect: standard deviation of the effect of a pair, in logits.
        rank: length of the vectors of a planted pair.
        positive_rate: mean click probability.
        seed: seed of everything that is drawn.

    Raises:
        ValueError: more pairs are asked for than there are.
    """
    fields = len(cardinalities)
    pairs = [(i, j) for i in range(fields) for j in range(i + 1, fields)]
    if field_pairs + value_pairs > len(pairs):
        raise ValueError(f"{fields} fields have {len(pairs)} pairs, {field_pairs + value_pairs} were asked for")
    generator = np.random.default_rng(seed)
    ids = np.stack([zipf_values(generator, rows, size, exponent) for size in cardinalities], axis=1)
    logits = np.zeros(rows)
    for number, size in enumerate(cardinalities):
        logits += main_effect * generator.standard_normal(size)[ids[:, number]]
    planted = []
    for order, index in enumerate(generator.permutation(len(pairs))[: field_pairs + value_pairs]):
        first, second = pairs[index]
        values = None if order < field_pairs else _half_of_mass(generator, ids[:, first], cardinalities[first])
        planted.append(PlantedPair(first, second, values))
        logits += pair_effect * _effect(generator, ids, planted[-1], cardinalities, rank)
    probabilities = _probabilities(logits, positive_rate)
    labels = (generator.random(rows) < probabilities).astype(np.uint8)
    return SyntheticLog(ids, labels, probabilities, tuple(size + 1 for size in cardinalities), tuple(planted))


def _half_of_mass(generator: np.random.Generator, values: np.ndarray, size: int) -> tuple[int, ...]:
    """Values that together are about half of the rows."""
    frequency = np.bincount(values, minlength=size) / len(values)
    order = generator.permutation(size)
    count = int(np.searchsorted(np.cumsum(frequency[order]), 0.5)) + 1
    return tuple(sorted(int(value) for value in order[:count]))


def _effect(
    generator: np.random.Generator, ids: np.ndarray, pair: PlantedPair, sizes: tuple[int, ...], rank: int
) -> np.ndarray:
    """Effect of a pair in each row, of unit variance where the pair matters."""
    vectors = []
    for field in (pair.first, pair.second):
        table = generator.standard_normal((sizes[field], rank))
        chosen = table[ids[:, field]]
        table = (table - chosen.mean(0)) / np.maximum(chosen.std(0), 1e-6)
        vectors.append(table[ids[:, field]])
    effect = (vectors[0] * vectors[1]).sum(1)
    effect /= max(float(effect.std()), 1e-6)
    if pair.values is not None:
        effect = effect * np.isin(ids[:, pair.first], pair.values)
    return effect


def _probabilities(logits: np.ndarray, positive_rate: float) -> np.ndarray:
    """Click probabilities with the wanted mean, by bisection on a bias."""
    low, high = -20.0, 20.0
    for _ in range(60):
        bias = (low + high) / 2
        if (1 / (1 + np.exp(-logits - bias))).mean() < positive_rate:
            low = bias
        else:
            high = bias
    return 1 / (1 + np.exp(-logits - bias))
