"""Perplexity as in Wanda's and SparseGPT's code: windows without overlap, each of equal weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from methods.esparse.decoder import Decoder, HiddenStates


def windows_per_batch(length: int, tokens: int) -> int:
    """Return how many windows of `length` tokens make a batch of about `tokens` tokens; at least 1."""
    return max(1, tokens // length)


@torch.inference_mode()
def perplexity(
    decoder: Decoder, windows: Tensor, track: Callable[[range, str], Iterable[int]], tokens_per_batch: int = 2048
) -> float:
    """Compute exp of the mean over windows of the mean cross-entropy of their L - 1 predicted tokens.

    All windows pass through a block before the next block is loaded, so that a model on disk is read once.

    Args:
        decoder: model.
        windows: (windows, L) tokens.
        track: shows the progress over the blocks.
        tokens_per_batch: tokens of a batch of the forward passes.
    """
    states = decoder.embed(windows, windows_per_batch(windows.shape[1], tokens_per_batch))
    for i in track(range(len(decoder)), "evaluating, block"):
        with decoder.block(i) as block:
            decoder.run_block(block, states)
    return perplexity_after_blocks(decoder, states, windows)


@torch.inference_mode()
def perplexity_after_blocks(decoder: Decoder, states: HiddenStates, windows: Tensor) -> float:
    """Compute the perplexity of windows (windows, L) from their hidden states after the last block."""
    total = 0.0
    for hidden, tokens in zip(states.batches, windows.split(states.batches[0].shape[0]), strict=True):
        for h, window in zip(hidden, tokens.to(hidden.device), strict=True):  # logits of one window at a time
            logits = decoder.logits(h[None])[0, :-1].float()
            total += cross_entropy(logits, window[1:]).double().item()
    mean = total / len(windows)
    return math.exp(mean) if mean < 700 else math.inf
