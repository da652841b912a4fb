"""Stand-ins for a decoder's blocks, through which the model's own forward pass shows what it gives each block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from methods.esparse.description import Model


@dataclass(frozen=True)
class BlockArguments:
    """Arguments of a block beside the hidden states: masks, position embeddings, ...

    Args:
        positional: arguments after the hidden states.
        keywords: keyword arguments.
    """

    positional: tuple[Any, ...] = ()
    keywords: dict[str, Any] = field(default_factory=dict)


class LastBlockReached(Exception):
    """Ends a forward pass at the last block."""


class StandIn(nn.Module):
    """Block that keeps its arguments and returns its input, or given hidden states.

    Attributes that the model reads from its blocks come from the block that it stands for.

    Args:
        block: the block.
        outputs: see `Description.block_outputs`.
        result: hidden states to return; None: the input.
        last: whether the forward pass ends here.
    """

    def __init__(self, block: nn.Module, outputs: int = 0, result: Tensor | None = None, last: bool = False) -> None:
        super().__init__()
        object.__setattr__(self, "block", block)  # not registered as a part of this module
        self.outputs, self.result, self.last = outputs, result, last
        self.hidden: Tensor | None = None
        self.arguments = BlockArguments()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["block"], name)

    def forward(self, hidden_states: Tensor, *positional: Any, **keywords: Any) -> Any:
        """Keep the arguments; return hidden states as the block does."""
        self.hidden, self.arguments = hidden_states, BlockArguments(positional, keywords)
        if self.last:
            raise LastBlockReached
        result = hidden_states if self.result is None else self.result
        return (result, *[None] * (self.outputs - 1)) if self.outputs else result


@contextmanager
def replaced_blocks(trunk: Any, name: str, stand_ins: Sequence[nn.Module]) -> Iterator[None]:
    """Put stand-ins in the place of the blocks while the context is open.

    Args:
        trunk: module that holds the list of blocks.
        name: name of the list.
        stand_ins: one for each block.
    """
    blocks = getattr(trunk, name)
    setattr(trunk, name, nn.ModuleList(stand_ins))
    try:
        yield
    finally:
        setattr(trunk, name, blocks)


def run_model(model: Model, tokens: Tensor) -> Any:
    """Run the model's own forward pass on tokens (b, L), without a cache and without a compiled version."""
    return model.forward(input_ids=tokens, use_cache=False)


def block_inputs(model: Model, trunk: Any, name: str, blocks: Sequence[nn.Module], outputs: int, tokens: Tensor) -> Any:
    """Return the hidden states (b, L, d) before the first block, and the arguments of every block.

    Args:
        model: causal LM.
        trunk: module that holds the list of blocks.
        name: name of the list.
        blocks: the blocks, which do not run.
        outputs: see `Description.block_outputs`.
        tokens: (b, L).

    Returns:
        Hidden states (b, L, d), or None if the blocks were not reached, and a list of `BlockArguments`.
    """
    stand_ins = [StandIn(block, outputs, last=i == len(blocks) - 1) for i, block in enumerate(blocks)]
    with replaced_blocks(trunk, name, stand_ins):
        try:
            run_model(model, tokens)
        except LastBlockReached:
            return stand_ins[0].hidden, [stand_in.arguments for stand_in in stand_ins]
    return None, []


@torch.inference_mode()
def model_outputs(
    model: Model, trunk: Any, name: str, blocks: Sequence[nn.Module], outputs: int, hidden: Tensor
) -> Tensor:
    """Return the logits (b, L, vocabulary) that the model computes from hidden states (b, L, d) after its last block.

    Args:
        model: causal LM.
        trunk: module that holds the list of blocks.
        name: name of the list.
        blocks: the blocks, which do not run.
        outputs: see `Description.block_outputs`.
        hidden: (b, L, d).
    """
    stand_ins = [StandIn(block, outputs, result=hidden) for block in blocks]
    with replaced_blocks(trunk, name, stand_ins):
        return run_model(model, torch.zeros(hidden.shape[:2], dtype=torch.long, device=hidden.device)).logits
