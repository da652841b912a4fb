"""Texts by name: each a list of documents, read from the official files under the data folder, the hub, or Python."""

from __future__ import annotations

import gzip
import json
import logging
import os
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

from datasets.download import CorruptData, first_existing, missing

log = logging.getLogger(__name__)

Documents = list[str]


def wikitext2(root: Path) -> Documents:
    """The test split of WikiText-2, raw: the hub's 4,358 rows, each with its newline.

    Reads wiki.test.raw, or the hub's parquet file.
    """
    raw = first_existing(
        *(root / folder / "wiki.test.raw" for folder in ("text/wikitext2", "wikitext2", "wikitext-2-raw"))
    )
    if raw is not None:
        lines = _read(raw).removesuffix("\n").split("\n")
        return ["" if line == " " else line + "\n" for line in lines]
    name = "wikitext-2-raw-v1/test-00000-of-00001.parquet"
    wanted = [root / "wikitext2" / "wiki.test.raw", root / name]
    return parquet_column(from_hub("WikiText-2", "Salesforce/wikitext", name, root, wanted), "text")


def c4(root: Path) -> Documents:
    """The first training shard of English C4 (356,317 documents), which papers calibrate with."""
    name = "en/c4-train.00000-of-01024.json.gz"
    path = from_hub("C4's first training shard", "allenai/c4", name, root, [root / "c4" / name, root / name])
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return [_text_of(line) for line in file]
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise CorruptData(f"{path} is not a whole shard of C4 ({error}); remove it to get it anew") from error


def c4_sample(root: Path) -> Documents:
    """584 web documents of C4, one a line, as quantisers calibrate with."""
    return lines_of(_local(root, "a sample of C4 (one document a line)", "c4_sample.txt"))


def wikipedia_sample(root: Path) -> Documents:
    """Articles of Wikipedia in WikiExtractor's format."""
    text = _read(_local(root, "a sample of Wikipedia", "wikipedia_sample.txt"))
    return [part.strip() for part in text.split("</doc>") if part.strip()]


def tinystories(root: Path) -> Documents:
    """317 short stories, separated by <|endoftext|>."""
    text = _read(_local(root, "a sample of TinyStories", "tinystories_sample.txt"))
    return [part.strip() for part in text.split("<|endoftext|>") if part.strip()]


def topics(root: Path) -> Documents:
    """Python's own help topics: embedded, no download. About 0.7 MB of technical English."""
    from pydoc_data.topics import topics as texts

    return [texts[name] for name in sorted(texts)]


SOURCES: dict[str, Callable[[Path], Documents]] = {
    f.__name__: f for f in (wikitext2, c4, c4_sample, wikipedia_sample, tinystories, topics)
}


def read(name: str, root: str | Path) -> Documents:
    """The documents of a text: one of `SOURCES`, or a file (one document a line for .txt, `text` of each for .jsonl).

    Raises MissingData, CorruptData.
    """
    if name in SOURCES:
        return SOURCES[name](Path(root))
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"{name} is neither a file nor a text that is known here; known: {', '.join(SOURCES)}")
    if path.suffix != ".jsonl":
        return lines_of(path)
    try:
        return [_text_of(line) for line in lines_of(path)]
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptData(f"{path} is not JSON lines with a text each ({error!r})") from error


def halves(documents: Documents) -> tuple[Documents, Documents]:
    """The documents dealt out in two: those of even and of odd rank."""
    return documents[::2], documents[1::2]


def _text_of(line: str) -> str:
    text = json.loads(line)["text"]
    if not isinstance(text, str):
        raise TypeError(f"text is {text!r}")
    return text


def _local(root: Path, what: str, name: str) -> Path:
    wanted = [root / "text" / "calib" / name, root / "calib" / name, root / name]
    found = first_existing(*wanted)
    if found is None:
        raise missing(what, wanted, None, root)
    return found


def lines_of(path: Path) -> Documents:
    return [line for line in _read(path).split("\n") if line.strip()]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CorruptData(f"{path} is not UTF-8 text ({error})") from error


def from_hub(what: str, repository: str, name: str, root: Path, wanted: Iterable[Path]) -> Path:
    """A file of a hub data set: under the data folder, else from the hub's cache or its server."""
    wanted = list(wanted)
    if found := first_existing(*wanted):
        return found
    from huggingface_hub import hf_hub_download

    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        return Path(hf_hub_download(repository, name, repo_type="dataset"))
    except Exception as error:  # the hub's errors have no common class of their own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise missing(what, wanted, f"{repository} of the Hugging Face hub", root, reason) from error


def parquet_column(path: Path, column: str) -> list:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("reading parquet files takes pyarrow: pip install .[llm]") from error
    try:
        return pyarrow.parquet.read_table(path, columns=[column])[column].to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise CorruptData(f"{path} is not a parquet file with a column {column} ({error})") from error
