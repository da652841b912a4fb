"""Sequential one-shot pruning, as in Wanda's and SparseGPT's code: block by block, each from one dense forward pass."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from methods.esparse.decoder import Decoder, HiddenStates
from methods.esparse.description import Block, InputSet, matrix
from methods.esparse.experts import ExpertTokens, add_neutral_inputs, record_experts
from methods.esparse.input_statistics import InputStatistics, RequiredStatistics, record_inputs
from methods.esparse.matrix_scores import GivenMasks, MatrixScore
from methods.esparse.owl import OWL
from methods.esparse.patterns import NM, Arrangement, Pattern, Permutation
from methods.esparse.perplexity import windows_per_batch
from methods.esparse.probing import describe
from methods.esparse.scores import Score
from methods.esparse.sparsegpt import MaskOnly, WeightUpdate

Progress = Callable[[range, str], Iterable[int]]


@dataclass(frozen=True)
class Recipe:
    """Parts of a one-shot pruning method.

    Args:
        pattern: sparsity pattern.
        score: score of each weight; None: the weight update chooses the mask (SparseGPT).
        permutation: permutation of the input channels; N:M only.
        weight_update: update of the weights that are kept.
        allocation: chooses a ratio for each block; unstructured pruning only.
        input_cache_bytes: inputs of a block up to this size are kept for their histograms; larger ones cost a second
            forward pass.

    Raises:
        ValueError: if the parts do not fit together.
    """

    pattern: Pattern
    score: Score | None
    permutation: Permutation | None = None
    weight_update: WeightUpdate = field(default_factory=MaskOnly)
    allocation: OWL | None = None
    input_cache_bytes: int = 4 << 30

    def __post_init__(self) -> None:
        if self.score is None and isinstance(self.weight_update, MaskOnly):
            raise ValueError("method.score and method.weight_update are both null: nothing says what is pruned")
        if self.permutation is not None and not isinstance(self.pattern, NM):
            raise ValueError(
                "method.permutation is for N:M patterns only; with method.ratio set method.permutation=null"
            )
        if self.permutation is not None and isinstance(self.score, GivenMasks):
            raise ValueError("masks from a file are for the model's own order of channels: set method.permutation=null")
        if self.allocation is not None and isinstance(self.pattern, NM):
            raise ValueError("method.allocation gives each block its ratio: set method.ratio instead of a pattern")
        if self.allocation is not None:
            self.allocation.check(self.pattern.ratio)
        self.weight_update.check(self.pattern)

    def with_ratio(self, ratio: float) -> Recipe:
        """Return the same method for a block, with the ratio that the allocation gives it."""
        return replace(self, pattern=type(self.pattern)(ratio), allocation=None)  # type: ignore[arg-type, call-arg]

    @property
    def required(self) -> RequiredStatistics:
        """Statistics of the inputs that score and weight update need."""
        own = self.score.required if self.score else RequiredStatistics()
        return RequiredStatistics(own.kinds | self.weight_update.required.kinds, own.bins, own.histogram_range)

    def scores(self, weights: list[Tensor], inputs: InputStatistics, names: list[str]) -> list[Tensor] | None:
        """Return the scores (R, C) of each weight; None if the weight update chooses the mask."""
        if isinstance(self.score, MatrixScore):
            return [self.score.of(name, weight) for name, weight in zip(names, weights, strict=True)]
        return None if self.score is None else [self.score(weight, inputs) for weight in weights]

    def update_of(self, name: str) -> WeightUpdate:
        """Return the weight update of the layer `name`: none if a part of its name is among those that it skips."""
        skipped = getattr(self.weight_update, "skip", ())
        return MaskOnly() if set(name.split(".")) & set(skipped) else self.weight_update

    def masks(self, scores: list[Tensor] | None, order: Tensor, count: int) -> list[Tensor | None]:
        """Return the mask (R, C) of each of `count` weights in the given order of columns; None: not chosen here."""
        if scores is None:
            return [None] * count
        return [self.pattern.mask(score[:, order]) for score in scores]


@dataclass
class SetReport:
    """Result of pruning one set of layers that share their input.

    Args:
        block: number of the block.
        name: name of the set.
        permutation: (C,) columns in the order in which they were grouped; None: the original order.
        pruned: number of zero weights.
        size: number of weights.
        retained_natural: share of the score that N:M keeps without the permutation.
        retained: share of the score that N:M keeps.
        entropy: (C,) entropy of each channel in nats, where it was gathered.
        norm: (C,) root mean square of each channel, where the entropy was gathered.
    """

    block: int
    name: str
    permutation: Tensor | None
    pruned: int
    size: int
    retained_natural: float
    retained: float
    entropy: Tensor | None = None
    norm: Tensor | None = None


@dataclass
class Report:
    """Result of pruning a model.

    Args:
        sets: report of each set of layers.
        seconds: wall time of each kind of work.
    """

    sets: list[SetReport] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @property
    def sparsity(self) -> float:
        """Share of zeros in the pruned matrices."""
        return sum(s.pruned for s in self.sets) / sum(s.size for s in self.sets)

    @property
    def retained(self) -> float:
        """Mean over the sets of the share of the score that is kept."""
        return sum(s.retained for s in self.sets) / len(self.sets)


class WorkClock:
    """Sum of the wall time between calls, by the name of the work.

    Args:
        seconds: dictionary that the times are added to.
    """

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds, self.last = seconds, time.perf_counter()

    def __call__(self, work: str) -> None:
        """Add the time since the last call to `work`."""
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds[work] += now - self.last
        self.last = now


@torch.inference_mode()
def prune(
    decoder: Decoder, calibration: Tensor, recipe: Recipe, track: Progress, tokens_per_batch: int = 2048
) -> Report:
    """Prune every linear layer of every block, in place.

    The statistics of a block come from its dense weights, on inputs that passed through the pruned blocks before it.

    Args:
        decoder: model.
        calibration: (windows, L) calibration tokens.
        recipe: pruning method.
        track: shows the progress over the blocks.
        tokens_per_batch: tokens of a batch of the forward passes.

    Raises:
        ValueError: if a matrix does not fit the pattern, or inputs do not fit in memory for quantiles.
        FloatingPointError: if a block's outputs are not finite.
    """
    check_input_cache(recipe, decoder.model.config, calibration.numel() * decoder.model.dtype.itemsize)
    report, calibrated, experts = Report(), bool(recipe.required.kinds), ExpertTokens()
    clock = WorkClock(report.seconds)
    batch_size = windows_per_batch(calibration.shape[1], tokens_per_batch)
    if isinstance(recipe.score, MatrixScore):
        recipe.score.begin(decoder, calibration, track)
        clock("gradients")
    recipes = [recipe] * len(decoder)
    if recipe.allocation is not None:
        recipes = block_recipes(decoder, calibration, recipe, recipe.allocation, track, batch_size)
        clock("allocation")
    states = decoder.embed(calibration, batch_size) if calibrated else HiddenStates()
    for i in track(range(len(decoder)), "pruning, block"):
        with decoder.block(i, write=True) as block:
            clock("loading")
            if (stored := decoder.stored_reports(i)) is not None:
                report.sets += [SetReport(**fields) for fields in stored]
            else:
                report.sets += (sets := prune_block(decoder, block, i, states, recipes[i], clock, experts))
                decoder.store_reports(i, [vars(s) for s in sets])
            if calibrated:
                decoder.run_block(block, states)
                clock("calibration")
    clock("loading")
    experts.warn()
    return report


def block_recipes(
    decoder: Decoder, calibration: Tensor, recipe: Recipe, allocation: OWL, track: Progress, batch_size: int
) -> list[Recipe]:
    """Return the method for each block, with the ratio that the allocation gives it."""

    def statistics(decoder: Decoder, block: Block, states: HiddenStates) -> dict[str, InputStatistics]:
        return gather_statistics(decoder, block, states, OWL.required, WorkClock(defaultdict(float)))

    states = decoder.embed(calibration, batch_size)
    ratios = allocation.ratios(decoder, states, recipe.pattern.ratio, statistics, track)
    return [recipe.with_ratio(ratio) for ratio in ratios]


def check_input_cache(recipe: Recipe, config: Any, channel_bytes: int) -> None:
    """Check that the inputs of a block can be kept where their quantiles are needed.

    Args:
        recipe: pruning method.
        config: transformers config of the model.
        channel_bytes: bytes of one channel's values for all calibration tokens.

    Raises:
        ValueError: if quantiles are needed and the inputs are larger than the cache.
    """
    size = max(_input_bytes(sets, channel_bytes) for sets in describe(config).kinds)
    if recipe.required.histogram_range == "quantile" and size > recipe.input_cache_bytes:
        raise ValueError(
            f"method.score.histogram_range=quantile needs a block's inputs in memory, {size / 2**30:.2g} GiB here; "
            "raise method.input_cache_gib or calibrate with fewer tokens"
        )


def _input_bytes(sets: Iterable[InputSet], channel_bytes: int) -> int:
    """Return the bytes of the inputs of a block's sets; channel_bytes: of one channel for all calibration tokens."""
    return int(sum(s.columns * s.token_share for s in sets) * channel_bytes)


def prune_block(
    decoder: Decoder,
    block: Block,
    number: int,
    states: HiddenStates,
    recipe: Recipe,
    clock: WorkClock,
    experts: ExpertTokens | None = None,
) -> list[SetReport]:
    """Prune the matrices of one block, in place, and return a report for each of its sets of matrices."""
    statistics = gather_statistics(decoder, block, states, recipe.required, clock, recipe.input_cache_bytes)
    if experts is not None and recipe.required.kinds:
        experts.add(number, decoder.sets(number), statistics)
    return prune_sets(decoder, block, number, statistics, recipe, clock)


def prune_sets(
    decoder: Decoder,
    block: Block,
    number: int,
    statistics: dict[str, InputStatistics],
    recipe: Recipe,
    clock: WorkClock,
) -> list[SetReport]:
    """Prune the matrices of one block by the statistics of their inputs, in place; return a report for each set."""
    prefix = decoder.architecture.prefix
    return [
        prune_set(block, number, layers, statistics[layers.name], recipe, clock, prefix)
        for layers in decoder.sets(number)
    ]


def gather_statistics(
    decoder: Decoder,
    block: Block,
    states: HiddenStates,
    required: RequiredStatistics,
    clock: WorkClock,
    input_cache_bytes: int = 4 << 30,
) -> dict[str, InputStatistics]:
    """Gather the statistics of the input of each set of matrices of the open block, by the name of the set."""
    sets = decoder.sets(decoder.number)
    if not required.kinds:
        return {s.name: InputStatistics(required) for s in sets}
    channel_bytes = sum(batch.shape[0] * batch.shape[1] for batch in states.batches) * states.batches[0].element_size()
    keep_inputs = _input_bytes(sets, channel_bytes) <= input_cache_bytes
    statistics = {s.name: InputStatistics(required, keep_inputs) for s in sets}
    unfinished, unreached = list(sets), set()
    while unfinished:
        with record_sets(block, unfinished, statistics):
            decoder.run_hooks(block, states)
        unreached |= {s.name for s in unfinished if not statistics[s.name].tokens}
        for s in unfinished:
            if s.name in unreached:
                add_neutral_inputs(statistics[s.name], s.columns, matrix(block, s.linears[0]).device)
        clock("calibration")
        unfinished = [s for s in unfinished if statistics[s.name].end_pass()]
        clock("histograms")
    for name in unreached:
        statistics[name].reached = False
    return statistics


@contextmanager
def record_sets(block: Block, sets: Iterable[InputSet], statistics: dict[str, InputStatistics]) -> Iterator[None]:
    """Add the inputs of sets of matrices to their statistics while the context is open."""
    experts: dict[str, dict[int, list[InputStatistics | None]]] = {}
    layers = []
    for s in sets:
        if s.experts is None:
            layers.append((block.get_submodule(s.linears[0]), statistics[s.name]))
        else:
            pair = experts.setdefault(s.experts, {}).setdefault(s.expert, [None, None])
            pair[bool(s.producers)] = statistics[s.name]
    with record_inputs(layers), ExitStack() as stack:
        for name, pairs in experts.items():
            both = {number: (first, second) for number, (first, second) in pairs.items()}
            stack.enter_context(record_experts(block.get_submodule(name), both))
        yield


def prune_set(
    block: Block,
    number: int,
    layers: InputSet,
    inputs: InputStatistics,
    recipe: Recipe,
    clock: WorkClock,
    prefix: str = "",
) -> SetReport:
    """Prune the layers that share an input, in place: scores, permutation, masks, weight updates.

    Args:
        block: block of the decoder.
        number: number of the block.
        layers: names of the layers.
        inputs: statistics of their input.
        recipe: pruning method.
        clock: clock of the work.
        prefix: what stands before the number of the block in the names of the model.
    """
    weights = [matrix(block, name) for name in layers.linears]
    recipe.pattern.check(f"{layers.linears[0]} of block {number}", weights[0].shape[1])
    scores = recipe.scores(weights, inputs, [f"{prefix}{number}.{name}" for name in layers.linears])
    clock("scores")
    arrangement = recipe.pattern.arrange(
        lambda: scores or recipe.weight_update.criteria(weights, inputs), recipe.permutation
    )
    clock("shuffles")
    order = arrangement.order(weights[0])
    factor = recipe.weight_update.prepare(inputs, order)
    for name, weight, mask in zip(layers.linears, weights, recipe.masks(scores, order, len(weights)), strict=True):
        weight[:, order] = recipe.update_of(name)(weight[:, order], factor, recipe.pattern, mask)
    clock(recipe.weight_update.work)
    return report_set(number, layers.name, weights, arrangement, inputs, recipe)


def report_set(
    number: int,
    name: str,
    weights: list[Tensor],
    arrangement: Arrangement,
    inputs: InputStatistics,
    recipe: Recipe,
) -> SetReport:
    """Return the report of a set of layers whose weights were pruned."""
    report = SetReport(
        block=number,
        name=name,
        permutation=None if arrangement.permutation is None else arrangement.permutation.cpu(),
        pruned=sum(int((weight == 0).sum().item()) for weight in weights),
        size=sum(weight.numel() for weight in weights),
        retained_natural=arrangement.retained_natural,
        retained=arrangement.retained,
    )
    if "entropy" in recipe.required.kinds:
        report.entropy, report.norm = inputs.entropy.cpu(), inputs.mean_square.sqrt().cpu()
    return report


def time_shares(seconds: dict[str, float]) -> str:
    """Format the share of each kind of work: `calibration 71 %, shuffles 20 %, ...`."""
    total = sum(seconds.values()) or 1.0
    return ", ".join(f"{k} {100 * v / total:.0f} %" for k, v in sorted(seconds.items(), key=lambda item: -item[1]))
