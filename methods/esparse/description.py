"""Description of a decoder-only transformer for pruning: its blocks, and the matrices that share an input."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

Model = Any  # causal LM of transformers, whose attributes have no types
Block = Any  # block of such a model


@dataclass(frozen=True)
class InputSet:
    """Matrices of a block that share their input, and hence a permutation of its channels.

    A matrix has the name of its linear layer inside the block; one of a mixture of experts is `<parameter>[<expert>]`.

    Args:
        name: name of the set.
        linears: names of the matrices.
        columns: number of input channels.
        norm: name of the norm layer that makes the input, if it is known and makes nothing else.
        producers: names of matrices whose rows make the channels one to one, if they are known. One with twice as many
            rows makes them by its two halves (gate and up).
        experts: name of the module of experts that the matrices belong to, or None.
        token_share: expected share of the tokens that reach the matrices.
    """

    name: str
    linears: tuple[str, ...]
    columns: int = 0
    norm: str | None = None
    producers: tuple[str, ...] = ()
    experts: str | None = None
    token_share: float = 1.0

    @property
    def expert(self) -> int:
        """Number of the expert."""
        return int(self.linears[0].rpartition("[")[2].removesuffix("]"))


@dataclass(frozen=True)
class Description:
    """Blocks of a transformers model and their matrices.

    Args:
        trunk: name of the module that holds the list of blocks.
        blocks: name of the list inside the trunk.
        block_sets: sets of matrices of each block.
        block_outputs: 0 if a block returns its hidden states, otherwise the length of the tuple that they are first in.
    """

    trunk: str
    blocks: str
    block_sets: tuple[tuple[InputSet, ...], ...]
    block_outputs: int

    @property
    def prefix(self) -> str:
        """Prefix of the names of a block's tensors, before the block's number."""
        return f"{self.trunk}.{self.blocks}." if self.trunk else f"{self.blocks}."

    @property
    def sets(self) -> tuple[InputSet, ...]:
        """Sets of the first block."""
        return self.block_sets[0]

    @property
    def kinds(self) -> list[tuple[InputSet, ...]]:
        """Different sets of blocks, in the order of the blocks."""
        return list(dict.fromkeys(self.block_sets))


def matrix(block: Block, name: str) -> Tensor:
    """Return the weight (outputs, inputs) of a matrix of a block; a view, so that it can be changed in place.

    Args:
        block: block of the decoder.
        name: name of the matrix, see `InputSet`.
    """
    if name.endswith("]"):
        path, _, number = name.removesuffix("]").rpartition("[")
        owner, _, parameter = path.rpartition(".")
        experts = block.get_submodule(owner)
        weight = getattr(experts, parameter)[int(number)]
        return weight.T if experts.is_transposed else weight
    layer = block.get_submodule(name)
    return layer.weight.T if is_transposed(layer) else layer.weight


def is_transposed(layer: object) -> bool:
    """Return whether a layer is GPT-2's Conv1D, a linear layer whose weight is (inputs, outputs)."""
    return type(layer).__name__ == "Conv1D"


@dataclass(frozen=True)
class KnownParts:
    """Facts on the blocks of a model type that running them does not show.

    Args:
        norms: name of the norm layer that makes the input of the set with this first matrix, and nothing else.
        producers: names of the matrices whose rows make the inputs of the set with this first matrix.
    """

    norms: dict[str, str]
    producers: dict[str, tuple[str, ...]]


def _norms(attention: str, mlp: str, mlp_norm: str = "post_attention_layernorm") -> dict[str, str]:
    return {attention: "input_layernorm", mlp: mlp_norm}


GATED: dict[str, tuple[str, ...]] = {"mlp.down_proj": ("mlp.gate_proj", "mlp.up_proj")}
FOUR_H: dict[str, tuple[str, ...]] = {"mlp.dense_4h_to_h": ("mlp.dense_h_to_4h",)}
LLAMA = KnownParts(_norms("self_attn.q_proj", "mlp.gate_proj"), GATED)
GEMMA2 = KnownParts(_norms("self_attn.q_proj", "mlp.gate_proj", "pre_feedforward_layernorm"), GATED)
KNOWN = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "granite", "smollm3"), LLAMA),
    **dict.fromkeys(("gemma2", "gemma3", "gemma3_text"), GEMMA2),
    "olmo2": KnownParts({}, GATED),
    "opt": KnownParts({"self_attn.q_proj": "self_attn_layer_norm", "fc1": "final_layer_norm"}, {"fc2": ("fc1",)}),
    "phi": KnownParts({"self_attn.q_proj": "input_layernorm"}, {"mlp.fc2": ("mlp.fc1",)}),
    "phi3": KnownParts(_norms("self_attn.qkv_proj", "mlp.gate_up_proj"), {"mlp.down_proj": ("mlp.gate_up_proj",)}),
    "gpt2": KnownParts({"attn.c_attn": "ln_1", "mlp.c_fc": "ln_2"}, {"mlp.c_proj": ("mlp.c_fc",)}),
    "gpt_neox": KnownParts(_norms("attention.query_key_value", "mlp.dense_h_to_4h"), FOUR_H),
    "bloom": KnownParts({}, FOUR_H),
    "falcon": KnownParts({}, FOUR_H),
    "mixtral": KnownParts({"self_attn.q_proj": "input_layernorm"}, {}),
    "qwen3_moe": KnownParts({"self_attn.q_proj": "input_layernorm"}, GATED),
}


def add_known_parts(sets: tuple[InputSet, ...], model_type: str) -> tuple[InputSet, ...]:
    """Add the norms and producers that are known for a model type; those of experts are known for all types."""
    known = KNOWN.get(model_type, KnownParts({}, {}))
    return tuple(
        s
        if s.experts
        else replace(s, norm=known.norms.get(s.linears[0]), producers=known.producers.get(s.linears[0], ()))
        for s in sets
    )


def name_sets(groups: list[tuple[str, ...]]) -> list[str]:
    """Name sets of linear layers after their place in the block.

    Args:
        groups: names of the layers of each set, in the order in which they run.

    Returns:
        "attention" and "attention_out", "mlp" and "mlp_out" for the first and the last set of each half of the block;
        the names of the layers for sets between them.
    """
    halves = [["attention" if "att" in name else "mlp" for name in names] for names in groups]
    places: dict[str, list[int]] = {}
    for place, kinds in enumerate(halves):
        for kind in dict.fromkeys(kinds):
            places.setdefault(kind, []).append(place)
    result = []
    for place, (names, kinds) in enumerate(zip(groups, halves, strict=True)):
        members = places[kinds[0]]
        if place == members[0]:
            result.append(kinds[0])
        elif place == members[-1]:
            result.append(f"{kinds[0]}_out")
        else:
            result.append(" ".join(names))
    return result
