"""Tensors of a checkpoint in safetensors files, read one at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
FLOATS = ("F16", "BF16", "F32", "F64")  # dtypes of safetensors whose values are the weights themselves
NAMES_IN_MESSAGE = 3


@contextmanager
def open_safetensors(path: Path) -> Iterator[Any]:
    """Open a safetensors file. Raise ValueError if it is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): get the file again") from error


class Shards:
    """Tensors of a model in a folder of the transformers layout, by name.

    Args:
        folder: folder with safetensors files.
        file: read this file alone.

    Raises:
        FileNotFoundError: if there are no safetensors files, or some that the index names are missing.
        ValueError: if a file is damaged.
    """

    def __init__(self, folder: Path, file: str | None = None) -> None:
        self.folder = folder
        self.files: dict[str, str]  # file of each tensor
        if file:
            self.files = dict.fromkeys(self._names(file), file)
        elif (folder / INDEX).exists():
            self.files = self._read_index()
        elif (folder / SINGLE).exists():
            self.files = dict.fromkeys(self._names(SINGLE), SINGLE)
        else:
            raise FileNotFoundError(f"{folder} has neither {INDEX} nor {SINGLE}: method.stream reads safetensors only")
        if missing := sorted({file for file in self.files.values() if not (folder / file).exists()}):
            raise FileNotFoundError(
                f"{folder} lacks {len(missing)} shard(s) that its index names: {', '.join(missing)}"
            )

    def _read_index(self) -> dict[str, str]:
        try:
            return dict(json.loads((self.folder / INDEX).read_text())["weight_map"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.folder / INDEX} is damaged ({error!r}): get the file again") from error

    def _names(self, file: str) -> list[str]:
        with open_safetensors(self.folder / file) as tensors:
            return list(tensors.keys())

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Check that the files hold these tensors as floating-point numbers. Only headers are read.

        Args:
            shapes: shape of each tensor, by its name.

        Raises:
            ValueError: if tensors are missing, of another shape or quantised, or a file is damaged.
        """
        self._check_names(set(shapes) - self.files.keys())
        for file, names in self._by_file({name: name for name in shapes}).items():
            with open_safetensors(self.folder / file) as tensors:
                self._check_names(set(names) - set(tensors.keys()))
                for name in names:
                    self._check_tensor(name, tensors.get_slice(name), shapes[name])

    def _check_names(self, missing: set[str]) -> None:
        if missing:
            named = ", ".join(sorted(missing)[:NAMES_IN_MESSAGE]) + ", ..." * (len(missing) > NAMES_IN_MESSAGE)
            raise ValueError(f"{self.folder} lacks {len(missing)} tensor(s) of the model: {named}")

    def _check_tensor(self, name: str, stored: Any, shape: tuple[int, ...]) -> None:
        if stored.get_dtype() not in FLOATS:
            raise ValueError(
                f"{name} in {self.folder} is stored as {stored.get_dtype()}: the checkpoint is quantised, its codes "
                "cannot be pruned as weights. Give the original checkpoint with model.path=<folder>"
            )
        if tuple(stored.get_shape()) != tuple(shape):
            raise ValueError(
                f"{name} in {self.folder} has shape {stored.get_shape()}, config.json asks for {list(shape)}"
            )

    def _by_file(self, names: Mapping[str, str]) -> dict[str, list[str]]:
        """Return the keys whose tensors lie in each file; names: key -> name of the tensor."""
        keys: dict[str, list[str]] = {}
        for key, name in names.items():
            if name in self.files:
                keys.setdefault(self.files[name], []).append(key)
        return keys

    def tensors(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors of these names one at a time, file by file."""
        for file, keys in self._by_file({name: name for name in names}).items():
            with open_safetensors(self.folder / file) as tensors:
                for name in keys:
                    yield name, tensors.get_tensor(name)

    def read(self, names: Mapping[str, str]) -> dict[str, Tensor]:
        """Read tensors.

        Args:
            names: name of each tensor in the files, by the key in the result.

        Returns:
            Tensors by key. Names that are in no file are left out.
        """
        result: dict[str, Tensor] = {}
        for file, keys in self._by_file(names).items():
            with open_safetensors(self.folder / file) as tensors:
                for key in keys:
                    result[key] = tensors.get_tensor(names[key])
        return result
