"""Stand-ins for a decoder's blocks, through which the model's own forward pass shows what it gives each block."""

from __future__ import annotations

import copy
from collections.abc import Iterator, MutableMapping, Sequence
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

    def sharing(self, earlier: BlockArguments, known: dict[tuple[int, int], Any]) -> BlockArguments:
        """Return these arguments with the tensors of earlier ones in the place of equal ones, which are held once.

        Args:
            earlier: arguments of the same block for another batch.
            known: results of comparisons by the identities of the two values; blocks often share their arguments.
        """
        if self.keywords.keys() != earlier.keywords.keys() or len(self.positional) != len(earlier.positional):
            return self
        positional = _shared(self.positional, earlier.positional, known)
        keywords = {name: _shared(value, earlier.keywords[name], known) for name, value in self.keywords.items()}
        return BlockArguments(positional, keywords)

    def apart(self, copies: dict[int, Any]) -> BlockArguments:
        """Return these arguments with dictionaries of their own, into which blocks write for later blocks to read.

        Args:
            copies: copies by the identity of the dictionary, which the blocks of a batch share.
        """
        keywords = {
            name: copies.setdefault(id(value), copy.copy(value)) if isinstance(value, MutableMapping) else value
            for name, value in self.keywords.items()
        }
        return BlockArguments(self.positional, keywords)


def _shared(value: Any, earlier: Any, known: dict[tuple[int, int], Any]) -> Any:
    """Return the earlier tensor if it equals `value`, also inside tuples.

    Lists and dictionaries stay: blocks may write into them, for later blocks to read.
    """
    if type(value) is not type(earlier) or not isinstance(value, Tensor | tuple):
        return value
    key = id(value), id(earlier)
    if key not in known:
        if isinstance(value, Tensor):
            equal = value.dtype == earlier.dtype and value.shape == earlier.shape and torch.equal(value, earlier)
            known[key] = earlier if equal else value
        elif type(value) is tuple and len(value) == len(earlier):
            known[key] = tuple(_shared(v, e, known) for v, e in zip(value, earlier, strict=True))
        else:
            known[key] = value
    return known[key]


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
