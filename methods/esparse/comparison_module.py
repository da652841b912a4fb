"""Comparison of pruning methods on one model and one calibration. The whole run is the test stage."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule

from datasets.checks import check_choice
from datasets.progress import track
from methods.architectures.language import LanguageModel
from methods.esparse.comparison import INPUTS, Candidate, Comparison
from methods.esparse.decoder import Decoder
from methods.esparse.description import KNOWN
from methods.esparse.matrix_scores import MatrixScore
from methods.esparse.patterns import NM, make_pattern
from methods.esparse.placement import place
from methods.esparse.probing import describe
from methods.esparse.pruning import Recipe, check_input_cache
from methods.esparse.source_checks import check_batches, check_columns, check_precision, check_streamable, load_checked
from methods.esparse.streaming import StreamedDecoder

log = logging.getLogger(__name__)


class MethodComparison(LightningModule):
    """Perplexity of a model pruned by several methods, in one walk over its blocks.

    Metrics: `test/dense_ppl`; for each method `test/<method>_ppl`, `test/<method>_sparsity` (share of zeros in the
    pruned matrices), `test/<method>_retained` (mean share of its own score that is kept; N:M only) and
    `test/<method>_seconds` (its own work, without what it shares with others); `test/shared_seconds`.

    Args:
        network: source of the model.
        methods: parts of each method by its name: `score`, `permutation`, `weight_update`, `allocation`, `group`, as
            in `OneShotPruning`.
        pattern: N:M, such as "2:4".
        ratio: share of the weights to prune without a pattern; replaces `pattern`.
        allow_remainder: let columns that fill no group of M stay dense.
        inputs: "own": each method sees the outputs of the blocks that it has pruned, as in a run of its own; "dense":
            all statistics come from the dense model, in one pass over each block.
        leave_out: names of methods to leave out.
        stream: read blocks from the model's shards one at a time.
        input_cache_gib: inputs of a block up to this size are kept in memory for their histograms.
        tokens_per_batch: tokens of a batch of the forward passes.

    Raises:
        ValueError: if arguments do not fit together, or no method is left.
    """

    tasks = ("language-modelling",)
    distributed = False

    def __init__(
        self,
        network: LanguageModel,
        methods: dict[str, dict[str, Any]],
        pattern: str | None = "2:4",
        ratio: float | None = None,
        allow_remainder: bool = False,
        inputs: str = "own",
        leave_out: list[str] | None = None,
        stream: bool = False,
        input_cache_gib: float = 4.0,
        tokens_per_batch: int = 2048,
    ) -> None:
        super().__init__()
        check_batches(tokens_per_batch, input_cache_gib)
        check_choice("method.inputs", inputs, INPUTS)
        for name in leave_out or ():
            check_choice("method.leave_out", name, tuple(methods))
        chosen = {name: parts for name, parts in methods.items() if name not in (leave_out or ())}
        self.pattern = make_pattern(pattern, ratio, allow_remainder=allow_remainder)
        needless = "allocation" if isinstance(self.pattern, NM) else "permutation"
        unfit = [name for name, parts in chosen.items() if parts.get(needless) is not None]
        if unfit:
            log.info("left out, since their %s does not fit the pattern: %s", needless, ", ".join(unfit))
        self.recipes = {
            name: _recipe(parts, pattern, ratio, allow_remainder, input_cache_gib)
            for name, parts in chosen.items()
            if name not in unfit
        }
        if not self.recipes:
            raise ValueError("no method is left to compare: see method.methods and method.leave_out")
        self.source, self.inputs, self.stream, self.tokens_per_batch = network, inputs, stream, tokens_per_batch
        self.decoder: list[Decoder] = []  # in a list, so that Lightning does not register its parameters
        self.measured: dict[str, float] = {}

    def prepare(self, data: Any) -> None:
        """Check that everything fits, tokenize the data, and load the model unless it is streamed.

        Args:
            data: DataModule of texts.

        Raises:
            ValueError: if sizes, architecture, weights or texts do not fit.
            FileNotFoundError: if weights are missing or damaged.
        """
        description = describe(self.source.config)
        self.source.check_not_quantised()
        check_columns(self.source, self.pattern)
        if data.tasks:
            raise ValueError(
                "a comparison holds no pruned model, which zero-shot tasks need: set dataset.zeroshot=[], "
                "or run the methods one by one"
            )
        if self.stream:
            check_streamable(self.source, data)
        for name, recipe in self.recipes.items():
            if isinstance(recipe.score, MatrixScore):
                if self.stream and recipe.score.whole_model:
                    raise ValueError(f"method.stream never holds the whole model: set method.leave_out=[{name}]")
                recipe.score.check(description, recipe.pattern)
        data.tokenize(self.source.encode, self.source.longest)
        for recipe in self.recipes.values():
            check_input_cache(recipe, self.source.config, data.calibration.numel() * self.source.dtype.itemsize)
        if not self.stream:
            self.decoder = [load_checked(self.source)]

    def setup(self, stage: str) -> None:
        """Check that the Trainer leaves the precision to the model. Raise ValueError if it does not."""
        check_precision(self.trainer)

    def on_test_start(self) -> None:
        """Prune and evaluate by all methods."""
        trainer: Any = self.trainer
        data, device = trainer.datamodule, trainer.strategy.root_device
        if self.stream:
            self.decoder = [StreamedDecoder(Path(self.source.place), self.source.config, self.source.dtype, device)]
        else:
            place(self.decoder[0], device)
        decoder = self.decoder[0]
        if not self.stream and self.source.config.model_type not in KNOWN:
            decoder.check_walk(data.calibration)
        texts = [evaluation for evaluation in data.test_dataloader() if "tokens" in evaluation]
        comparison = Comparison(self.recipes, self.inputs, track, self.tokens_per_batch)
        results = comparison.run(decoder, data.calibration, [text["tokens"] for text in texts])
        self.measured["test/shared_seconds"] = sum(comparison.seconds.values())
        for name, candidate in results.items():
            self.measured |= {f"test/{name}_{metric}": value for metric, value in self._metrics(candidate).items()}
        log.info("%s", table(results, texts[0]["name"]))

    def _metrics(self, candidate: Candidate) -> dict[str, float]:
        """Return the metrics of one method, by name."""
        metrics = {"ppl": candidate.perplexities[0]}
        if candidate.report.sets:
            metrics |= {
                "sparsity": candidate.report.sparsity,
                "seconds": sum(v for k, v in candidate.report.seconds.items() if k != "evaluation"),
            }
            if isinstance(self.pattern, NM):
                metrics["retained"] = candidate.report.retained
        return metrics

    def test_step(self, evaluation: dict[str, Any], index: int) -> None:
        """Do nothing: all texts were evaluated in the walk over the blocks."""

    def on_test_epoch_end(self) -> None:
        """Log all metrics."""
        self.log_dict({name: torch.tensor(value, dtype=torch.float64) for name, value in self.measured.items()})


def _recipe(
    parts: dict[str, Any], pattern: str | None, ratio: float | None, allow_remainder: bool, input_cache_gib: float
) -> Recipe:
    """Return a method of the comparison."""
    given = {name: part for name, part in parts.items() if name != "group" and part is not None}
    made = make_pattern(pattern, ratio, parts.get("group", "row"), allow_remainder)
    return Recipe(made, given.pop("score", None), input_cache_bytes=int(input_cache_gib * 2**30), **given)


def table(results: dict[str, Candidate], text: str) -> str:
    """Format the methods as a table in the order of their perplexity on a text."""
    rows = sorted(results.items(), key=lambda item: item[1].perplexities[0])
    width = max(len(name) for name in results)
    lines = [f"{name:<{width}}  {candidate.perplexities[0]:12.2f}" for name, candidate in rows]
    return "\n".join([f"perplexity on {text}", *(f"  {line}" for line in lines)])
