"""Decoder-only transformer that is run and pruned block by block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Model = Any  # causal LM of transformers, whose attributes have no types
Block = Any  # block of such a model


@dataclass(frozen=True)
class InputSet:
    """Linear layers of a block that share their input, and hence a permutation of its channels.

    Args:
        name: name of the set.
        linears: names of the layers inside the block.
        norm: name of the norm layer that makes the input, if any.
        producers: names of linear layers whose rows make the channels one to one, if any.
    """

    name: str
    linears: tuple[str, ...]
    norm: str | None = None
    producers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Architecture:
    """Names of the parts of a transformers model of one `model_type`.

    Args:
        trunk: name of the module that holds embeddings and blocks.
        blocks: name of the list of blocks inside the trunk.
        sets: sets of linear layers of a block.
        columns: config key of the number of input channels, by the name of a set; the others have `hidden_size`.
    """

    trunk: str
    blocks: str
    sets: tuple[InputSet, ...]
    columns: dict[str, str]


LLAMA = Architecture(
    trunk="model",
    blocks="layers",
    sets=(
        InputSet("attention", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), norm="input_layernorm"),
        InputSet("attention_out", ("self_attn.o_proj",)),
        InputSet("mlp", ("mlp.gate_proj", "mlp.up_proj"), norm="post_attention_layernorm"),
        InputSet("mlp_out", ("mlp.down_proj",), producers=("mlp.gate_proj", "mlp.up_proj")),
    ),
    columns={"mlp_out": "intermediate_size"},
)
OPT = Architecture(
    trunk="model.decoder",
    blocks="layers",
    sets=(
        InputSet(
            "attention", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), norm="self_attn_layer_norm"
        ),
        InputSet("attention_out", ("self_attn.out_proj",)),
        InputSet("mlp", ("fc1",), norm="final_layer_norm"),
        InputSet("mlp_out", ("fc2",), producers=("fc1",)),
    ),
    columns={"mlp_out": "ffn_dim"},
)
ARCHITECTURES = {"llama": LLAMA, "opt": OPT}


def find_architecture(config: Any) -> Architecture:
    """Return the architecture of a transformers config.

    Raises:
        ValueError: if its `model_type` is not supported.
    """
    if config.model_type not in ARCHITECTURES:
        raise ValueError(
            f"models of type {config.model_type} cannot be pruned; supported are {', '.join(ARCHITECTURES)}. "
            "To add one, describe its blocks in methods/esparse/decoder.py (ARCHITECTURES): which linear layers share "
            "an input, and which norm it comes from."
        )
    return ARCHITECTURES[config.model_type]


def input_channels(config: Any) -> dict[str, int]:
    """Return the number of input channels of each set of layers, by the name of the set."""
    architecture = find_architecture(config)
    head_dim = getattr(config, "head_dim", None)
    sizes = {s.name: config.hidden_size for s in architecture.sets}
    if head_dim:
        sizes["attention_out"] = head_dim * config.num_attention_heads
    return sizes | {name: getattr(config, key) for name, key in architecture.columns.items()}


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
        block_kwargs: keyword arguments of every block (position embeddings, attention mask, ...), by batch size b.
    """

    batches: list[Tensor] = field(default_factory=list)
    block_kwargs: dict[int, dict[str, Any]] = field(default_factory=dict)


class _FirstBlockReached(Exception):
    """Ends a forward pass before the first block."""


class _Catcher(nn.Module):
    """Stand-in for the first block that keeps its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = torch.empty(0)
        self.block_kwargs: dict[str, Any] = {}

    def forward(self, hidden: Tensor, **block_kwargs: Any) -> None:
        self.hidden, self.block_kwargs = hidden, block_kwargs
        raise _FirstBlockReached


class Decoder:
    """Causal LM of transformers, held in memory.

    Args:
        model: LlamaForCausalLM or OPTForCausalLM.

    Raises:
        ValueError: if the architecture is not supported.
    """

    def __init__(self, model: Model) -> None:
        self.model: Model = model
        self.architecture = find_architecture(model.config)
        self.trunk: Any = model.get_submodule(self.architecture.trunk)

    def __len__(self) -> int:
        return self.model.config.num_hidden_layers

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.model.parameters()).device

    @contextmanager
    def block(self, i: int, write: bool = False) -> Iterator[Block]:
        """Yield block i, ready to compute.

        Args:
            i: number of the block.
            write: whether its weights are changed in the context, so that they must be stored.
        """
        yield getattr(self.trunk, self.architecture.blocks)[i]

    def stored_reports(self, i: int) -> list[dict[str, Any]] | None:
        """Return the reports of block i that an interrupted run has stored, or None."""
        return None

    def store_reports(self, i: int, reports: list[dict[str, Any]]) -> None:
        """Store the reports of block i, for the case that the run is interrupted after it."""

    @torch.inference_mode()
    def embed(self, tokens: Tensor, batch_size: int) -> HiddenStates:
        """Compute the hidden states before the first block.

        Args:
            tokens: (windows, L).
            batch_size: number of windows of a batch.
        """
        states, catcher = HiddenStates(), _Catcher()
        blocks = getattr(self.trunk, self.architecture.blocks)
        setattr(self.trunk, self.architecture.blocks, nn.ModuleList([catcher]))
        layers, self.model.config.num_hidden_layers = self.model.config.num_hidden_layers, 1
        try:
            for part in tokens.split(batch_size):
                try:
                    self.trunk(input_ids=part.to(self.device), use_cache=False)
                except _FirstBlockReached:
                    states.batches.append(catcher.hidden)
                    states.block_kwargs[len(part)] = catcher.block_kwargs
        finally:
            setattr(self.trunk, self.architecture.blocks, blocks)
            self.model.config.num_hidden_layers = layers
        return states

    @torch.inference_mode()
    def run_block(self, block: Block, states: HiddenStates) -> None:
        """Replace the states by the block's outputs. Raise FloatingPointError if a value is not finite."""
        for i, hidden in enumerate(states.batches):
            states.batches[i] = self._outputs(block, hidden, states)

    @torch.inference_mode()
    def run_hooks(self, block: Block, states: HiddenStates) -> None:
        """Run the block only for its forward hooks. Raise FloatingPointError if a value is not finite."""
        for hidden in states.batches:
            self._outputs(block, hidden, states)

    def _outputs(self, block: Block, hidden: Tensor, states: HiddenStates) -> Tensor:
        out = block(hidden, **states.block_kwargs[hidden.shape[0]])
        out = out[0] if isinstance(out, tuple) else out
        if not torch.isfinite(out.sum(dtype=torch.float32)):
            check_finite((f"a block's {name}", weight) for name, weight in block.named_parameters())
            advice = "choose model.dtype=bfloat16 or float32" if out.dtype == torch.float16 else "check the checkpoint"
            raise FloatingPointError(f"a block's outputs are not finite in {_dtype_name(out)}: {advice}")
        return out

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Compute the logits (b, L, vocabulary) from the hidden states (b, L, d) after the last block."""
        for name in ("norm", "final_layer_norm"):
            if (norm := getattr(self.trunk, name, None)) is not None:
                hidden = norm(hidden)
        if (project := getattr(self.trunk, "project_out", None)) is not None:
            hidden = project(hidden)
        return self.model.lm_head(hidden)
