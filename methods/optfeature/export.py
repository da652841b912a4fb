"""Export of a predictor without the pairs that its frozen selection closes for all values."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from methods.optfeature.network import CTRNetwork
from methods.optfeature.pairs import pair_indices
from methods.optfeature.pnn import IPNN
from methods.optfeature.selection.base import Selection
from methods.optfeature.selection.optfeature import HybridSelection, ValueSelection

BATCH = 4096
REPEATS = 10


def check_export(network: CTRNetwork, selection: Selection | None) -> None:
    """Raise ValueError if a predictor cannot be pruned by a selection.

    Args:
        network: predictor.
        selection: its selection, frozen or not.
    """
    if selection is None:
        raise ValueError("method.export needs a selection: there is nothing to prune")
    if type(network) is not IPNN or network.pair_norm is not None or network.linear is not None:
        raise ValueError(
            f"method.export supports model=ipnn without pair_norm and linear term, got {type(network).__name__}"
        )
    _levels(selection)


class PrunedIPNN(nn.Module):
    """IPNN that computes only the pairs of a frozen selection; the weights of the others are gone.

    Gates that do not depend on values are folded into the first linear layer. Pairs that are gated value by value keep
    the factors of the gate.

    Args:
        network: trained predictor.
        selection: its frozen selection.
    """

    first: Tensor
    second: Tensor
    by_value: Tensor

    def __init__(self, network: CTRNetwork, selection: Selection) -> None:
        super().__init__()
        check_export(network, selection)
        constant, by_value = _levels(selection)
        kept = torch.nonzero((constant != 0) | by_value).squeeze(1)
        first, second = pair_indices(network.fields).to(kept.device)[:, kept]
        self.register_buffer("first", first)
        self.register_buffer("second", second)
        self.register_buffer("by_value", torch.nonzero(by_value[kept]).squeeze(1))
        self.embedding = cast(nn.Embedding, network.embedding)
        self.mlp = _fold(network, kept, torch.where(by_value, torch.ones_like(constant), constant))
        self.has_value_gates = len(self.by_value) > 0
        self.value_factors: nn.Module = nn.Identity()
        self.core = torch.ones(1)
        if isinstance(selection, ValueSelection) and self.has_value_gates:
            self.value_factors = nn.Sequential(selection.value_table, selection.factors.linear)
            self.core = selection.factors.core.detach()

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits, (B,).

        Args:
            ids: global ids, (B, n).
        """
        embeddings = self.embedding(ids)
        products = (embeddings[:, self.first] * embeddings[:, self.second]).sum(-1)
        if self.has_value_gates:
            products = products * self._value_gates(ids, products)
        return self.mlp(torch.cat([embeddings.flatten(1), products], dim=1)).squeeze(1)

    def _value_gates(self, ids: Tensor, like: Tensor) -> Tensor:
        factors = self.value_factors(ids)
        first, second = self.first[self.by_value], self.second[self.by_value]
        fields = factors.shape[1]
        scores = torch.bmm(factors * self.core, factors.transpose(1, 2)).flatten(1)[:, first * fields + second]
        return torch.ones_like(like).index_copy(1, self.by_value, (scores > 0).to(like.dtype))


def _levels(selection: Selection) -> tuple[Tensor, Tensor]:
    """Constant gate of each pair, and which pairs are gated value by value, (P,) each."""
    constant = selection.field_level()
    if constant is not None:
        return constant, torch.zeros_like(constant, dtype=torch.bool)
    by_value = selection.value_level_pairs()
    if by_value is None:
        raise ValueError(f"method.export supports selections of pairs, got {type(selection).__name__}")
    if isinstance(selection, HybridSelection):
        return (~selection.always_closed()).float(), by_value
    return torch.ones(selection.pairs, device=by_value.device), by_value


def _fold(network: CTRNetwork, kept: Tensor, constant: Tensor) -> nn.Sequential:
    """Perceptron whose first layer has the columns of the embeddings and of the kept pairs only."""
    layers = cast(nn.Sequential, network.mlp)
    old = cast(nn.Linear, layers[0])
    width = network.fields * network.embedding_dim
    new = nn.Linear(width + len(kept), old.out_features, device=old.weight.device)
    with torch.no_grad():
        new.weight.copy_(torch.cat([old.weight[:, :width], old.weight[:, width:][:, kept] * constant[kept]], dim=1))
        new.bias.copy_(old.bias)
    return nn.Sequential(new, *list(layers)[1:])


class _Gated(nn.Module):
    """Predictor and selection as they were trained."""

    def __init__(self, network: CTRNetwork, selection: Selection) -> None:
        super().__init__()
        self.network, self.selection = network, selection

    def forward(self, ids: Tensor) -> Tensor:
        gates = self.selection.gates(ids)
        return self.network(ids, gates.pair, gates.value)


def export_pruned(network: CTRNetwork, selection: Selection, path: Path) -> dict[str, float]:
    """Write the pruned predictor as TorchScript, and compare it with the full one.

    Args:
        network: trained predictor.
        selection: its frozen selection.
        path: file to write.

    Returns:
        `test/pruned_parameters`, `test/pruned_difference` (largest difference of logits on random rows),
        `time/batch` and `time/pruned_batch` (seconds of a batch of 4096 rows: mean) and their standard deviations.

    Raises:
        ValueError: the predictor or the selection cannot be pruned.
    """
    pruned = PrunedIPNN(network, selection).eval()
    full = _Gated(network, selection).eval()
    ids = random_ids(network, BATCH)
    with torch.no_grad():
        traced = torch.jit.trace(pruned, ids, check_trace=False)
        traced.save(str(path))
        difference = float((traced(ids) - full(ids)).abs().max())
        before, after = latency(full, ids), latency(traced, ids)
    return {
        "test/pruned_parameters": float(sum(p.numel() for p in pruned.parameters())),
        "test/pruned_difference": difference,
        "time/batch": before[0],
        "time/batch_std": before[1],
        "time/pruned_batch": after[0],
        "time/pruned_batch_std": after[1],
    }


def random_ids(network: CTRNetwork, rows: int) -> Tensor:
    """Return rows of uniformly drawn ids, (rows, n) int32, on the device of the network.

    Args:
        network: predictor whose fields they have.
        rows: number of rows.
    """
    generator = torch.Generator().manual_seed(0)
    columns = [
        torch.randint(offset, offset + size, (rows,), generator=generator, dtype=torch.int32)
        for offset, size in zip(network.offsets, network.field_sizes, strict=True)
    ]
    return torch.stack(columns, dim=1).to(network.flat_pairs.device)


def latency(model: Callable[[Tensor], Tensor], ids: Tensor, repeats: int = REPEATS) -> tuple[float, float]:
    """Return mean and standard deviation of the seconds of a batch.

    Args:
        model: function of the ids.
        ids: batch.
        repeats: number of measured calls, after two that are not.
    """
    seconds = []
    for _ in range(repeats + 2):
        if ids.is_cuda:
            torch.cuda.synchronize()
        started = time.perf_counter()
        model(ids)
        if ids.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    measured = torch.tensor(seconds[2:], dtype=torch.float64)
    return float(measured.mean()), float(measured.std())
