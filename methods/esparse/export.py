"""Export of a pruned model: a folder that transformers loads, and for 2:4 the compressed form beside it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

COMPRESSED = "compressed_2to4.safetensors"


def check_free(folder: Path) -> None:
    """Raise ValueError if the folder has files already, or is a file."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"method.export={folder} exists already: name another folder, or remove it")


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
