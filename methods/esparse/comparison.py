"""Several pruning methods in one walk over the blocks: each block is loaded once, and no pruned model is held."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from methods.esparse.decoder import Decoder, HiddenStates
from methods.esparse.description import Block
from methods.esparse.experts import ExpertTokens
from methods.esparse.input_statistics import InputStatistics, RequiredStatistics
from methods.esparse.matrix_scores import MatrixScore
from methods.esparse.perplexity import perplexity_after_blocks, windows_per_batch
from methods.esparse.pruning import (
    Progress,
    Recipe,
    Report,
    WorkClock,
    block_recipes,
    check_input_cache,
    gather_statistics,
    prune_sets,
)

DENSE = "dense"
INPUTS = ("own", "dense")

Statistics = dict[str, InputStatistics]  # by the name of the set of matrices
Requirement = tuple[int, str]  # bins and range of a histogram


@dataclass
class Candidate:
    """One method on its way through the blocks.

    Args:
        recipes: method for each block; empty: the dense model.
        calibration: hidden states of the calibration windows.
        evaluations: hidden states of the windows of each text.
        report: what was pruned so far.
        perplexities: perplexity on each text, once all blocks are done.
    """

    recipes: list[Recipe]
    calibration: HiddenStates
    evaluations: list[HiddenStates]
    report: Report = field(default_factory=Report)
    perplexities: list[float] = field(default_factory=list)


class Comparison:
    """Prune and evaluate a model by several methods in one walk over its blocks.

    With `inputs="own"` each method sees the outputs of the blocks that it has pruned itself, as in a run of its own:
    results are those of single runs. The first block's statistics, which do not depend on a mask, are gathered once for
    all methods. With `inputs="dense"` all statistics come from the dense model: one pass over a block serves all
    methods, but from the second block on results differ from those of single runs.

    Args:
        recipes: methods by name.
        inputs: "own" or "dense".
        track: shows the progress over the blocks.
        tokens_per_batch: tokens of a batch of the forward passes.
    """

    def __init__(self, recipes: dict[str, Recipe], inputs: str, track: Progress, tokens_per_batch: int = 2048) -> None:
        self.recipes, self.inputs, self.track, self.tokens_per_batch = recipes, inputs, track, tokens_per_batch
        self.seconds: dict[str, float] = defaultdict(float)
        self.experts = ExpertTokens()

    @torch.inference_mode()
    def run(self, decoder: Decoder, calibration: Tensor, evaluations: list[Tensor]) -> dict[str, Candidate]:
        """Return the results by method, "dense" for the model as it is. The model's weights are unchanged afterwards.

        Args:
            decoder: model.
            calibration: (windows, L) calibration tokens.
            evaluations: (windows, L) tokens of each text.

        Raises:
            ValueError: if a matrix does not fit a pattern, or inputs do not fit in memory for quantiles.
            FloatingPointError: if a block's outputs are not finite.
        """
        candidates = self._start(decoder, calibration, evaluations)
        for i in self.track(range(len(decoder)), "comparing, block"):
            with decoder.block(i) as block:
                self._block(decoder, block, i, candidates)
        for candidate in candidates.values():
            pairs = zip(candidate.evaluations, evaluations, strict=True)
            candidate.perplexities = [perplexity_after_blocks(decoder, states, windows) for states, windows in pairs]
        self.experts.warn()
        return candidates

    def _start(self, decoder: Decoder, calibration: Tensor, evaluations: list[Tensor]) -> dict[str, Candidate]:
        """Return all methods before the first block."""
        embedded = [self._embed(decoder, windows) for windows in (calibration, *evaluations)]
        candidates = {DENSE: Candidate([], *_copies(embedded))}
        for name, recipe in self.recipes.items():
            check_input_cache(recipe, decoder.model.config, calibration.numel() * decoder.model.dtype.itemsize)
            candidates[name] = candidate = Candidate([recipe] * len(decoder), *_copies(embedded))
            clock = WorkClock(candidate.report.seconds)
            if isinstance(recipe.score, MatrixScore):
                recipe.score.begin(decoder, calibration, self.track)
                clock("gradients")
            if recipe.allocation is not None:
                batch = windows_per_batch(calibration.shape[1], self.tokens_per_batch)
                candidate.recipes = block_recipes(decoder, calibration, recipe, recipe.allocation, self.track, batch)
                clock("allocation")
        return candidates

    def _embed(self, decoder: Decoder, windows: Tensor) -> HiddenStates:
        return decoder.embed(windows, windows_per_batch(windows.shape[1], self.tokens_per_batch))

    def _block(self, decoder: Decoder, block: Block, number: int, candidates: dict[str, Candidate]) -> None:
        """Take all methods through one block."""
        dense = candidates[DENSE]
        pruned = [candidate for name, candidate in candidates.items() if name != DENSE]
        shared = None
        if number == 0 or self.inputs == "dense":
            shared = self._shared_statistics(decoder, block, dense.calibration, [c.recipes[number] for c in pruned])
        for candidate in pruned:
            recipe, clock = candidate.recipes[number], WorkClock(candidate.report.seconds)
            with _weights_restored(block):
                if shared is not None:
                    statistics = shared[_requirement(recipe.required)]
                else:
                    statistics = self._gather(decoder, block, candidate.calibration, recipe.required, recipe, clock)
                candidate.report.sets += prune_sets(decoder, block, number, statistics, recipe, clock)
                if self.inputs == "own" and recipe.required.kinds:
                    decoder.run_block(block, candidate.calibration)
                clock("calibration")
                for states in candidate.evaluations:
                    decoder.run_block(block, states)
                clock("evaluation")
        if self.inputs == "dense":
            decoder.run_block(block, dense.calibration)
        for states in dense.evaluations:
            decoder.run_block(block, states)

    def _shared_statistics(
        self, decoder: Decoder, block: Block, states: HiddenStates, recipes: list[Recipe]
    ) -> dict[Requirement, Statistics]:
        """Gather what all methods need of the same inputs, once for each kind of histogram."""
        kinds: dict[Requirement, frozenset[str]] = {}
        for recipe in recipes:
            key = _requirement(recipe.required)
            kinds[key] = kinds.get(key, frozenset()) | recipe.required.kinds
        clock = WorkClock(self.seconds)
        required = {(bins, span): RequiredStatistics(found, bins, span) for (bins, span), found in kinds.items()}  # type: ignore[arg-type]
        return {
            key: self._gather(decoder, block, states, needed, recipes[0], clock) for key, needed in required.items()
        }

    def _gather(
        self,
        decoder: Decoder,
        block: Block,
        states: HiddenStates,
        required: RequiredStatistics,
        recipe: Recipe,
        clock: WorkClock,
    ) -> Statistics:
        statistics = gather_statistics(decoder, block, states, required, clock, recipe.input_cache_bytes)
        if required.kinds:
            self.experts.add(decoder.number, decoder.sets(decoder.number), statistics)
        return statistics


def _requirement(required: RequiredStatistics) -> Requirement:
    return required.bins, required.histogram_range


def _copies(embedded: list[HiddenStates]) -> tuple[HiddenStates, list[HiddenStates]]:
    """Return states of calibration and evaluations that can be replaced without changing the given ones."""
    calibration, *evaluations = (states.copy() for states in embedded)
    return calibration, evaluations


@contextmanager
def _weights_restored(block: Block) -> Iterator[None]:
    """Give the block its weights back when the context is left."""
    saved = [parameter.detach().clone() for parameter in block.parameters()]
    try:
        yield
    finally:
        for parameter, weights in zip(block.parameters(), saved, strict=True):
            parameter.copy_(weights)
