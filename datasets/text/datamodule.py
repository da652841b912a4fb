"""DataModule of texts for language models: windows to calibrate with, windows and questions to evaluate on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from datasets.text import sources
from datasets.text.windows import Encode, consecutive_windows, document_windows, text_windows


class TextData(LightningDataModule):
    """Text to calibrate with and to evaluate on; tokens once it is told how text is encoded.

    After `tokenize`: `calibration` (samples, length) int64; `test` (windows, window) int64.
    The test loader yields one evaluation at a time: {"name": str, "tokens": (windows, window) int64}, then for each
    zero-shot task {"name": str, "examples": list of `zeroshot.Example`}.

    Args:
        evaluate: the text that perplexity is measured on (see `sources.read`).
        window: its window in tokens; None: the longest that the model was made for. limit: windows at most; None: all.
        calibration: source, samples, length (tokens), seed; sampling: `documents` (the papers') or `text` (random
            windows of the documents in one). Where source and evaluate are the same, each gets half of the documents.
        zeroshot: tasks, of `zeroshot.TASKS`. questions: of each, at most; None: all.
        root: the data folder. seed, workers: unused.

    Raises MissingData, CorruptData (setup), ValueError (bad arguments; tokenize: text shorter than a window).
    """

    task = "language-modelling"

    def __init__(
        self,
        evaluate: str,
        calibration: dict[str, Any],
        window: int | None = 2048,
        limit: int | None = None,
        zeroshot: list[str] | tuple[str, ...] = (),
        questions: int | None = None,
        root: str | Path = "data",
        seed: int = 0,
        workers: int = 0,
    ) -> None:
        super().__init__()
        for name, value in {"window": window, "limit": limit, "questions": questions}.items():
            if value is not None and value < 1:
                raise ValueError(f"dataset.{name} must be positive, got {value}")
        if window == 1:
            raise ValueError("dataset.window must be at least 2: the first token of a window is not predicted")
        self.evaluate, self.window, self.limit = evaluate, window, limit
        self.plan = CalibrationPlan(**calibration)
        self.tasks, self.questions = tuple(zeroshot), questions
        self.root = Path(root)
        self.calibration: Tensor | None = None
        self.test: Tensor | None = None

    @property
    def dims(self) -> dict[str, Any]:
        """What the model is told: where weights may lie."""
        return {"root": self.root}

    def setup(self, stage: str | None = None) -> None:
        if hasattr(self, "documents"):
            return
        self.documents = sources.read(self.evaluate, self.root)
        if self.plan.source == self.evaluate:
            self.calibration_documents, self.documents = sources.halves(self.documents)
        else:
            self.calibration_documents = sources.read(self.plan.source, self.root)
        self.examples = {}
        if self.tasks:
            from datasets.text import zeroshot

            self.examples = {name: zeroshot.read(name, self.root)[: self.questions] for name in self.tasks}

    def tokenize(self, encode: Encode, longest: int) -> None:
        """Makes the windows. encode: text -> token numbers; longest: tokens that the model was made for."""
        window = self.window or longest
        for name, length in {"window": window, "calibration.length": self.plan.length}.items():
            if length > longest:
                raise ValueError(f"dataset.{name}={length}, but this model takes {longest} tokens at most")
        self.test = consecutive_windows(self.documents, encode, window, self.limit)
        self.calibration = self.plan.windows(self.calibration_documents, encode)

    def test_dataloader(self) -> DataLoader:
        if self.test is None:
            raise RuntimeError("tokenize has not been called")
        text = {"name": self.evaluate, "tokens": self.test}
        tasks = [{"name": name, "examples": examples} for name, examples in self.examples.items()]
        return DataLoader([text, *tasks], batch_size=None)

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        return batch  # a method moves the windows of an evaluation itself, a batch at a time


class CalibrationPlan:
    """Which windows to calibrate with. Arguments as `TextData` has them."""

    def __init__(
        self,
        source: str,
        samples: int = 128,
        length: int = 2048,
        seed: int = 0,
        sampling: Literal["documents", "text"] = "documents",
    ) -> None:
        if sampling not in ("documents", "text"):
            raise ValueError(f"dataset.calibration.sampling must be documents or text, got {sampling}")
        for name, value in {"samples": samples, "length": length}.items():
            if value < 1:
                raise ValueError(f"dataset.calibration.{name} must be positive, got {value}")
        self.source, self.samples, self.length = source, samples, length
        self.seed, self.sampling = seed, sampling

    def windows(self, documents: list[str], encode: Encode) -> Tensor:
        draw = document_windows if self.sampling == "documents" else text_windows
        return draw(documents, encode, self.samples, self.length, self.seed)
