"""One-shot pruning of a language model, then its evaluation: the whole run is the test stage."""

from __future__ import annotations

import logging
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from datasets.progress import track
from methods.architectures.language import LanguageModel
from methods.esparse import engine
from methods.esparse.decoder import Decoder, architecture_of, columns_of
from methods.esparse.export import check_free, save_compressed, save_model
from methods.esparse.fold import fold
from methods.esparse.patterns import NM, make_pattern
from methods.esparse.perplexity import perplexity
from methods.esparse.shuffle import Permuter
from methods.esparse.sparsegpt import OBS
from methods.esparse.stream import NOTES, Shards, StreamedDecoder

log = logging.getLogger(__name__)


class OneShotPruning(LightningModule):
    """Prunes every linear layer of the decoder's blocks, without training, and measures what is left.

    Metrics: `test/ppl` (perplexity of the pruned model), `test/dense_ppl`; `test/<task>_acc`, `test/<task>_acc_norm`
    and `test/zeroshot_acc` (their unweighted mean), fractions, and the same with `dense_`; `test/sparsity` (share of
    zeros in the pruned matrices); `test/retained` (mean share of the score that is kept; N:M only);
    `test/prune_seconds` and `test/<work>_seconds` (its parts); `test/eval_seconds` (of the pruned model);
    `test/model_gib` (all weights as they are held), `test/peak_gib` (of the process).

    Args:
        network: where the model comes from.
        remove, of: of every `of` columns `remove` are pruned; ratio: unstructured instead, within a `group` (row,
            matrix, variant). tail: columns that fill no group may stay dense.
        score: of the weights; None: as `update` chooses. shuffle: of the input channels (N:M only). update: of the
            weights that stay.
        dense: measure the dense model too.
        stream: read blocks from the model's shards one at a time, and write them pruned; zero-shot tasks need the whole
            model and are refused.
        export: a new folder for the pruned model in the transformers layout, for 2:4 with the compressed form beside it
            (`<export>/compressed_2to4.safetensors`); with `stream` the default is `model` in the run's folder.
        fold: permute the matrices themselves, with gathers where rows cannot be permuted, instead of leaving the zeros
            in the model's own order.
        sparse: `cutlass` or `cusparselt`: evaluate with the GPU's 2:4 kernels.
        keep_gib: inputs of a block up to this size are held in memory for their histograms.
        tokens_at_once: in a batch of the forward passes.

    `prepare` raises ValueError where sizes, architecture or texts do not fit, FileNotFoundError where weights are
    missing or damaged: before the run starts.
    """

    tasks = ("language-modelling",)
    distributed = False

    def __init__(
        self,
        network: LanguageModel,
        remove: int | None = 2,
        of: int | None = 4,
        ratio: float | None = None,
        group: str = "row",
        tail: bool = False,
        score: engine.Score | None = None,
        shuffle: Permuter | None = None,
        update: OBS | None = None,
        dense: bool = True,
        stream: bool = False,
        export: str | None = None,
        fold: bool = False,
        sparse: str | None = None,
        keep_gib: float = 4.0,
        tokens_at_once: int = 2048,
    ) -> None:
        super().__init__()
        pattern = make_pattern(remove, of, ratio, group, tail)
        self.recipe = engine.Recipe(pattern, score, shuffle, update, int(keep_gib * 2**30))
        if sparse not in (None, "cutlass", "cusparselt"):
            raise ValueError(f"method.sparse must be null, cutlass or cusparselt, got {sparse}")
        if sparse and (remove, of, ratio) != (2, 4, None):
            raise ValueError("method.sparse goes with method.remove=2 method.of=4: GPUs compute no other pattern")
        if stream and (fold or sparse):
            raise ValueError("method.stream writes the model to a folder: fold or compute sparsely with that model")
        if fold and (sparse or export):
            raise ValueError("method.fold stands alone: method.sparse and method.export permute by themselves")
        self.source, self.dense, self.tokens_at_once = network, dense, tokens_at_once
        self.stream, self.fold, self.sparse = stream, fold, sparse
        self.export = Path(export) if export else None
        self.report: engine.Report | None = None
        self.measured: dict[str, float] = {}
        self.accuracies: dict[tuple[str, str], float] = {}
        self.decoder: list[Decoder] = []  # in a list: Lightning need not know its parameters

    def prepare(self, data: Any) -> None:
        """Looks whether everything fits, makes the data's windows, reads the model unless it is streamed."""
        architecture_of(self.source.config)
        for name, columns in columns_of(self.source.config).items():
            self.recipe.pattern.check(f"the input of {name} of {self.source.path}", columns)
        if self.export:
            check_free(self.export)
        if self.stream:
            if self.source.folder is None:
                raise ValueError(
                    f"method.stream reads safetensors from a folder, and {self.source.path} is none: "
                    "give the folder with model.path=<folder>"
                )
            if data.tasks:
                raise ValueError("method.stream never holds the whole model, which zero-shot tasks need")
            Shards(self.source.folder)
        data.tokenize(self.source.encode, self.source.longest)
        engine.check_memory(self.recipe, self.source.config, data.calibration.numel() * self.source.dtype.itemsize)
        if not self.stream:
            self.decoder = [Decoder(self.source.load())]

    def on_test_start(self) -> None:
        data, device = self.trainer.datamodule, self.trainer.strategy.root_device
        if self.stream:
            self.decoder = [self.stream_to_folder(device)]
        else:
            self.decoder[0].model.to(device)
        decoder = self.decoder[0]
        if self.dense:
            for evaluation in data.test_dataloader():
                self.evaluate(decoder, evaluation, "dense_")
        started = time.perf_counter()
        self.report = engine.prune(decoder, data.calibration, self.recipe, track, self.tokens_at_once)
        seconds = time.perf_counter() - started
        log.info("pruned in %.0f s: %s", seconds, split_of(self.report.seconds))
        parts = {f"test/{name}_seconds": value for name, value in self.report.seconds.items()}
        self.measured |= parts | {
            "test/prune_seconds": seconds,
            "test/sparsity": self.report.sparsity,
            "test/model_gib": sum(p.numel() * p.element_size() for p in decoder.model.parameters()) / 2**30,
        }
        if isinstance(self.recipe.pattern, NM):
            self.measured["test/retained"] = self.report.kept
        self.finish(decoder)

    def stream_to_folder(self, device: torch.device) -> Decoder:
        run = Path(self.trainer.default_root_dir)
        self.export = self.export or run / "model"
        part = part_of(self.export)
        owner = part / NOTES / "run.txt"
        if not (owner.exists() and owner.read_text() == str(run)):  # blocks of this run are gone on with
            shutil.rmtree(part, ignore_errors=True)
            owner.parent.mkdir(parents=True)
            owner.write_text(str(run))
        return StreamedDecoder(self.source.folder, self.source.config, self.source.dtype, device, part)

    def finish(self, decoder: Decoder) -> None:
        """Folds, writes and converts what was asked for."""
        if self.fold:
            fold(decoder.model, self.report)
        if isinstance(decoder, StreamedDecoder):
            decoder.finish()
            part_of(self.export).rename(self.export)
            self.decoder = [
                StreamedDecoder(self.export, self.source.config, self.source.dtype, self.trainer.strategy.root_device)
            ]
            log.info("the pruned model lies in %s", self.export)
        elif self.export:
            part = part_of(self.export)
            shutil.rmtree(part, ignore_errors=True)
            save_model(decoder.model, self.source.tokenizer, part)
            if isinstance(self.recipe.pattern, NM) and (self.recipe.pattern.remove, self.recipe.pattern.of) == (2, 4):
                size = save_compressed(self.matrices(decoder), part)
                self.measured["test/compressed_gib"] = size / 2**30
            if self.export.exists():
                self.export.rmdir()  # it was empty
            part.rename(self.export)
            log.info("the pruned model lies in %s", self.export)
        if self.sparse:
            from methods.esparse.semi_structured import sparsify

            named = {name: permutation for name, _, permutation in self.matrices(decoder)}
            permutations = {name: p for name, p in named.items() if p is not None}
            converted = sparsify(decoder.model, list(named), permutations, self.sparse)
            log.info("%d of %d matrices compute as 2:4 by %s", len(converted), len(named), self.sparse)

    def matrices(self, decoder: Decoder) -> Iterator[tuple[str, Tensor, Tensor | None]]:
        """Name, weight and permutation of every pruned matrix of the model in memory."""
        architecture = decoder.architecture
        linears = {layers.name: layers.linears for layers in architecture.sets}
        for entry in self.report.sets:
            for linear in linears[entry.name]:
                name = f"{architecture.trunk}.{architecture.blocks}.{entry.block}.{linear}"
                yield name, decoder.model.get_submodule(name).weight, entry.permutation

    def test_step(self, evaluation: dict[str, Any], index: int) -> None:
        started = time.perf_counter()
        self.evaluate(self.decoder[0], evaluation, "")
        if "tokens" in evaluation:
            self.measured["test/eval_seconds"] = time.perf_counter() - started

    def on_test_epoch_end(self) -> None:
        for kind in ("", "dense_"):
            if accuracies := [value for (k, _), value in self.accuracies.items() if k == kind]:
                self.measured[f"test/{kind}zeroshot_acc"] = sum(accuracies) / len(accuracies)
        unit = 1 if sys.platform == "darwin" else 1024
        self.measured["test/peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
        self.log_dict({name: torch.tensor(value, dtype=torch.float64) for name, value in self.measured.items()})

    def evaluate(self, decoder: Decoder, evaluation: dict[str, Any], kind: str) -> None:
        """Perplexity of a text, or accuracy on a task. kind: `dense_` or empty."""
        if "tokens" in evaluation:
            value = perplexity(decoder, evaluation["tokens"], track, self.tokens_at_once)
            self.measured[f"test/{kind}ppl"] = value
            log.info("%s perplexity on %s: %.2f", "dense" if kind else "pruned", evaluation["name"], value)
            return
        from methods.esparse import zeroshot

        found = zeroshot.evaluate(decoder.model, self.source.encode, evaluation["examples"], progress=track)
        self.measured |= {f"test/{kind}{evaluation['name']}_{name}": value for name, value in found.items()}
        self.accuracies[kind, evaluation["name"]] = found["acc"]

    def figures(self) -> dict[str, Any]:
        from methods.esparse.figures import figures_of

        return figures_of(self.report) if self.report else {}


def part_of(folder: Path) -> Path:
    """Where a folder grows until it is whole."""
    return folder.with_name(folder.name + ".part")


def split_of(seconds: dict[str, float]) -> str:
    """`calibration 71 %, shuffles 20 %, ...`"""
    total = sum(seconds.values()) or 1.0
    return ", ".join(f"{k} {100 * v / total:.0f} %" for k, v in sorted(seconds.items(), key=lambda item: -item[1]))
