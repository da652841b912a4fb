"""A decoder-only transformer seen block by block: what goes in, what each block is made of, what comes out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class InputSet:
    """Linear layers of a block that share their input, and hence a permutation of its channels."""

    name: str
    linears: tuple[str, ...]
    norm: str | None = None  # the norm that the input comes from
    producers: tuple[str, ...] = ()  # linear layers whose rows make the channels, one to one


@dataclass(frozen=True)
class Architecture:
    """Where the parts of a model of one `model_type` are found, by their names in transformers."""

    trunk: str
    blocks: str
    sets: tuple[InputSet, ...]
    columns: dict[str, str]  # sizes in the config of each set's input


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


def architecture_of(config: Any) -> Architecture:
    """Raises ValueError for a `model_type` that is not described here."""
    if config.model_type not in ARCHITECTURES:
        raise ValueError(
            f"models of type {config.model_type} are not known to the pruner, which knows {', '.join(ARCHITECTURES)}. "
            "To add one: describe its blocks in methods/esparse/decoder.py (ARCHITECTURES): which linear layers share "
            "an input, and which norm it comes from."
        )
    return ARCHITECTURES[config.model_type]


def columns_of(config: Any) -> dict[str, int]:
    """Input channels of each set of layers."""
    architecture = architecture_of(config)
    heads = getattr(config, "head_dim", None)
    sizes = {s.name: config.hidden_size for s in architecture.sets}
    if heads:
        sizes["attention_out"] = heads * config.num_attention_heads
    return sizes | {name: getattr(config, key) for name, key in architecture.columns.items()}


@dataclass
class States:
    """Hidden states between two blocks: batches (b, L, d), and for each batch size what every block is told besides."""

    batches: list[Tensor] = field(default_factory=list)
    told: dict[int, dict[str, Any]] = field(default_factory=dict)


class _Stop(Exception):
    """The first block was reached."""


class _Catcher(nn.Module):
    """Stands in the place of the first block and keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden: Tensor | None = None
        self.told: dict[str, Any] = {}

    def forward(self, hidden: Tensor, **told: Any) -> None:
        self.hidden, self.told = hidden, told
        raise _Stop


class Decoder:
    """A causal LM of transformers, held in memory.

    Args: model: LlamaForCausalLM, OPTForCausalLM. Raises ValueError for other architectures.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.architecture = architecture_of(model.config)
        self.trunk = model.get_submodule(self.architecture.trunk)

    def __len__(self) -> int:
        return self.model.config.num_hidden_layers

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @contextmanager
    def block(self, i: int, write: bool = False) -> Iterator[nn.Module]:
        """Block i, ready to compute. write: its weights are changed meanwhile."""
        yield getattr(self.trunk, self.architecture.blocks)[i]

    def noted(self, i: int) -> list[dict[str, Any]] | None:
        """What `note` kept of block i, if an interrupted run has pruned it."""
        return None

    def note(self, i: int, notes: list[dict[str, Any]]) -> None:
        """Keeps what is to be known of block i if the run is interrupted after it."""

    @torch.inference_mode()
    def embed(self, tokens: Tensor, batch: int) -> States:
        """Hidden states before the first block: tokens (n, L) in batches of `batch` windows."""
        states, catcher = States(), _Catcher()
        blocks = getattr(self.trunk, self.architecture.blocks)
        setattr(self.trunk, self.architecture.blocks, nn.ModuleList([catcher]))
        layers, self.model.config.num_hidden_layers = self.model.config.num_hidden_layers, 1
        try:
            for part in tokens.split(batch):
                try:
                    self.trunk(input_ids=part.to(self.device), use_cache=False)
                except _Stop:
                    states.batches.append(catcher.hidden)
                    states.told[len(part)] = catcher.told
        finally:
            setattr(self.trunk, self.architecture.blocks, blocks)
            self.model.config.num_hidden_layers = layers
        return states

    @torch.inference_mode()
    def advance(self, block: nn.Module, states: States, keep: bool = True) -> None:
        """Sends the states through the block; with keep=False only to be watched, the states stay.

        Raises FloatingPointError where a value overflows.
        """
        for i, hidden in enumerate(states.batches):
            out = block(hidden, **states.told[hidden.shape[0]])
            out = out[0] if isinstance(out, tuple) else out
            if not torch.isfinite(out.sum(dtype=torch.float32)):
                raise FloatingPointError(
                    f"a block gives values that are not finite in {str(out.dtype).removeprefix('torch.')}; "
                    "choose model.dtype=bfloat16 or float32"
                )
            if keep:
                states.batches[i] = out

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """(b, L, d) after the last block -> (b, L, vocabulary)."""
        for name in ("norm", "final_layer_norm"):
            if (norm := getattr(self.trunk, name, None)) is not None:
                hidden = norm(hidden)
        if (project := getattr(self.trunk, "project_out", None)) is not None:
            hidden = project(hidden)
        return self.model.lm_head(hidden)
