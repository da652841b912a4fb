"""References for the tests of one-shot pruning: plain, slow implementations and tiny random models."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

VOCABULARY, LONGEST = 61, 48
KINDS = (
    "llama",
    "llama, biases",
    "llama, wide heads",
    "llama, tied, eager",
    "opt",
    "opt, norm after",
    "opt, projected",
    "opt, no final norm",
)


def silent(items: Iterable[int], what: str) -> Iterable[int]:
    return items


@functools.cache
def _model(kind: str) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

    common: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 3}
    common |= {"num_attention_heads": 4, "max_position_embeddings": LONGEST}
    name, *options = kind.split(", ")
    torch.manual_seed(0)
    if name == "llama":
        extra: dict[str, Any] = {"num_key_value_heads": 2, "intermediate_size": 24, "initializer_range": 0.3}
        if "biases" in options:
            extra |= {"attention_bias": True, "mlp_bias": True}
        if "wide heads" in options:
            extra |= {"head_dim": 6}
        if "tied" in options:
            extra |= {"tie_word_embeddings": True}
        config = LlamaConfig(**common, **extra)
        config._attn_implementation = "eager" if "eager" in options else "sdpa"
        model = LlamaForCausalLM(config)
    else:
        extra = {"ffn_dim": 32, "init_std": 0.3}
        if "norm after" in options:
            extra |= {"do_layer_norm_before": False}
        if "projected" in options:
            extra |= {"word_embed_proj_dim": 12}
        if "no final norm" in options:
            extra |= {"_remove_final_layer_norm": True}
        model = OPTForCausalLM(OPTConfig(**common, **extra))
    with torch.no_grad():  # norms of ones and biases of zeros would hide what is left out
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval().requires_grad_(False)


def tiny_model(kind: str) -> nn.Module:
    """A random causal LM of one of `KINDS`, float32, three blocks; every call gives a copy."""
    return copy.deepcopy(_model(kind))


def random_tokens(count: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(VOCABULARY, (count, length), generator=torch.Generator().manual_seed(seed))


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    """All linear layers inside the blocks, by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and ".layers." in n}


def nm_by_hand(scores: np.ndarray, remove: int, of: int) -> np.ndarray:
    """N:M masks, group by group: the lowest scores go, of equal ones the leftmost first."""
    mask = np.ones(scores.shape, dtype=bool)
    for r, row in enumerate(scores):
        for start in range(0, len(row) - of + 1, of):
            for j in sorted(range(start, start + of), key=lambda j: (row[j], j))[:remove]:
                mask[r, j] = False
    return mask


def kept_by_hand(scores: np.ndarray, keep: int, of: int) -> float:
    """Sum of the `keep` largest of every `of` columns of every row."""
    rows, columns = scores.shape
    return float(np.sort(scores.astype(float).reshape(rows, columns // of, of), axis=2)[:, :, of - keep :].sum())


def sparsegpt_by_hand(
    weight: np.ndarray, hessian: np.ndarray, remove: int, of: int, damping: float, mask: np.ndarray | None = None
) -> np.ndarray:
    """SparseGPT in float64 by its definition: when column q of a row goes, the columns right of it take over what they
    can, by the optimal-brain-surgeon formula of the columns from q on; every inverse is computed anew."""
    weight, hessian = weight.astype(float).copy(), hessian.astype(float).copy()
    columns = weight.shape[1]
    for j in np.flatnonzero(np.diag(hessian) == 0):
        hessian[j, j], weight[:, j] = 1.0, 0.0
    hessian += damping * np.diag(hessian).mean() * np.eye(columns)
    inverses = [np.linalg.inv(hessian[q:, q:]) for q in range(columns)]
    mask = None if mask is None else mask.copy()
    chosen = np.ones(weight.shape, dtype=bool) if mask is None else mask
    for q in range(columns):
        if mask is None and q % of == 0 and q + of <= columns:
            group = slice(q, q + of)
            loss = weight[:, group] ** 2 / np.array([inverses[j][0, 0] for j in range(q, q + of)])
            chosen[:, group] = nm_by_hand(loss, remove, of)
        for r in np.flatnonzero(~chosen[:, q]):
            weight[r, q:] -= weight[r, q] / inverses[q][0, 0] * inverses[q][0]
            weight[r, q] = 0.0
    return weight
