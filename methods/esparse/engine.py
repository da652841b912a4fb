"""The walk that all one-shot methods share: block by block, statistics from one dense pass, masks, then onwards."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from methods.esparse.decoder import Decoder, InputSet, States, columns_of
from methods.esparse.patterns import NM, Unstructured
from methods.esparse.perplexity import Track, windows_at_once
from methods.esparse.shuffle import Permuter, retained
from methods.esparse.sparsegpt import OBS
from methods.esparse.statistics import InputStatistics, Needs, watching

Score = Any  # called with a weight (R, C) and its inputs' statistics; `needs` says which


@dataclass(frozen=True)
class Recipe:
    """What is done to each matrix. score: None leaves the choice of the mask to `update` (SparseGPT's own).

    keep_bytes: inputs of a block up to this size are kept for their histograms; larger ones cost a second pass.
    """

    pattern: NM | Unstructured
    score: Score | None
    permuter: Permuter | None = None
    update: OBS | None = None
    keep_bytes: int = 4 << 30

    def __post_init__(self) -> None:
        if self.score is None and self.update is None:
            raise ValueError("method.score and method.update are both null: nothing says which weights go")
        if self.permuter is not None and not isinstance(self.pattern, NM):
            raise ValueError("method.shuffle is for groups of N:M; with method.ratio set method.shuffle=null")
        if self.update and isinstance(self.pattern, NM) and self.update.block % self.pattern.of:
            raise ValueError(
                f"method.update.block={self.update.block} is not a multiple of method.of={self.pattern.of}"
            )

    @property
    def needs(self) -> Needs:
        parts = [part.needs for part in (self.score, self.update) if part is not None]
        first = parts[0]
        return Needs(frozenset().union(*(part.kinds for part in parts)), first.bins, first.range)


@dataclass
class SetReport:
    """What happened to one set of layers. kept, kept_shuffled: share of the score that N:M keeps before and after the
    permutation; importance: channels' entropy and norm, (C,) each, where they were gathered."""

    block: int
    name: str
    permutation: Tensor | None
    pruned: int
    size: int
    kept: float
    kept_shuffled: float
    entropy: Tensor | None = None
    norm: Tensor | None = None


@dataclass
class Report:
    """All sets' reports, and how long each kind of work took, in seconds."""

    sets: list[SetReport] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @property
    def sparsity(self) -> float:
        return sum(s.pruned for s in self.sets) / sum(s.size for s in self.sets)

    @property
    def kept(self) -> float:
        """Mean over the sets of the share of the score that is kept."""
        return sum(s.kept_shuffled for s in self.sets) / len(self.sets)


class Clock:
    """Adds up the time between its calls, by name."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds, self.last = seconds, time.perf_counter()

    def __call__(self, name: str) -> None:
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds[name] += now - self.last
        self.last = now


@torch.inference_mode()
def prune(decoder: Decoder, calibration: Tensor, recipe: Recipe, track: Track, tokens_at_once: int = 2048) -> Report:
    """Prunes every linear layer of every block, in place. calibration: (n, L) tokens.

    The statistics of a block come from its dense weights, on inputs that went through the pruned blocks before it.
    """
    check_memory(recipe, decoder.model.config, calibration.numel() * decoder.model.dtype.itemsize)
    report, needed = Report(), bool(recipe.needs.kinds)
    clock = Clock(report.seconds)
    states = decoder.embed(calibration, windows_at_once(calibration.shape[1], tokens_at_once)) if needed else States()
    for i in track(range(len(decoder)), "pruning, block"):
        with decoder.block(i, write=True) as block:
            clock("loading")
            if (notes := decoder.noted(i)) is not None:
                report.sets += [SetReport(**note) for note in notes]
            else:
                report.sets += (sets := prune_block(decoder, block, i, states, recipe, clock))
                decoder.note(i, [vars(s) for s in sets])
            if needed:
                decoder.advance(block, states)
                clock("calibration")
    clock("loading")
    return report


def check_memory(recipe: Recipe, config: Any, row: int) -> None:
    """Raises ValueError where quantiles are asked of inputs that are not kept. row: bytes of one channel's values."""
    size = sum(columns_of(config).values()) * row
    if recipe.needs.range == "quantile" and size > recipe.keep_bytes:
        raise ValueError(
            f"method.score.range=quantile needs a block's inputs in memory, {size / 2**30:.2g} GiB here; "
            "raise method.keep_gib or calibrate with fewer tokens"
        )


def prune_block(
    decoder: Decoder, block: nn.Module, number: int, states: States, recipe: Recipe, clock: Callable[[str], None]
) -> list[SetReport]:
    """Prunes the linear layers of one block, in place."""
    statistics = gather(decoder, block, states, recipe, clock) if recipe.needs.kinds else {}
    return [
        prune_set(block, number, layers, statistics.get(layers.name), recipe, clock)
        for layers in decoder.architecture.sets
    ]


def gather(
    decoder: Decoder, block: nn.Module, states: States, recipe: Recipe, clock: Callable[[str], None]
) -> dict[str, InputStatistics]:
    """Statistics of the input of each set of layers of the block."""
    sets = [(s, block.get_submodule(s.linears[0])) for s in decoder.architecture.sets]
    row = sum(batch.shape[0] * batch.shape[1] for batch in states.batches) * states.batches[0].element_size()
    keep = sum(linear.in_features for _, linear in sets) * row <= recipe.keep_bytes
    statistics = {s.name: InputStatistics(recipe.needs, keep) for s, _ in sets}
    unfinished = sets
    while unfinished:
        with watching((linear, statistics[s.name]) for s, linear in unfinished):
            decoder.advance(block, states, keep=False)
        clock("calibration")
        unfinished = [(s, linear) for s, linear in unfinished if statistics[s.name].end_pass()]
        clock("histograms")
    return statistics


def prune_set(
    block: nn.Module,
    number: int,
    layers: InputSet,
    inputs: InputStatistics | None,
    recipe: Recipe,
    clock: Callable[[str], None],
) -> SetReport:
    """Scores, permutation, masks and updates of the layers that share an input."""
    pattern, update = recipe.pattern, recipe.update
    weights = [block.get_submodule(name).weight for name in layers.linears]
    columns = weights[0].shape[1]
    pattern.check(f"{layers.linears[0]} of block {number}", columns)
    scores = [recipe.score(w, inputs) if recipe.score else None for w in weights]
    stacked = None
    if isinstance(pattern, NM):
        grouped = columns - columns % pattern.of
        chosen = scores if recipe.score else [update.scores(w, inputs) for w in weights]
        stacked = torch.cat([s[:, :grouped] for s in chosen])
    clock("scores")
    permutation = None
    kept = kept_shuffled = 1.0
    if stacked is not None:
        natural = torch.arange(columns, device=stacked.device)
        total = stacked.sum(dtype=torch.float64).item() or 1.0
        kept = kept_shuffled = retained(stacked, natural[:grouped], pattern.keep, pattern.of) / total
        if recipe.permuter is not None:
            permutation = recipe.permuter(stacked, pattern.keep, pattern.of)
            kept_shuffled = retained(stacked, permutation, pattern.keep, pattern.of) / total
            permutation = torch.cat([permutation, natural[grouped:]])  # columns that fill no group stay where they are
    clock("shuffles")
    order = torch.arange(columns, device=weights[0].device) if permutation is None else permutation
    hessian = inputs.permuted_hessian(order) if update else None
    pruned = 0
    for weight, score in zip(weights, scores, strict=True):
        mask = None if score is None else pattern.mask(score[:, order])
        before = weight[:, order]
        new = update(before, hessian, pattern, mask) if update else before * mask
        weight[:, order] = new
        pruned += int((new == 0).sum())
    clock("updates" if update else "masks")
    report = SetReport(
        block=number,
        name=layers.name,
        permutation=None if permutation is None else permutation.cpu(),
        pruned=pruned,
        size=sum(w.numel() for w in weights),
        kept=kept,
        kept_shuffled=kept_shuffled,
    )
    if inputs is not None and "entropy" in recipe.needs.kinds:
        report.entropy, report.norm = inputs.entropy.cpu(), inputs.mean_square.sqrt().cpu()
    return report
