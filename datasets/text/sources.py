"""Texts by name, each a list of documents: from official files under the data folder, the hub, or Python itself."""

from __future__ import annotations

import gzip
import json
import logging
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from datasets.download import CorruptData, first_existing, missing
from datasets.hub import from_cache_or_hub

log = logging.getLogger(__name__)

Documents = list[str]


def wikitext2(root: Path) -> Documents:
    """Read the test split of WikiText-2, raw: the hub's 4,358 rows, each with its newline.

    The file is wiki.test.raw, or the hub's parquet file.
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
    """Read the first training shard of English C4 (356,317 documents), which papers calibrate with."""
    name = "en/c4-train.00000-of-01024.json.gz"
    path = from_hub("C4's first training shard", "allenai/c4", name, root, [root / "c4" / name, root / name])
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return [_text_of(json.loads(line)) for line in file]
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise CorruptData(f"{path} is not a complete shard of C4 ({error}); remove it to download it again") from error


def c4_sample(root: Path) -> Documents:
    """Read 584 web documents of C4, one a line, which quantisers calibrate with."""
    return read_lines(_local(root, "a sample of C4 (one document a line)", "c4_sample.txt"))


def wikipedia_sample(root: Path) -> Documents:
    """Read articles of Wikipedia in WikiExtractor's format."""
    text = _read(_local(root, "a sample of Wikipedia", "wikipedia_sample.txt"))
    return [part.strip() for part in text.split("</doc>") if part.strip()]


def tinystories(root: Path) -> Documents:
    """Read 317 short stories, separated by <|endoftext|>."""
    text = _read(_local(root, "a sample of TinyStories", "tinystories_sample.txt"))
    return [part.strip() for part in text.split("<|endoftext|>") if part.strip()]


def topics(root: Path) -> Documents:
    """Read Python's own help topics: about 0.7 MB of technical English, without a download."""
    from pydoc_data.topics import topics as texts

    return [texts[name] for name in sorted(texts)]


SOURCES: dict[str, Callable[[Path], Documents]] = {
    f.__name__: f for f in (wikitext2, c4, c4_sample, wikipedia_sample, tinystories, topics)
}


def read(name: str, root: str | Path) -> Documents:
    """Read the documents of a text.

    Args:
        name: one of `SOURCES`, or a file: .txt with a document in each line, .jsonl with an object in each line whose
            `text` is a document, .json with an array of texts or of such objects.
        root: data folder.

    Raises:
        ValueError: if the name is unknown, or the file has another suffix.
        MissingData: if the files of a known text are not found.
        CorruptData: if a file does not hold what it should.
    """
    if name in SOURCES:
        return SOURCES[name](Path(root))
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"{name} is neither a file nor a known text; known texts: {', '.join(SOURCES)}")
    if path.suffix.lower() not in READERS:
        raise ValueError(
            f"{name} has the suffix {path.suffix!r}; texts are read from {', '.join(filter(None, READERS))}"
        )
    documents = READERS[path.suffix.lower()](path)
    if not documents:
        raise CorruptData(f"{path} holds no documents")
    return documents


def read_lines(path: Path) -> Documents:
    """Read the lines that are not blank."""
    return [line for line in _read(path).split("\n") if line.strip()]


def read_json_lines(path: Path) -> Documents:
    """Read the `text` of the object in each line. Raise CorruptData for another format."""
    try:
        return [_text_of(json.loads(line)) for line in read_lines(path)]
    except (ValueError, LookupError, TypeError) as error:
        raise CorruptData(f'{path} does not hold JSON lines such as {{"text": "..."}} ({_reason(error)})') from error


def read_json(path: Path) -> Documents:
    """Read an array of texts or of objects with `text`; JSON lines are read too. Raise CorruptData otherwise."""
    try:
        content = json.loads(_read(path))
    except CorruptData:
        raise
    except ValueError:
        return read_json_lines(path)
    try:
        if isinstance(content, dict):
            return [_text_of(content)]
        return [document if isinstance(document, str) else _text_of(document) for document in content]
    except (ValueError, LookupError, TypeError) as error:
        raise CorruptData(
            f'{path} does not hold a JSON array of texts, or of objects such as {{"text": "..."}} ({_reason(error)})'
        ) from error


READERS: dict[str, Callable[[Path], Documents]] = {
    ".txt": read_lines,
    ".raw": read_lines,
    ".tokens": read_lines,
    ".md": read_lines,
    "": read_lines,
    ".jsonl": read_json_lines,
    ".json": read_json,
}


def halves(documents: Documents) -> tuple[Documents, Documents]:
    """Split the documents into those at even and those at odd places."""
    return documents[::2], documents[1::2]


def _text_of(document: Any) -> str:
    if not isinstance(document, dict):
        raise TypeError(f"a document is {str(document)[:40]!r}, not an object")
    text = document["text"]
    if not isinstance(text, str):
        raise TypeError(f"text is {text!r}")
    return text


def _reason(error: Exception) -> str:
    return f"there is no {error}" if isinstance(error, KeyError) else str(error)


def _local(root: Path, title: str, name: str) -> Path:
    wanted = [root / "text" / "calib" / name, root / "calib" / name, root / name]
    path = first_existing(*wanted)
    if path is None:
        raise missing(title, wanted, None, root)
    return path


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CorruptData(f"{path} is not UTF-8 text ({error})") from error


def from_hub(title: str, repository: str, name: str, root: Path, wanted: Iterable[Path]) -> Path:
    """Return a file of a hub data set: under the data folder, otherwise from the hub's cache or server.

    Args:
        title: name of the data in messages.
        repository: id of the data set on the hub.
        name: name of the file there.
        root: data folder.
        wanted: places under the data folder.

    Raises:
        MissingData: if the file is nowhere.
    """
    wanted = list(wanted)
    if path := first_existing(*wanted):
        return path
    from huggingface_hub import hf_hub_download

    try:
        return Path(from_cache_or_hub(hf_hub_download, repository, name, repo_type="dataset"))
    except Exception as error:  # the hub's errors have no common class of their own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise missing(title, wanted, f"{repository} of the Hugging Face hub", root, reason) from error


def parquet_column(path: Path, column: str) -> list[Any]:
    """Read a column of a parquet file.

    Raises:
        ImportError: if pyarrow is not installed.
        CorruptData: if the file is damaged or has no such column.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("reading parquet files needs pyarrow: pip install .[llm]") from error
    try:
        return pyarrow.parquet.read_table(path, columns=[column])[column].to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise CorruptData(f"{path} is not a parquet file with a column {column} ({error})") from error
