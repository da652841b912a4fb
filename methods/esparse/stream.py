"""Models larger than memory: blocks read from safetensors shards one at a time, and written pruned."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from methods.esparse.decoder import Decoder, architecture_of

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
NOTES = "unfinished"  # a folder that is there until the model is whole
NO_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", INDEX)


class Shards:
    """The tensors of a model in a transformers folder, by name, read one at a time. file: of this file alone.

    Raises FileNotFoundError where the folder has no safetensors files, or lacks some that its index names.
    """

    def __init__(self, folder: Path, file: str | None = None) -> None:
        self.folder = folder
        self.files: dict[str, str]
        if file:
            self.files = dict.fromkeys(self._names(file), file)
        elif (folder / INDEX).exists():
            self.files = json.loads((folder / INDEX).read_text())["weight_map"]
        elif (folder / SINGLE).exists():
            self.files = dict.fromkeys(self._names(SINGLE), SINGLE)
        else:
            raise FileNotFoundError(f"{folder} has neither {INDEX} nor {SINGLE}: method.stream reads safetensors only")
        if absent := sorted({file for file in self.files.values() if not (folder / file).exists()}):
            raise FileNotFoundError(f"{folder} lacks {len(absent)} shard(s) that its index names: {', '.join(absent)}")

    def _names(self, file: str) -> list[str]:
        from safetensors import safe_open

        with safe_open(self.folder / file, "pt") as tensors:
            return list(tensors.keys())

    def read(self, names: dict[str, str]) -> dict[str, Tensor]:
        """Tensors by key; names: key -> name in the files. Names that no file has are left out."""
        from safetensors import safe_open

        found: dict[str, Tensor] = {}
        wanted: dict[str, list[str]] = {}
        for key, name in names.items():
            if name in self.files:
                wanted.setdefault(self.files[name], []).append(key)
        for file, keys in wanted.items():
            with safe_open(self.folder / file, "pt") as tensors:
                for key in keys:
                    found[key] = tensors.get_tensor(names[key])
        return found


def file_of(block: int) -> str:
    return f"model-block-{block:05d}.safetensors"


class StreamedDecoder(Decoder):
    """A causal LM on disk: embeddings, last norm and head in memory, a block only while it is looked at.

    Args:
        folder: of the model, in the transformers layout with safetensors. config: its transformers config.
        dtype: computed in. device: of the computation. out: where blocks that were changed are written, or None; they
            keep the dtype of their file. Those that lie there already, of an interrupted run, are read from there.

    Raises FileNotFoundError (shards), ValueError (architecture; tensors that the files lack).
    """

    def __init__(
        self, folder: Path, config: Any, dtype: torch.dtype, device: torch.device, out: Path | None = None
    ) -> None:
        from transformers import AutoModelForCausalLM

        architecture = architecture_of(config)
        self.shards, self.config, self.dtype, self.out = Shards(folder), config, dtype, out
        self.written: dict[str, str] = {}
        one = copy.deepcopy(config)
        one.num_hidden_layers = 1
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(one, dtype=dtype)
        for name, module in list(model.named_modules()):  # tables that are computed, not stored
            if any(buffer.is_meta for buffer in module.buffers(recurse=False)):
                model.set_submodule(name, type(module)(one))
        blocks = getattr(model.get_submodule(architecture.trunk), architecture.blocks)
        self.empty_block = blocks[0]
        del blocks[0]
        self.prefix = f"{architecture.trunk}.{architecture.blocks}"
        outer = self.shards.read({name: name for name in model.state_dict()})
        self.outer_dtypes = {name: tensor.dtype for name, tensor in outer.items()}
        model.load_state_dict({name: tensor.to(dtype) for name, tensor in outer.items()}, assign=True, strict=False)
        model.tie_weights()
        if absent := [name for name, p in model.named_parameters() if p.is_meta]:
            raise ValueError(f"{folder} has no {', '.join(absent)}")
        super().__init__(model.eval().requires_grad_(False).to(device))

    def __len__(self) -> int:
        return self.config.num_hidden_layers

    @contextmanager
    def block(self, i: int, write: bool = False) -> Iterator[nn.Module]:
        names = {key: f"{self.prefix}.{i}.{key}" for key in self.empty_block.state_dict()}
        pruned = write and self._is_written(i)
        tensors = (Shards(self.out, file_of(i)) if pruned else self.shards).read(names)
        if absent := sorted(names.keys() - tensors.keys()):
            raise ValueError(f"{self.shards.folder} lacks {', '.join(absent)} of block {i}")
        stored = {key: tensor.dtype for key, tensor in tensors.items()}
        block = copy.deepcopy(self.empty_block)
        state = {key: tensors.pop(key).to(self.device, self.dtype) for key in names}
        block.load_state_dict(state, assign=True)
        yield block.eval().requires_grad_(False)
        if pruned:
            self.written |= dict.fromkeys(names.values(), file_of(i))
        elif write and self.out is not None:
            self._write(file_of(i), {k: (names[k], t) for k, t in state.items()}, stored)

    def noted(self, i: int) -> list[dict[str, Any]] | None:
        return torch.load(self.out / NOTES / f"{i}.pt", weights_only=True) if self._is_written(i) else None

    def note(self, i: int, notes: list[dict[str, Any]]) -> None:
        if self.out is not None:  # before the block itself, whose file says that it is done
            (self.out / NOTES).mkdir(parents=True, exist_ok=True)
            torch.save(notes, self.out / NOTES / f"{i}.pt")

    def _is_written(self, i: int) -> bool:
        return self.out is not None and (self.out / file_of(i)).exists()

    def _write(self, file: str, tensors: dict[str, tuple[str, Tensor]], dtypes: dict[str, torch.dtype]) -> None:
        from safetensors.torch import save_file

        self.out.mkdir(parents=True, exist_ok=True)
        named = {name: tensor.to("cpu", dtypes[key]).contiguous() for key, (name, tensor) in tensors.items()}
        part = self.out / f"{file}.part"
        save_file(named, part, metadata={"format": "pt"})
        part.rename(self.out / file)
        self.written |= dict.fromkeys(named, file)

    def finish(self) -> None:
        """Writes what is outside the blocks, the index, and copies config and tokenizer: then the folder is whole."""
        outer = {name: (name, t) for name, t in self.model.state_dict().items() if name in self.outer_dtypes}
        self._write("model-outer.safetensors", outer, self.outer_dtypes)
        shutil.rmtree(self.out / NOTES, ignore_errors=True)
        for path in self.shards.folder.iterdir():
            if path.is_file() and not path.name.endswith(NO_WEIGHTS):
                shutil.copy(path, self.out)
        size = sum((self.out / file).stat().st_size for file in set(self.written.values()))
        index = {"metadata": {"total_size": size}, "weight_map": self.written}
        (self.out / INDEX).write_text(json.dumps(index, indent=2))
