"""A pruned model as files: a folder that transformers loads, and for 2:4 the compressed form beside it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

COMPRESSED = "compressed_2to4.safetensors"


def check_free(folder: Path) -> None:
    """Raises ValueError where there is something already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"method.export={folder} is there already: name another folder, or remove it")


def save_model(model: nn.Module, tokenizer: Any, folder: Path) -> None:
    """config.json, safetensors and, where transformers has written the tokenizer, its files."""
    model.save_pretrained(folder)
    if hasattr(tokenizer, "save_pretrained"):
        tokenizer.save_pretrained(folder)


def save_compressed(matrices: Iterable[tuple[str, Tensor, Tensor | None]], folder: Path) -> int:
    """Writes 2:4 matrices (name, W (R, C), permutation (C,) or None) compressed; returns the file's size in bytes.

    Tensors `<name>.values`, `<name>.indices`, `<name>.permutation`, as `methods.esparse.compress` has them.
    """
    from safetensors.torch import save_file

    from methods.esparse.compress import compress

    parts = {
        f"{name}.{key}": tensor.cpu().contiguous()
        for name, weight, permutation in matrices
        for key, tensor in compress(weight, permutation).items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(parts, folder / COMPRESSED, metadata={"format": "pt"})
    return (folder / COMPRESSED).stat().st_size
