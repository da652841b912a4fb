"""Tiny random language models."""

from __future__ import annotations

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

VOCABULARY = 50


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    model.config.use_cache = False
    return model.eval().requires_grad_(False)


def tiny_llama(layers: int = 2, tied: bool = False) -> nn.Module:
    """Grouped queries, a hidden layer that is no power of 2."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
    )
    return randomise(LlamaForCausalLM(config))


def tiny_opt(layers: int = 2, norm_first: bool = True) -> nn.Module:
    """With biases."""
    config = OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        ffn_dim=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=64,
        do_layer_norm_before=norm_first,
        word_embed_proj_dim=16 if norm_first else 8,
        dropout=0.0,
    )
    return randomise(OPTForCausalLM(config))


def tokens(windows: int = 4, length: int = 12, seed: int = 1) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (windows, length), generator=torch.Generator().manual_seed(seed))
