"""Decoder-only transformer that is run and pruned block by block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from methods.esparse.description import Block, InputSet, Model
from methods.esparse.probing import describe
from methods.esparse.stand_ins import BlockArguments, block_inputs, model_outputs, run_model

CHECKED_TOKENS = 16  # of the window on which the walk over the blocks is compared with the model's own forward pass


def check_finite(weights: Iterable[tuple[str, Tensor]]) -> None:
    """Check that no weight is NaN or infinite.

    Args:
        weights: names and tensors.

    Raises:
        ValueError: if one is, with its name.
    """
    for name, weight in weights:
        if torch.isfinite(weight.sum(dtype=torch.float32)) or torch.isfinite(weight).all():
            continue
        if weight.isnan().any():
            raise ValueError(f"the checkpoint is damaged: {name} has weights that are NaN. Get the files again")
        advice = "choose model.dtype=bfloat16 or float32" if weight.dtype == torch.float16 else "get the files again"
        raise ValueError(f"{name} has weights that are infinite in {_dtype_name(weight)}: {advice}")


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


@dataclass
class HiddenStates:
    """Hidden states between two blocks.

    Args:
        batches: hidden states (b, L, d) of each batch of windows.
        arguments: other arguments of each block (position embeddings, attention mask, ...), for each batch. Batches
            share the tensors that are equal.
    """

    batches: list[Tensor] = field(default_factory=list)
    arguments: list[list[BlockArguments]] = field(default_factory=list)

    def copy(self) -> HiddenStates:
        """Return states that can go through blocks without changing these."""
        copies: dict[int, Any] = {}
        return HiddenStates(
            list(self.batches), [[block.apart(copies) for block in blocks] for blocks in self.arguments]
        )


class Decoder:
    """Causal LM of transformers, held in memory.

    Args:
        model: causal LM, such as LlamaForCausalLM.

    Attributes:
        number: number of the block that is open.

    Raises:
        ValueError: if the model cannot be pruned block by block.
    """

    def __init__(self, model: Model) -> None:
        self.model: Model = model
        self.architecture = describe(model.config)
        self.trunk: Any = model.get_submodule(self.architecture.trunk)
        self.number = 0

    def __len__(self) -> int:
        return len(self.architecture.block_sets)

    def sets(self, i: int) -> tuple[InputSet, ...]:
        """Return the sets of matrices of block i."""
        return self.architecture.block_sets[i]

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.model.parameters()).device

    @property
    def blocks(self) -> list[nn.Module]:
        """Blocks, or what has their attributes."""
        return list(getattr(self.trunk, self.architecture.blocks))

    @contextmanager
    def block(self, i: int, write: bool = False) -> Iterator[Block]:
        """Yield block i, ready to compute.

        Args:
            i: number of the block.
            write: whether its weights are changed in the context, so that they must be stored.
        """
        self.number = i
        yield getattr(self.trunk, self.architecture.blocks)[i]

    def stored_reports(self, i: int) -> list[dict[str, Any]] | None:
        """Return the reports of block i that an interrupted run has stored, or None."""
        return None

    def store_reports(self, i: int, reports: list[dict[str, Any]]) -> None:
        """Store the reports of block i, for the case that the run is interrupted after it."""

    def _replaceable(self) -> tuple[Model, Any, str, list[nn.Module], int]:
        names = self.architecture
        return self.model, self.trunk, names.blocks, self.blocks, names.block_outputs

    @torch.inference_mode()
    def embed(self, tokens: Tensor, batch_size: int) -> HiddenStates:
        """Compute the hidden states before the first block, and the other arguments of all blocks.

        Args:
            tokens: (windows, L).
            batch_size: number of windows of a batch.
        """
        states = HiddenStates()
        earlier: dict[int, list[BlockArguments]] = {}  # by batch size
        for part in tokens.split(batch_size):
            hidden, arguments = block_inputs(*self._replaceable(), part.to(self.device))
            states.batches.append(hidden)
            known: dict[tuple[int, int], Any] = {}
            pairs = zip(arguments, earlier.setdefault(len(part), arguments), strict=True)
            states.arguments.append([new.sharing(old, known) for new, old in pairs])
        return states

    @torch.inference_mode()
    def run_block(self, block: Block, states: HiddenStates) -> None:
        """Replace the states by the outputs of the open block. Raise FloatingPointError if a value is not finite."""
        for i in range(len(states.batches)):
            states.batches[i] = self._outputs(block, states, i)

    @torch.inference_mode()
    def run_hooks(self, block: Block, states: HiddenStates) -> None:
        """Run the open block only for its forward hooks. Raise FloatingPointError if a value is not finite."""
        for i in range(len(states.batches)):
            self._outputs(block, states, i)

    def _outputs(self, block: Block, states: HiddenStates, batch: int) -> Tensor:
        arguments = states.arguments[batch][self.number]
        out = block(states.batches[batch], *arguments.positional, **arguments.keywords)
        out = out[0] if isinstance(out, tuple | list) else out
        if not torch.isfinite(out.sum(dtype=torch.float32)):
            check_finite((f"a block's {name}", weight) for name, weight in block.named_parameters())
            advice = "choose model.dtype=bfloat16 or float32" if out.dtype == torch.float16 else "check the checkpoint"
            raise FloatingPointError(f"a block's outputs are not finite in {_dtype_name(out)}: {advice}")
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """Compute the logits (b, L, vocabulary) from the hidden states (b, L, d) after the last block.

        Final norm, projections, head, scaling and soft capping are those of the model's own forward pass.
        """
        return model_outputs(*self._replaceable(), hidden)

    @torch.inference_mode()
    def check_walk(self, tokens: Tensor) -> None:
        """Check that running the blocks one by one gives the logits of the model's own forward pass.

        Args:
            tokens: (windows, L), of which the first few are used.

        Raises:
            ValueError: if it does not.
        """
        window = tokens[:1, :CHECKED_TOKENS].to(self.device)
        windows = torch.cat([window, window.flip(1)])
        states = self.embed(windows, 1)  # two batches, whose arguments must not be mixed up
        for i in range(len(self)):
            with self.block(i) as block:
                self.run_block(block, states)
        ours = torch.cat([self.logits(hidden) for hidden in states.batches]).float()
        own = run_model(self.model, windows).logits.float()
        if not torch.allclose(ours, own, rtol=1e-2, atol=1e-2 * own.abs().max().item()):
            raise ValueError(
                f"models of type {self.model.config.model_type} cannot be pruned: run block by block they give other "
                "logits than their own forward pass"
            )
