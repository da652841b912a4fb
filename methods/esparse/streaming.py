"""Models larger than memory: blocks are read from safetensors shards one at a time and written back pruned."""

from __future__ import annotations

import copy
import json
import logging
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from datasets.files import atomic_write
from methods.esparse.checkpoint_names import from_checkpoint, stored_name, to_checkpoint
from methods.esparse.decoder import Decoder, check_finite
from methods.esparse.description import Block, Model
from methods.esparse.export import UNFINISHED
from methods.esparse.probing import describe, empty_model, fill_tables
from methods.esparse.shards import INDEX, Shards

log = logging.getLogger(__name__)

NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")  # part of a name
WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", INDEX)


def tensor_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor that a checkpoint of the model must hold, by its name there; tied weights once.

    Args:
        model: model without storage for its weights.
    """
    return {name: tuple(tensor.shape) for name, tensor in to_checkpoint(model, dict(model.named_parameters())).items()}


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
    shards, model = Shards(folder), empty_model(config, dtype)
    shapes = {stored_name(shards, model, name): shape for name, shape in tensor_shapes(model).items()}
    shards.check(shapes)
    if unknown := tensors_of_unknown_blocks(shards.files, shapes):
        log.warning(
            "%s has %d tensors of blocks or experts that its config.json does not count (%s, ...): they are neither "
            "pruned nor written",
            folder,
            len(unknown),
            unknown[0],
        )
    check_finite((name, tensor.to(dtype)) for name, tensor in shards.tensors(shapes))


def tensors_of_unknown_blocks(names: Iterable[str], expected: Iterable[str]) -> list[str]:
    """Return the names that are expected but for their numbers, such as those of a block after the last one.

    Args:
        names: names of the tensors in the files.
        expected: names of the tensors of the model.
    """
    known = set(expected)
    forms = {NUMBER.sub("#", name) for name in known}
    return sorted(name for name in names if name not in known and NUMBER.sub("#", name) in forms)


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
        self.shards, self.dtype, self.out = Shards(folder), dtype, out
        self.written: dict[str, str] = {}  # file of each tensor that was written
        model = empty_model(config, dtype)
        architecture = describe(config)
        trunk: Any = model.get_submodule(architecture.trunk)
        self.empty_blocks = list(getattr(trunk, architecture.blocks))
        setattr(trunk, architecture.blocks, nn.ModuleList())
        self.outer_dtypes = self._load_outer(model)
        check_finite(model.named_parameters())
        super().__init__(model.to(device))

    def _load_outer(self, model: Model) -> dict[str, torch.dtype]:
        """Load what lies outside the blocks. Return the dtype of each tensor in the files, by its name there."""
        expected = model.state_dict()
        stored = self._read(model, list(to_checkpoint(model, expected)))
        outer = from_checkpoint(model, stored, expected)
        model.load_state_dict(
            {name: tensor.to(self.dtype) for name, tensor in outer.items()}, assign=True, strict=False
        )
        model.tie_weights()
        if missing := [name for name, p in model.named_parameters() if p.is_meta]:
            raise ValueError(f"{self.shards.folder} has no {', '.join(missing)}")
        return {name: tensor.dtype for name, tensor in stored.items()}

    def _read(self, model: Model, names: list[str]) -> dict[str, Tensor]:
        """Read the tensors of these names, as far as they are in the files."""
        return self.shards.read({name: stored_name(self.shards, model, name) for name in names})

    @property
    def blocks(self) -> list[nn.Module]:
        """Blocks without storage for their weights."""
        return self.empty_blocks

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
        self.number, prefix = i, f"{self.architecture.prefix}{i}."
        expected = {prefix + key: tensor for key, tensor in self.empty_blocks[i].state_dict().items()}
        names = list(to_checkpoint(self.model, expected))
        pruned = write and self._is_written(i)
        if pruned:
            tensors = Shards(self.out_folder, block_file(i)).read({name: name for name in names})
        else:
            tensors = self._read(self.model, names)
        if missing := sorted(set(names) - tensors.keys()):
            raise ValueError(f"{self.shards.folder} lacks {', '.join(missing)} of block {i}")
        stored_dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
        cast = {name: tensors.pop(name).to(self.device, self.dtype) for name in names}
        check_finite(cast.items())
        state = from_checkpoint(self.model, cast, expected)
        del cast
        block = copy.deepcopy(self.empty_blocks[i])
        fill_tables(self.model, block)
        block.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in state.items()}, assign=True)
        yield block.to(self.device).eval().requires_grad_(False)
        if pruned:
            self.written |= dict.fromkeys(names, block_file(i))
        elif write and self.out is not None:
            stored = to_checkpoint(self.model, state)
            self._write(block_file(i), {name: tensor.to(stored_dtypes[name]) for name, tensor in stored.items()})

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
        """Write the tensors outside the blocks and the index, and copy config and tokenizer: the folder is complete.

        The reports of the blocks stay, for the case that the run is interrupted before the model is evaluated.
        """
        out, state = self.out_folder, to_checkpoint(self.model, self.model.state_dict())
        self._write("model-outer.safetensors", {name: state[name].to(d) for name, d in self.outer_dtypes.items()})
        for path in out.glob(".*.safetensors"):  # left over from an interrupted run
            path.unlink()
        for path in self.shards.folder.iterdir():
            if path.is_file() and not path.name.endswith(WEIGHT_FILES):
                shutil.copy(path, out)
        size = sum((out / file).stat().st_size for file in set(self.written.values()))
        index = {"metadata": {"total_size": size}, "weight_map": self.written}
        with atomic_write(out / INDEX) as path:
            path.write_text(json.dumps(index, indent=2))
