"""Windows of tokens: random ones to calibrate with, consecutive ones to measure perplexity on."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Encode = Callable[[str], Sequence[int]]


def document_windows(documents: Sequence[str], encode: Encode, samples: int, length: int, seed: int) -> Tensor:
    """(samples, length) int64, as Wanda and SparseGPT draw them: documents uniformly until one is longer than `length`
    tokens, of that one a random window.

    Python's own random numbers, seeded with `seed`: with C4's first shard these are the papers' samples.
    Raises ValueError where no document is long enough.
    """
    if not documents:
        raise ValueError("there is no calibration document")
    draw = random.Random(seed)
    windows, short = [], set()
    while len(windows) < samples:
        i = draw.randint(0, len(documents) - 1)
        tokens = [] if i in short else encode(documents[i])
        if len(tokens) <= length:
            short.add(i)
            if len(short) == len(documents):
                raise ValueError(
                    f"no calibration document has more than {length} tokens: "
                    "make dataset.calibration.length smaller, or set dataset.calibration.sampling=text"
                )
            continue
        start = draw.randint(0, len(tokens) - length - 1)
        windows.append(tokens[start : start + length])
    return torch.tensor(windows, dtype=torch.long)


def text_windows(documents: Sequence[str], encode: Encode, samples: int, length: int, seed: int) -> Tensor:
    """(samples, length) int64: random windows of all documents in one, for texts with few long documents.

    Raises ValueError where the text is shorter than a window.
    """
    tokens = torch.tensor(encode("\n\n".join(documents)), dtype=torch.long)
    if tokens.numel() <= length:
        raise ValueError(
            f"the calibration text has {tokens.numel()} tokens, a window has {length}: "
            "make dataset.calibration.length smaller, or take a longer text"
        )
    draw = random.Random(seed)
    starts = torch.tensor([draw.randint(0, tokens.numel() - length - 1) for _ in range(samples)])
    return tokens[starts[:, None] + torch.arange(length)]


def consecutive_windows(documents: Sequence[str], encode: Encode, length: int, limit: int | None = None) -> Tensor:
    """(n, length) int64: the documents, joined by empty lines and encoded in one call, cut in windows without overlap.

    The tail is dropped; at most `limit` windows are kept. Raises ValueError where there is not one window.
    """
    tokens = torch.tensor(encode("\n\n".join(documents)), dtype=torch.long)
    count = tokens.numel() // length
    if not count:
        raise ValueError(f"the text has {tokens.numel()} tokens, fewer than a window of {length}: lower dataset.window")
    return tokens[: count * length].view(count, length)[:limit]
