"""Comparison of a frozen selection with the interactions that were planted in generated data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from methods.optfeature.pairs import pair_indices
from methods.optfeature.selection.base import Selection

GRID_ROWS = 1 << 14  # combinations of values whose gates are computed at a time


def recovery(selection: Selection, planted: Sequence[Any]) -> dict[str, float]:
    """Compute precision and recall of the kept pairs, and those of the open values in value-level pairs.

    Args:
        selection: frozen selection.
        planted: pairs that interact, each with `first`, `second` and `values` (None: all values of the first field).

    Returns:
        `pair_precision`, `pair_recall`: kept pairs of fields against planted ones; a pair counts as kept if it is open
        for at least half of its combinations of values. `value_precision`, `value_recall`: over the combinations of
        values of the planted value-level pairs, open gates against those that matter. Empty without planted pairs or
        without gates of pairs.
    """
    if not planted:
        return {}
    kept = kept_share(selection)
    if kept is None:
        return {}
    truth = {(pair.first, pair.second) for pair in planted}
    chosen = {tuple(pair) for pair in pair_indices(selection.fields).T[kept.cpu() >= 0.5].tolist()}
    result = {f"pair_{name}": value for name, value in precision_recall(len(chosen & truth), chosen, truth).items()}
    return result | _value_recovery(selection, planted)


def precision_recall(hits: int, chosen: Any, truth: Any) -> dict[str, float]:
    """Return precision and recall; a ratio over nothing is left out.

    Args:
        hits: number of chosen items that are true.
        chosen: chosen items, sized.
        truth: true items, sized.
    """
    result = {}
    if len(chosen):
        result["precision"] = hits / len(chosen)
    if len(truth):
        result["recall"] = hits / len(truth)
    return result


def kept_share(selection: Selection) -> Tensor | None:
    """Return for which share of the combinations of values each pair is open, (P,), or None for gates of values.

    Args:
        selection: frozen selection.
    """
    level = selection.field_level()
    if level is not None:
        return (level != 0).float()
    grids = [gate_grid(selection, first, second) for first, second in pair_indices(selection.fields).T.tolist()]
    shares = [grid.float().mean() for grid in grids if grid is not None]
    return torch.stack(shares) if shares else None


def gate_grid(selection: Selection, first: int, second: int) -> Tensor | None:
    """Return the gates of all combinations of values of two fields, (values of first, values of second) bool.

    Args:
        selection: frozen selection.
        first: number of the first field.
        second: number of the second field.

    Returns:
        Gates without the ids that stand for unseen values, or None if the selection does not gate pairs.
    """
    sizes = [selection.field_sizes[field] - 1 for field in (first, second)]
    offsets = torch.tensor([sum(selection.field_sizes[:field]) for field in range(selection.fields)])
    column = int((selection.flat_pairs == first * selection.fields + second).nonzero())
    parts = []
    for numbers in torch.arange(sizes[0] * sizes[1]).split(GRID_ROWS):
        ids = offsets.repeat(len(numbers), 1)
        ids[:, first] += numbers // sizes[1]
        ids[:, second] += numbers % sizes[1]
        with torch.no_grad():
            gate = selection.gates(ids.to(selection.frozen.device)).pair
        if gate is None or gate.dim() == 3:
            return None
        parts.append((gate[:, column] != 0).expand(len(ids)))
    return torch.cat(parts).reshape(sizes)


def _value_recovery(selection: Selection, planted: Sequence[Any]) -> dict[str, float]:
    opened, wanted = [], []
    for pair in planted:
        if pair.values is not None:
            grid = gate_grid(selection, pair.first, pair.second)
            if grid is None:
                return {}
            truth = torch.zeros_like(grid)
            truth[list(pair.values)] = True
            opened.append(grid.flatten())
            wanted.append(truth.flatten())
    if not opened:
        return {}
    chosen, truth = torch.cat(opened), torch.cat(wanted)
    hits = int((chosen & truth).sum())
    scores = precision_recall(hits, chosen.nonzero(), truth.nonzero())
    return {f"value_{name}": value for name, value in scores.items()}
