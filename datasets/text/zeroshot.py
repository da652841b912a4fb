"""Multiple-choice questions for language models, with the prompts of EleutherAI's lm-evaluation-harness."""

from __future__ import annotations

import bz2
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.download import UNREADABLE_ZIP, CorruptData, fetch, first_existing, missing
from datasets.text.sources import from_hub, parquet_column, read_lines

PIQA_URL = "https://storage.googleapis.com/ai2-mosaic/public/physicaliqa/physicaliqa-train-dev.zip"
PIQA_SHA256 = "54d32a04f59a7e354396f321723c8d7ec35cc6b08506563d8d1ffcc15ce98ddd"


FRAGMENT = re.compile(r"""(.*[.!?]["')]* +)([a-z][^.!?]*)""", re.DOTALL)  # finished sentences, unfinished one


@dataclass(frozen=True)
class Example:
    """Multiple-choice question.

    Args:
        contexts: text before each choice; the same for all choices except in WinoGrande.
        choices: continuations of the contexts, with their leading space.
        gold: index of the right choice.

    Raises:
        ValueError: if these do not fit together.
    """

    contexts: tuple[str, ...]
    choices: tuple[str, ...]
    gold: int

    def __post_init__(self) -> None:
        if len(self.contexts) != len(self.choices) or not 0 <= self.gold < len(self.choices):
            raise ValueError(f"{len(self.contexts)} contexts, {len(self.choices)} choices, right choice {self.gold}")
        if not all(choice.strip() for choice in self.choices):
            raise ValueError(f"a choice is empty: {self.choices}")


def boolq(root: Path) -> list[Example]:
    """Read BoolQ (Clark et al. 2019), validation, 3,270 yes/no questions.

    The file is google/boolq's or SuperGLUE's parquet file, or llm-foundry's boolq.jsonl.
    """
    path = _find(
        "BoolQ",
        root,
        "google/boolq",
        "data/validation-00000-of-00001.parquet",
        "boolq.jsonl",
        *(root / folder / "boolq/validation-00000-of-00001.parquet" for folder in ("aps/super_glue", "super_glue")),
    )
    with _reading(path):
        if path.suffix == ".jsonl":
            return [
                _example(f"{row['query'].removeprefix('Passage: ')}\nAnswer:", row["choices"], row["gold"])
                for row in _json_lines(path)
            ]
        label = "label" if path.parent.name == "boolq" else "answer"
        return [
            _example(f"{passage}\nQuestion: {question}?\nAnswer:", ("no", "yes"), int(yes))
            for passage, question, yes in _columns(path, "passage", "question", label)
        ]


def rte(root: Path) -> list[Example]:
    """Read Recognising Textual Entailment from GLUE, validation, 277 pairs of sentences.

    The file is the hub's parquet file of GLUE.
    """
    path = _find("RTE", root, "nyu-mll/glue", "rte/validation-00000-of-00001.parquet", "rte_validation.parquet")
    with _reading(path):
        return [
            _example(f"{premise}\nQuestion: {hypothesis} True or False?\nAnswer:", ("True", "False"), label)
            for premise, hypothesis, label in _columns(path, "sentence1", "sentence2", "label")
        ]


def hellaswag(root: Path) -> list[Example]:
    """Read HellaSwag (Zellers et al. 2019), validation, 10,042 contexts with four endings.

    The file is the hub's parquet file, or hellaswag_val_full.txt.bz2 with six lines for each context: the context, the
    index of the right ending, four endings.
    """
    path = _find(
        "HellaSwag",
        root,
        "Rowan/hellaswag",
        "data/validation-00000-of-00001.parquet",
        "hellaswag_val_full.txt.bz2",
    )
    with _reading(path):
        if path.suffix == ".bz2":
            lines = bz2.decompress(path.read_bytes()).decode().removesuffix("\n").split("\n")
            if len(lines) % 6:
                raise ValueError(f"{len(lines)} lines are not six for each context")
            records = [lines[i : i + 6] for i in range(0, len(lines), 6)]
            return [
                _example(_clean(_capitalise_fragment(context)), [_clean(ending) for ending in endings], int(gold))
                for context, gold, *endings in records
            ]
        rows = _columns(path, "activity_label", "ctx_a", "ctx_b", "endings", "label")
        return [
            _example(_clean(f"{activity}: {a} {b.capitalize()}"), [_clean(ending) for ending in endings], int(gold))
            for activity, a, b, endings, gold in rows
        ]


def winogrande(root: Path) -> list[Example]:
    """Read WinoGrande XL (Sakaguchi et al. 2019), validation, 1,267 sentences with two names to choose from.

    The file is the hub's parquet file, or llm-foundry's winogrande.jsonl.
    """
    name = "winogrande_xl/validation-00000-of-00001.parquet"
    path = _find("WinoGrande", root, "allenai/winogrande", name, "winogrande.jsonl")
    with _reading(path):
        if path.suffix == ".jsonl":
            return [
                Example(tuple(row["context_options"]), (f" {row['continuation']}",) * 2, row["gold"])
                for row in _json_lines(path)
            ]
        examples = []
        for sentence, *options, answer in _columns(path, "sentence", "option1", "option2", "answer"):
            before, blank, after = sentence.partition("_")
            if not blank:
                raise ValueError(f"no _ in {sentence!r}")
            contexts = tuple(before + option for option in options)
            examples.append(Example(contexts, (f" {after.strip()}",) * 2, int(answer) - 1))
        return examples


def arc_easy(root: Path) -> list[Example]:
    """Read the easy part of ARC (Clark et al. 2018), test, 2,376 questions of school science."""
    return _arc(root, "ARC-Easy", "arc_easy.jsonl")


def arc_challenge(root: Path) -> list[Example]:
    """Read the challenge part of ARC (Clark et al. 2018), test, 1,172 questions of school science."""
    return _arc(root, "ARC-Challenge", "arc_challenge.jsonl")


def _arc(root: Path, part: str, local: str) -> list[Example]:
    """Read the hub's parquet file, or llm-foundry's, in which questions of three choices repeat one of them."""
    path = _find(part, root, "allenai/ai2_arc", f"{part}/test-00000-of-00001.parquet", local)
    with _reading(path):
        if path.suffix == ".jsonl":
            examples = []
            for row in _json_lines(path):
                choices = list(dict.fromkeys(row["choices"]))
                gold = choices.index(row["choices"][row["gold"]])
                examples.append(_example(f"{row['query']}\nAnswer:", choices, gold))
            return examples
        return [
            _example(f"Question: {question}\nAnswer:", choices["text"], choices["label"].index(answer))
            for question, choices, answer in _columns(path, "question", "choices", "answerKey")
        ]


def openbookqa(root: Path) -> list[Example]:
    """Read OpenBookQA (Mihaylov et al. 2018), test, 500 questions, without the book.

    The file is the hub's parquet file, or llm-foundry's openbook_qa.jsonl.
    """
    name = "main/test-00000-of-00001.parquet"
    path = _find("OpenBookQA", root, "allenai/openbookqa", name, "openbook_qa.jsonl")
    with _reading(path):
        if path.suffix == ".jsonl":
            return [_example(row["query"], row["choices"], row["gold"]) for row in _json_lines(path)]
        return [
            _example(stem, choices["text"], choices["label"].index(answer.strip()))
            for stem, choices, answer in _columns(path, "question_stem", "choices", "answerKey")
        ]


def piqa(root: Path) -> list[Example]:
    """Read PIQA (Bisk et al. 2020), validation, 1,838 goals with two solutions each.

    The file is the authors' physicaliqa-train-dev.zip, or llm-foundry's piqa.jsonl.
    """
    archive = root / "piqa" / "physicaliqa-train-dev.zip"
    wanted = [archive, root / "text" / "zeroshot" / "piqa.jsonl"]
    path = first_existing(*wanted)
    if path is None:
        try:
            path = fetch(PIQA_URL, archive, PIQA_SHA256)
        except OSError as error:
            raise missing("PIQA", wanted, PIQA_URL, root, error) from error
    with _reading(path):
        if path.suffix == ".jsonl":
            return [_example(f"{row['query']}Answer:", row["choices"], row["gold"]) for row in _json_lines(path)]
        with zipfile.ZipFile(path) as file:
            rows, labels = (
                file.read(f"physicaliqa-train-dev/{name}").decode().strip().split("\n")
                for name in ("dev.jsonl", "dev-labels.lst")
            )
        return [
            _example(f"Question: {row['goal']}\nAnswer:", (row["sol1"], row["sol2"]), int(label))
            for row, label in zip(map(json.loads, rows), labels, strict=True)
        ]


TASKS: dict[str, Callable[[Path], list[Example]]] = {
    f.__name__: f for f in (boolq, rte, hellaswag, winogrande, arc_easy, arc_challenge, openbookqa, piqa)
}


def read(name: str, root: str | Path) -> list[Example]:
    """Read the questions of one of `TASKS`, in the order of their file.

    The published file is preferred to a converted one in root/text/zeroshot.

    Args:
        name: name of the task.
        root: data folder.

    Raises:
        ValueError: if the name is unknown.
        MissingData: if the file is not found.
        CorruptData: if the file does not hold what it should.
        ImportError: if pyarrow is needed and not installed.
    """
    if name not in TASKS:
        raise ValueError(f"dataset.zeroshot has the unknown task {name}; choose from {', '.join(TASKS)}")
    return TASKS[name](Path(root))


def _find(title: str, root: Path, repository: str, name: str, local: str, *others: Path) -> Path:
    """Return the file of a hub data set under root, a converted one in root/text/zeroshot, or the downloaded one."""
    published = [root / repository / name, root / repository.partition("/")[2] / name]
    return from_hub(title, repository, name, root, [*published, *others, root / "text" / "zeroshot" / local])


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn errors from a file of another format into CorruptData, which names the file."""
    try:
        yield
    except CorruptData:
        raise
    except (*UNREADABLE_ZIP, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise CorruptData(f"{path} does not hold questions in the expected format ({problem})") from error


def _json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in read_lines(path)]


def _columns(path: Path, *names: str) -> Iterator[tuple[Any, ...]]:
    """Return the values of these columns of a parquet file, row by row."""
    return zip(*(parquet_column(path, name) for name in names), strict=True)


def _example(context: str, choices: Sequence[str], gold: int) -> Example:
    return Example((context,) * len(choices), tuple(f" {choice}" for choice in choices), gold)


def _clean(text: str) -> str:
    """Remove the traces of WikiHow's layout from HellaSwag's text, as lm-evaluation-harness does."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def _capitalise_fragment(context: str) -> str:
    """Capitalise the unfinished sentence at the end of a HellaSwag context, as lm-evaluation-harness does.

    The harness joins ctx_a and the capitalised ctx_b. The text archive has them joined already, ctx_b in lower case:
    it is what follows the last full stop and has none itself.
    """
    if not (match := FRAGMENT.fullmatch(context)):
        return context
    return match[1] + match[2].capitalize()
