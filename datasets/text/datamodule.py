"""DataModule of texts for language models: calibration windows, evaluation windows and zero-shot questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from datasets.checks import check_choice, check_count, check_seed
from datasets.text import sources
from datasets.text.windows import Encode, consecutive_windows, document_windows, text_windows

SAMPLINGS = {"documents": document_windows, "text": text_windows}


class TextData(LightningDataModule):
    """Texts for calibration and evaluation. `tokenize` makes the windows.

    After `tokenize`, `calibration` is (samples, length) int64 and `test` is (windows, window) int64. The test loader
    yields one evaluation at a time: {"name": str, "tokens": (windows, window) int64}, then for each zero-shot task
    {"name": str, "examples": list of `zeroshot.Example`}.

    Args:
        evaluate: text for perplexity, see `sources.read`.
        calibration: arguments of `CalibrationPlan`. If its source is `evaluate`, each gets half of the documents.
        window: tokens of an evaluation window; None: as many as the model was made for.
        limit: largest number of evaluation windows; None: all.
        zeroshot: names of tasks, see `zeroshot.TASKS`.
        questions: largest number of questions of each task; None: all.
        root: data folder.
        seed: unused; the calibration has its own.
        workers: unused.

    Raises:
        ValueError: if an argument is outside its range.
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
        check_count("dataset", window=window, limit=limit, questions=questions)
        if isinstance(zeroshot, str):
            raise ValueError(
                f"dataset.zeroshot must be a list of tasks, got {zeroshot}: write dataset.zeroshot=[{zeroshot}]"
            )
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
        """Arguments of the model that depend on the data: the folder where weights may lie."""
        return {"root": self.root}

    def setup(self, stage: str | None = None) -> None:
        """Read all texts, once.

        Raises:
            MissingData: if a text is not found.
            CorruptData: if a file does not hold what it should.
            ValueError: if a text or task is unknown.
        """
        if hasattr(self, "documents"):
            return
        self.documents = sources.read(self.evaluate, self.root)
        if self.plan.source == self.evaluate:
            self.calibration_documents, self.documents = sources.halves(self.documents)
        else:
            self.calibration_documents = sources.read(self.plan.source, self.root)
        self.examples: dict[str, list[Any]] = {}
        if self.tasks:
            from datasets.text import zeroshot

            self.examples = {name: zeroshot.read(name, self.root)[: self.questions] for name in self.tasks}

    def tokenize(self, encode: Encode, longest: int) -> None:
        """Make the windows.

        Args:
            encode: returns the tokens of a text.
            longest: number of tokens that the model was made for.

        Raises:
            ValueError: if a window is longer than the model takes or than the text.
        """
        window = self.window or longest
        for name, length in {"window": window, "calibration.length": self.plan.length}.items():
            if length > longest:
                raise ValueError(f"dataset.{name}={length}, but this model takes {longest} tokens at most")
        self.test = consecutive_windows(self.documents, encode, window, self.limit)
        self.calibration = self.plan.windows(self.calibration_documents, encode)

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return a loader of one evaluation at a time. Raise RuntimeError before `tokenize`."""
        if self.test is None:
            raise RuntimeError("tokenize has not been called")
        text = {"name": self.evaluate, "tokens": self.test}
        tasks = [{"name": name, "examples": examples} for name, examples in self.examples.items()]
        evaluations: Any = [text, *tasks]  # a list is a map-style data set
        return DataLoader(evaluations, batch_size=None)

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        """Leave the evaluation on the CPU: methods move its windows themselves, a batch at a time."""
        return batch


class CalibrationPlan:
    """Plan of the calibration windows.

    Args:
        source: text, see `sources.read`.
        samples: number of windows.
        length: tokens of a window.
        seed: seed of the draw.
        sampling: "documents": windows of single documents, as in the papers; "text": of all documents joined.

    Raises:
        ValueError: if an argument is outside its range.
    """

    def __init__(
        self,
        source: str,
        samples: int = 128,
        length: int = 2048,
        seed: int = 0,
        sampling: str = "documents",
    ) -> None:
        check_choice("dataset.calibration.sampling", sampling, tuple(SAMPLINGS))
        check_count("dataset.calibration", samples=samples, length=length)
        check_seed("dataset.calibration", seed=seed)
        self.source, self.samples, self.length = source, samples, length
        self.seed, self.draw = seed, SAMPLINGS[sampling]

    def windows(self, documents: list[str], encode: Encode) -> Tensor:
        """Draw the windows (samples, length) int64. Raise ValueError if the documents are too short."""
        return self.draw(documents, encode, self.samples, self.length, self.seed)
