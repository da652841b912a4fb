"""Tiny random models of the families that are pruned block by block."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import nn

VOCABULARY, LAYERS = 61, 3
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED: dict[str, Any] = {"num_key_value_heads": 2}
SLIDING: dict[str, Any] = {"sliding_window": 4}
GEMMA = GROUPED | {"head_dim": 4}
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
GPT2 = {"n_embd": 16, "n_layer": LAYERS, "n_head": 4, "n_positions": 64}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", GROUPED),
    "opt": ("opt", {"ffn_dim": 32, "init_std": 0.3}),
    "mistral": ("mistral", GROUPED | SLIDING),
    "qwen2": ("qwen2", GROUPED | SLIDING | {"use_sliding_window": True, "max_window_layers": 1}),
    "qwen3": ("qwen3", GROUPED | {"head_dim": 6}),
    "gemma": ("gemma", GEMMA),
    "gemma2": ("gemma2", GEMMA | SLIDING | {"layer_types": MIXED, "final_logit_softcapping": 3.0}),
    "gemma3": ("gemma3_text", GEMMA | SLIDING | {"layer_types": MIXED}),
    "gemma4": (
        "gemma4_text",
        GEMMA
        | SLIDING
        | {"layer_types": [*MIXED, "full_attention"], "num_hidden_layers": 4, "num_kv_shared_layers": 1}
        | {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8},
    ),
    "phi": ("phi", GROUPED),
    "phi3": ("phi3", GROUPED),
    "gpt2": ("gpt2", GPT2),
    "openai-gpt": ("openai-gpt", GPT2),
    "gpt_neox": ("gpt_neox", {}),
    "gpt_neox, sequential": ("gpt_neox", {"use_parallel_residual": False}),
    "bloom": ("bloom", {"n_layer": LAYERS, "n_head": 4}),
    "falcon": ("falcon", {"multi_query": True}),
    "falcon, new": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon, alibi": ("falcon", {"alibi": True}),
    "olmo2": ("olmo2", GROUPED),
    "granite": ("granite", GROUPED | {"logits_scaling": 2.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5}),
    "smollm3": ("smollm3", GROUPED | {"no_rope_layers": [1, 0, 1]}),
    "mixtral": ("mixtral", GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3_moe": (
        "qwen3_moe",
        GEMMA
        | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12, "mlp_only_layers": [0]}
        | {"decoder_sparse_step": 1},
    ),
}


def family_config(family: str) -> Any:
    """Config of a tiny model of one of `FAMILIES`."""
    from transformers import AutoConfig

    model_type, extra = FAMILIES[family]
    return AutoConfig.for_model(model_type, **(COMMON | extra))


@functools.cache
def _model(family: str) -> nn.Module:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(family_config(family))
    with torch.no_grad():  # norms of ones and biases of zeros would hide what is left out
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval().requires_grad_(False)


def family_model(family: str) -> nn.Module:
    """A random causal LM of one of `FAMILIES`, float32; every call gives a copy."""
    return copy.deepcopy(_model(family))
