"""One-shot pruning of a language model and its evaluation. The whole run is the test stage."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from datasets.checks import check_choice
from datasets.progress import track
from methods.architectures.language import LanguageModel
from methods.esparse.decoder import Decoder
from methods.esparse.description import KNOWN, matrix
from methods.esparse.export import (
    UNFINISHED,
    check_free,
    is_signed,
    make_free,
    partial_folder,
    save_compressed,
    save_model,
    sign,
    whole_folder,
)
from methods.esparse.matrix_scores import MatrixScore
from methods.esparse.owl import OWL
from methods.esparse.patterns import NM, Permutation, make_pattern
from methods.esparse.permutation_folding import check_foldable, fold_permutations
from methods.esparse.perplexity import perplexity
from methods.esparse.placement import place
from methods.esparse.probing import describe
from methods.esparse.pruning import Recipe, Report, check_input_cache, prune, time_shares
from methods.esparse.scores import Score
from methods.esparse.source_checks import check_batches, check_columns, check_precision, check_streamable, load_checked
from methods.esparse.sparsegpt import MaskOnly, WeightUpdate
from methods.esparse.streaming import StreamedDecoder

log = logging.getLogger(__name__)

SPARSE_BACKENDS = ("cutlass", "cusparselt")


class OneShotPruning(LightningModule):
    """One-shot pruning of every linear layer of a decoder's blocks, without training.

    Metrics: `test/ppl` (perplexity of the pruned model), `test/dense_ppl`; `test/<task>_acc`, `test/<task>_acc_norm`
    and `test/zeroshot_acc` (their unweighted mean), as fractions, and the same with `dense_`; `test/sparsity` (share of
    zeros in the pruned matrices); `test/retained` (mean share of the score that is kept; N:M only);
    `test/prune_seconds` and `test/<work>_seconds` (its parts); `test/eval_seconds` (of the pruned model);
    `test/model_gib` (all weights as they are held); `test/compressed_gib` (2:4 with `export`).

    Args:
        network: source of the model.
        pattern: N:M, such as "2:4": N of every M consecutive weights of a row are kept.
        ratio: share of the weights to prune without a pattern; replaces `pattern`.
        group: weights that are compared with `ratio`: "row", "matrix", or "variant" (Wanda's variant).
        allow_remainder: let columns that fill no group of M stay dense.
        score: score of each weight; None: the weight update chooses the mask (SparseGPT).
        permutation: permutation of the input channels; N:M only.
        weight_update: update of the weights that are kept; None: they stay as they are.
        allocation: chooses a ratio for each block; with `ratio` only.
        eval_dense: evaluate the dense model too.
        stream: read blocks from the model's shards one at a time and write them pruned. Zero-shot tasks need the whole
            model and are refused.
        export: new folder for the pruned model in the transformers layout, for 2:4 with the compressed form beside it
            (`<export>/compressed_2to4.safetensors`). With `stream` the default is `model` in the run's folder.
        fold_permutation: permute the matrices themselves, with gathers where rows cannot be permuted; otherwise the
            weights stay in the model's own order.
        sparse_backend: "cutlass" or "cusparselt": evaluate with the GPU's 2:4 kernels.
        input_cache_gib: inputs of a block up to this size are kept in memory for their histograms.
        tokens_per_batch: tokens of a batch of the forward passes.

    Raises:
        ValueError: if arguments do not fit together.
    """

    tasks = ("language-modelling",)
    distributed = False

    def __init__(
        self,
        network: LanguageModel,
        pattern: str | None = "2:4",
        ratio: float | None = None,
        group: str = "row",
        allow_remainder: bool = False,
        score: Score | None = None,
        permutation: Permutation | None = None,
        weight_update: WeightUpdate | None = None,
        allocation: OWL | None = None,
        eval_dense: bool = True,
        stream: bool = False,
        export: str | None = None,
        fold_permutation: bool = False,
        sparse_backend: str | None = None,
        input_cache_gib: float = 4.0,
        tokens_per_batch: int = 2048,
    ) -> None:
        super().__init__()
        check_batches(tokens_per_batch, input_cache_gib)
        self.pattern = make_pattern(pattern, ratio, group, allow_remainder)
        self.recipe = Recipe(
            self.pattern, score, permutation, weight_update or MaskOnly(), allocation, int(input_cache_gib * 2**30)
        )
        self.source, self.eval_dense, self.tokens_per_batch = network, eval_dense, tokens_per_batch
        self.stream, self.fold_permutation, self.sparse_backend = stream, fold_permutation, sparse_backend
        self.export = Path(export) if export else None
        self._check_options()
        self.report: Report | None = None
        self.measured: dict[str, float] = {}
        self.accuracies: dict[tuple[str, str], float] = {}
        self.decoder: list[Decoder] = []  # in a list, so that Lightning does not register its parameters

    def _check_options(self) -> None:
        if self.sparse_backend is not None:
            check_choice("method.sparse_backend", self.sparse_backend, SPARSE_BACKENDS)
        if self.sparse_backend and not self._is_2to4():
            raise ValueError('method.sparse_backend needs method.pattern="2:4": GPUs compute no other pattern')
        if self.stream and (self.fold_permutation or self.sparse_backend):
            raise ValueError(
                "method.stream excludes method.fold_permutation and method.sparse_backend, and keeps no permutations: "
                "set method.stream=false. A model that was streamed without a permutation can be run again by "
                "method=esparse/magnitude model.path=<the folder that it wrote>, which keeps its zeros"
            )
        if self.stream and getattr(self.recipe.score, "whole_model", False):
            raise ValueError(
                "method.stream never holds the whole model, which the gradients of method.score need: "
                "choose another score"
            )
        if self.fold_permutation and (self.sparse_backend or self.export):
            raise ValueError(
                "method.fold_permutation excludes method.sparse_backend and method.export, which permute by themselves"
            )

    def _is_2to4(self) -> bool:
        return isinstance(self.pattern, NM) and (self.pattern.n, self.pattern.m) == (2, 4)

    def prepare(self, data: Any) -> None:
        """Check that everything fits, tokenize the data, and load the model unless it is streamed.

        Args:
            data: DataModule of texts.

        Raises:
            ValueError: if sizes, architecture, weights or texts do not fit.
            FileNotFoundError: if weights are missing or damaged.
        """
        describe(self.source.config)
        if self.fold_permutation and self.recipe.permutation:
            check_foldable(self.source.config)
        self.source.check_not_quantised()
        check_columns(self.source, self.pattern, self.sparse_backend)
        if isinstance(self.recipe.score, MatrixScore):
            self.recipe.score.check(describe(self.source.config), self.pattern)
        if self.export and self.training and not (self.export / UNFINISHED).exists():  # which `on_test_start` looks at
            check_free(self.export)  # in eval mode it is the module of a finished run
        if self.stream:
            check_streamable(self.source, data)
        data.tokenize(self.source.encode, self.source.longest)
        if self.source.tokenizer_exceeds_embeddings:
            _encode_examples(self.source, data)
        check_input_cache(self.recipe, self.source.config, data.calibration.numel() * self.source.dtype.itemsize)
        if not self.stream:
            self.decoder = [load_checked(self.source)]

    def setup(self, stage: str) -> None:
        """Check that the Trainer leaves the precision to the model. Raise ValueError if it does not."""
        check_precision(self.trainer)

    def on_test_start(self) -> None:
        """Evaluate the dense model, prune, and store the pruned model."""
        trainer: Any = self.trainer
        data, device = trainer.datamodule, trainer.strategy.root_device
        if self.stream or self.export:
            self._take_folder()
        if self.stream:
            self.decoder = [self._open_stream(device)]
        else:
            place(self.decoder[0], device)
        decoder = self.decoder[0]
        if not self.stream and self.source.config.model_type not in KNOWN:
            decoder.check_walk(data.calibration)
        if self.eval_dense:
            for evaluation in data.test_dataloader():
                self._evaluate(decoder, evaluation, "dense_")
        started = time.perf_counter()
        self.report = report = prune(decoder, data.calibration, self.recipe, track, self.tokens_per_batch)
        seconds = time.perf_counter() - started
        log.info("pruned in %.0f s: %s", seconds, time_shares(report.seconds))
        self.measured |= {f"test/{name}_seconds": value for name, value in report.seconds.items()} | {
            "test/prune_seconds": seconds,
            "test/sparsity": report.sparsity,
            "test/model_gib": sum(p.numel() * p.element_size() for p in decoder.model.parameters()) / 2**30,
        }
        if isinstance(self.pattern, NM):
            self.measured["test/retained"] = report.retained
        self._store(decoder, report)

    def _open_stream(self, device: torch.device) -> StreamedDecoder:
        """Open the model for streaming. Blocks that this run has written before an interruption are kept."""
        out = self._export_folder()
        if not is_signed(out, self._run_folder()):
            out = partial_folder(out)
        if not is_signed(out, self._run_folder()):
            shutil.rmtree(out, ignore_errors=True)
            sign(out, self._run_folder())
        return StreamedDecoder(Path(self.source.place), self.source.config, self.source.dtype, device, out)

    def _take_folder(self) -> None:
        """Make the folder of the model free, but for a streamed model that this run has still to evaluate."""
        if not (self.stream and is_signed(self._export_folder(), self._run_folder())):
            make_free(self._export_folder(), self._run_folder())

    def _run_folder(self) -> Path:
        return Path(self.trainer.default_root_dir)

    def _export_folder(self) -> Path:
        return self.export or self._run_folder() / "model"

    def _store(self, decoder: Decoder, report: Report) -> None:
        """Fold permutations, write the model, and convert it to sparse kernels, as far as configured."""
        if self.fold_permutation:
            fold_permutations(decoder.model, report)
        if isinstance(decoder, StreamedDecoder):
            self._close_stream(decoder)
        elif self.export:
            self._export(decoder, report, self.export)
        if self.sparse_backend:
            self._convert(decoder, report, self.sparse_backend)

    def _close_stream(self, decoder: StreamedDecoder) -> None:
        """Complete the streamed model's folder and open it for evaluation."""
        decoder.finish()
        folder = self._export_folder()
        if decoder.out_folder != folder:
            if folder.exists():
                folder.rmdir()  # `check_free` has seen that it is empty
            decoder.out_folder.rename(folder)
        log.info("wrote the pruned model to %s", folder)
        if self.recipe.permutation is not None:
            log.warning(
                "the model in %s is without its channel permutations, in whose order alone it has the pattern %s: it "
                "cannot be compressed or run by sparse kernels later. Pruned in memory (method.stream=false) it can",
                folder,
                self.pattern,
            )
        self.decoder = [StreamedDecoder(folder, self.source.config, self.source.dtype, decoder.device)]

    def _export(self, decoder: Decoder, report: Report, folder: Path) -> None:
        """Write the pruned model, for 2:4 with the compressed form."""
        with whole_folder(folder) as part:
            save_model(decoder.model, self.source.tokenizer, part)
            sign(part, self._run_folder())
            if self._is_2to4():
                matrices = list(_matrices(decoder, report))
                whole = [matrix for matrix in matrices if matrix[1].shape[1] % 4 == 0]
                self.measured["test/compressed_gib"] = save_compressed(whole, part) / 2**30
                if len(whole) < len(matrices):
                    log.warning(
                        "%d of %d matrices are not in the compressed file: their columns are no multiple of 4",
                        len(matrices) - len(whole),
                        len(matrices),
                    )
        log.info("wrote the pruned model to %s", folder)

    def _convert(self, decoder: Decoder, report: Report, backend: str) -> None:
        """Replace the pruned layers by layers that compute with the GPU's 2:4 kernels."""
        from methods.esparse.semi_structured import sparsify

        permutations = {name: permutation for name, _, permutation in _matrices(decoder, report)}
        given = {name: permutation for name, permutation in permutations.items() if permutation is not None}
        converted = sparsify(decoder.model, list(permutations), given, backend)
        log.info("%d of %d matrices compute as 2:4 by %s", len(converted), len(permutations), backend)

    def test_step(self, evaluation: dict[str, Any], index: int) -> None:
        """Evaluate the pruned model on a text or a zero-shot task."""
        started = time.perf_counter()
        self._evaluate(self.decoder[0], evaluation, "")
        if "tokens" in evaluation:
            self.measured["test/eval_seconds"] = time.perf_counter() - started

    def on_test_epoch_end(self) -> None:
        """Log all metrics."""
        for kind in ("", "dense_"):
            if accuracies := [value for (k, _), value in self.accuracies.items() if k == kind]:
                self.measured[f"test/{kind}zeroshot_acc"] = sum(accuracies) / len(accuracies)
        if self.stream or self.export:
            shutil.rmtree(self._export_folder() / UNFINISHED, ignore_errors=True)
        self.log_dict({name: torch.tensor(value, dtype=torch.float64) for name, value in self.measured.items()})

    def _evaluate(self, decoder: Decoder, evaluation: dict[str, Any], kind: str) -> None:
        """Measure perplexity on a text or accuracy on a zero-shot task. kind: "dense_" or empty."""
        if "tokens" in evaluation:
            value = perplexity(decoder, evaluation["tokens"], track, self.tokens_per_batch)
            self.measured[f"test/{kind}ppl"] = value
            log.info("%s perplexity on %s: %.2f", "dense" if kind else "pruned", evaluation["name"], value)
            return
        from methods.esparse import zeroshot

        accuracies = zeroshot.evaluate(decoder.model, self.source.encode, evaluation["examples"], progress=track)
        self.measured |= {f"test/{kind}{evaluation['name']}_{name}": value for name, value in accuracies.items()}
        self.accuracies[kind, evaluation["name"]] = accuracies["acc"]

    def predict_files(self, paths: list[Path], out: Path, data: Any, tokens: int = 0) -> list[Path]:
        """Write the perplexity of texts under the pruned model, and their continuation (`prediction.predict_texts`).

        The model that the run exported is read; without one the model is pruned again.

        Args:
            paths: text files, or folders of them.
            out: folder of the files.
            data: DataModule of the run.
            tokens: number of tokens by which each text is continued.
        """
        from methods.esparse.prediction import predict_texts

        model, tokenizer = self._pruned_model(data), self.source.tokenizer
        window = min(data.window or self.source.longest, self.source.longest)
        return predict_texts(model, self.source.encode, tokenizer.decode, paths, out, window, tokens)

    def _pruned_model(self, data: Any) -> Any:
        """Return the pruned model: the exported one, or the one in memory after pruning it."""
        if self.export and (self.export / "config.json").exists():
            return LanguageModel(str(self.export), str(self.source.dtype).removeprefix("torch.")).load()
        if self.stream:
            raise ValueError(
                "method.stream keeps no model in memory: name the folder that it wrote, method.export=<folder>"
            )
        log.info("the run exported no model (method.export=<folder>): the model is pruned again")
        self.report = prune(self.decoder[0], data.calibration, self.recipe, track, self.tokens_per_batch)
        return self.decoder[0].model

    def figures(self) -> dict[str, Any]:
        """Return the figures of the run by name."""
        from methods.esparse.figures import draw_figures

        return draw_figures(self.report) if self.report else {}


def _matrices(decoder: Decoder, report: Report) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """Yield name, weight and permutation of every pruned matrix of the model in memory."""
    architecture = decoder.architecture
    for entry in report.sets:
        (layers,) = (s for s in architecture.block_sets[entry.block] if s.name == entry.name)
        for linear in layers.linears:
            name = f"{architecture.prefix}{entry.block}.{linear}"
            yield name, matrix(decoder.model, name), entry.permutation


def _encode_examples(source: LanguageModel, data: Any) -> None:
    """Encode all zero-shot texts, so that tokens without an embedding are found before anything is pruned."""
    for examples in data.examples.values():
        for example in examples:
            for context, choice in zip(example.contexts, example.choices, strict=True):
                source.encode(context + choice)
