"""Export of a pruned model: a folder that transformers loads, and for 2:4 the compressed form beside it."""

from __future__ import annotations

import functools
import hashlib
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

COMPRESSED = "compressed_2to4.safetensors"
UNFINISHED = "unfinished"  # subfolder of a model that its run has not yet evaluated


def check_free(folder: Path) -> None:
    """Raise ValueError if the folder has files already, or is a file."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"method.export={folder} exists already: name another folder, or remove it")


@functools.cache
def code_version() -> str:
    """Return a hash of this package's files and the version of torch: what decides how a block is pruned."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    content = b"".join(path.name.encode() + path.read_bytes() for path in files)
    return hashlib.sha256(content + torch.__version__.encode()).hexdigest()[:16]


def sign(folder: Path, run: Path) -> None:
    """Write into a model's folder which run, with which code, is writing or evaluating it."""
    place = folder / UNFINISHED / "run.txt"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(f"{run}\n{code_version()}")


def is_signed(folder: Path, run: Path, any_code: bool = False) -> bool:
    """Return whether a run, with the present code, has signed the folder and not yet finished."""
    place = folder / UNFINISHED / "run.txt"
    written = place.read_text().splitlines() if place.is_file() else []
    return written == [str(run), code_version()] or (any_code and written[:1] == [str(run)])


def make_free(folder: Path, run: Path) -> None:
    """Remove a model that a run has written before an interruption.

    Raises:
        ValueError: if the folder has files of others.
    """
    if folder.parent == run or is_signed(folder, run, any_code=True):
        shutil.rmtree(folder, ignore_errors=True)
    check_free(folder)


def partial_folder(folder: Path) -> Path:
    """Return the folder that is written until the export is complete."""
    return folder.with_name(folder.name + ".part")


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder under a temporary name, and rename it when the body is complete."""
    part = partial_folder(folder)
    shutil.rmtree(part, ignore_errors=True)
    yield part
    if folder.exists():
        folder.rmdir()  # `check_free` has seen that it is empty
    part.rename(folder)


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write config.json, safetensors and, if the tokenizer can be saved, its files."""
    model.save_pretrained(folder)
    if hasattr(tokenizer, "save_pretrained"):
        tokenizer.save_pretrained(folder)


def save_compressed(matrices: Iterable[tuple[str, Tensor, Tensor | None]], folder: Path) -> int:
    """Write 2:4 matrices in compressed form.

    The file holds tensors `<name>.values`, `<name>.indices` and `<name>.permutation`, as
    `methods.esparse.compression.compress` returns them.

    Args:
        matrices: name, weight (R, C) and permutation (C,) or None of each matrix.
        folder: folder of the file.

    Returns:
        Size of the file in bytes.
    """
    from safetensors.torch import save_file

    from methods.esparse.compression import compress

    parts = {
        f"{name}.{key}": tensor.cpu().contiguous()
        for name, weight, permutation in matrices
        for key, tensor in compress(weight, permutation).items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(parts, folder / COMPRESSED, metadata={"format": "pt"})
    return (folder / COMPRESSED).stat().st_size
