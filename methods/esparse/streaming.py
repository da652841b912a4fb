"""Models larger than memory: blocks are read from safetensors shards one at a time and written back pruned."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datasets.files import atomic_write
from methods.esparse.decoder import Block, Decoder, Model, check_finite, find_architecture
from methods.esparse.shards import INDEX, Shards

UNFINISHED = "unfinished"  # subfolder that exists until the model is complete
WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", INDEX)


def empty_model(config: Any, dtype: torch.dtype) -> Model:
    """Return the model with a single block, without storage for its weights."""
    from transformers import AutoModelForCausalLM

    one_block = copy.deepcopy(config)
    one_block.num_hidden_layers = 1
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(one_block, dtype=dtype)
    model.tie_weights()
    for name, module in list(model.named_modules()):  # tables that are computed, not stored
        if any(buffer.is_meta for buffer in module.buffers(recurse=False)):
            model.set_submodule(name, type(module)(one_block))
    return model


def block_prefix(config: Any) -> str:
    """Return what stands before the number of a block in the names of its tensors."""
    architecture = find_architecture(config)
    return f"{architecture.trunk}.{architecture.blocks}."


def tensor_shapes(config: Any, dtype: torch.dtype) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor that a checkpoint of the model must hold; tied weights once."""
    prefix = block_prefix(config)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, parameter in empty_model(config, dtype).named_parameters():
        if name.startswith(f"{prefix}0."):
            inner = name.removeprefix(f"{prefix}0.")
            shapes |= {f"{prefix}{i}.{inner}": tuple(parameter.shape) for i in range(config.num_hidden_layers)}
        else:
            shapes[name] = tuple(parameter.shape)
    return shapes


def check_checkpoint(folder: Path, config: Any, dtype: torch.dtype) -> None:
    """Check that a folder holds all weights of a model, and that they are finite. All files are read once.

    Args:
        folder: folder in the transformers layout.
        config: transformers config.
        dtype: dtype that the model computes in.

    Raises:
        FileNotFoundError: if files are missing.
        ValueError: if tensors are missing, of another shape, quantised or not finite, or a file is damaged.
    """
    shards, shapes = Shards(folder), tensor_shapes(config, dtype)
    shards.check(shapes)
    check_finite((name, tensor.to(dtype)) for name, tensor in shards.tensors(shapes))


def block_file(block: int) -> str:
    """Return the name of the file that a pruned block is written to."""
    return f"model-block-{block:05d}.safetensors"


class StreamedDecoder(Decoder):
    """Causal LM on disk: embeddings, last norm and head are in memory, a block only while it is used.

    Args:
        folder: folder of the model, in the transformers layout with safetensors.
        config: transformers config.
        dtype: dtype that the model computes in.
        device: device that the model computes on.
        out: folder for pruned blocks, which keep the dtype of their file; None: nothing is written. Blocks that an
            interrupted run has written there are read from there.

    Raises:
        FileNotFoundError: if shards are missing.
        ValueError: if the architecture is not supported, or tensors are missing or not finite.
    """

    def __init__(
        self, folder: Path, config: Any, dtype: torch.dtype, device: torch.device, out: Path | None = None
    ) -> None:
        architecture = find_architecture(config)
        self.shards, self.config, self.dtype, self.out = Shards(folder), config, dtype, out
        self.written: dict[str, str] = {}  # file of each tensor that was written
        self.prefix = block_prefix(config)
        model = empty_model(config, dtype)
        blocks: Any = getattr(model.get_submodule(architecture.trunk), architecture.blocks)
        self.empty_block = blocks[0]
        del blocks[0]
        outer = self.shards.read({name: name for name in model.state_dict()})
        self.outer_dtypes = {name: tensor.dtype for name, tensor in outer.items()}
        model.load_state_dict({name: tensor.to(dtype) for name, tensor in outer.items()}, assign=True, strict=False)
        model.tie_weights()
        if missing := [name for name, p in model.named_parameters() if p.is_meta]:
            raise ValueError(f"{folder} has no {', '.join(missing)}")
        check_finite(model.named_parameters())
        super().__init__(model.eval().requires_grad_(False).to(device))

    def __len__(self) -> int:
        return self.config.num_hidden_layers

    @property
    def out_folder(self) -> Path:
        """Folder of the pruned blocks. Raise RuntimeError if nothing is written."""
        if self.out is None:
            raise RuntimeError("the model was opened for reading only")
        return self.out

    @contextmanager
    def block(self, i: int, write: bool = False) -> Iterator[Block]:
        """Read block i, yield it, and write it if its weights are changed in the context.

        Args:
            i: number of the block.
            write: whether its weights are changed in the context.

        Raises:
            ValueError: if tensors are missing, damaged or not finite.
        """
        names = {key: f"{self.prefix}{i}.{key}" for key in self.empty_block.state_dict()}
        pruned = write and self._is_written(i)
        tensors = (Shards(self.out_folder, block_file(i)) if pruned else self.shards).read(names)
        if missing := sorted(names.keys() - tensors.keys()):
            raise ValueError(f"{self.shards.folder} lacks {', '.join(missing)} of block {i}")
        stored_dtypes = {key: tensor.dtype for key, tensor in tensors.items()}
        state = {key: tensors.pop(key).to(self.device, self.dtype) for key in names}
        check_finite((names[key], tensor) for key, tensor in state.items())
        block = copy.deepcopy(self.empty_block)
        block.load_state_dict(state, assign=True)
        yield block.eval().requires_grad_(False)
        if pruned:
            self.written |= dict.fromkeys(names.values(), block_file(i))
        elif write and self.out is not None:
            self._write(block_file(i), {names[key]: tensor.to(stored_dtypes[key]) for key, tensor in state.items()})

    def stored_reports(self, i: int) -> list[dict[str, Any]] | None:
        """Return the reports of block i that an interrupted run has stored, or None."""
        return torch.load(self._report_file(i), weights_only=True) if self._is_written(i) else None

    def store_reports(self, i: int, reports: list[dict[str, Any]]) -> None:
        """Store the reports of block i. The block's own file is written later and says that it is complete."""
        if self.out is not None:
            self._report_file(i).parent.mkdir(parents=True, exist_ok=True)
            torch.save(reports, self._report_file(i))

    def _report_file(self, i: int) -> Path:
        return self.out_folder / UNFINISHED / f"{i}.pt"

    def _is_written(self, i: int) -> bool:
        return self.out is not None and (self.out / block_file(i)).exists()

    def _write(self, file: str, tensors: Mapping[str, Tensor]) -> None:
        from safetensors.torch import save_file

        self.out_folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.out_folder / file) as path:
            save_file({name: t.cpu().contiguous() for name, t in tensors.items()}, path, metadata={"format": "pt"})
        self.written |= dict.fromkeys(tensors, file)

    def finish(self) -> None:
        """Write the tensors outside the blocks and the index, and copy config and tokenizer: the folder is complete."""
        out, state = self.out_folder, self.model.state_dict()
        self._write("model-outer.safetensors", {name: state[name].to(d) for name, d in self.outer_dtypes.items()})
        shutil.rmtree(out / UNFINISHED, ignore_errors=True)
        for path in out.glob(".*.safetensors"):  # left over from an interrupted run
            path.unlink()
        for path in self.shards.folder.iterdir():
            if path.is_file() and not path.name.endswith(WEIGHT_FILES):
                shutil.copy(path, out)
        size = sum((out / file).stat().st_size for file in set(self.written.values()))
        index = {"metadata": {"total_size": size}, "weight_map": self.written}
        with atomic_write(out / INDEX) as path:
            path.write_text(json.dumps(index, indent=2))
