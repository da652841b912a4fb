"""Perplexity as Wanda's and SparseGPT's code measure it: windows without overlap, each of equal weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from methods.esparse.decoder import Decoder

Track = Callable[[Iterable[int], str], Iterable[int]]


def windows_at_once(length: int, tokens: int) -> int:
    """Windows in a batch of about so many tokens."""
    return max(1, tokens // length)


@torch.inference_mode()
def perplexity(decoder: Decoder, windows: Tensor, track: Track, tokens_at_once: int = 2048) -> float:
    """exp of the mean over windows (n, L) of the mean cross-entropy of their L - 1 predicted tokens.

    All windows go through a block before the next one is looked at, so that a model on disk is read once.
    """
    states = decoder.embed(windows, windows_at_once(windows.shape[1], tokens_at_once))
    for i in track(range(len(decoder)), "evaluating, block"):
        with decoder.block(i) as block:
            decoder.advance(block, states)
    total = 0.0
    for hidden, tokens in zip(states.batches, windows.split(states.batches[0].shape[0]), strict=True):
        for h, window in zip(hidden, tokens.to(hidden.device), strict=True):  # logits of one window at a time
            logits = decoder.logits(h[None])[0, :-1].float()
            total += cross_entropy(logits, window[1:]).double().item()
    mean = total / len(windows)
    return math.exp(mean) if mean < 700 else math.inf
