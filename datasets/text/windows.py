"""Windows of tokens: random ones for calibration, consecutive ones for perplexity."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Encode = Callable[[str], Sequence[int]]


def document_windows(documents: Sequence[str], encode: Encode, samples: int, length: int, seed: int) -> Tensor:
    """Draw calibration windows as in Wanda's and SparseGPT's code.

    Documents are drawn uniformly until one is longer than `length` tokens; of this one a random window is taken. The
    random numbers are Python's own: with C4's first shard and seed 0 these are the papers' samples.

    Args:
        documents: texts.
        encode: returns the tokens of a text.
        samples: number of windows.
        length: tokens of a window.
        seed: seed of the random numbers.

    Returns:
        (samples, length) int64.

    Raises:
        ValueError: if no document is long enough.
    """
    if not documents:
        raise ValueError("there is no calibration document")
    draw = random.Random(seed)
    windows: list[Sequence[int]] = []
    short: set[int] = set()
    while len(windows) < samples:
        i = draw.randint(0, len(documents) - 1)
        tokens = [] if i in short else encode(documents[i])
        if len(tokens) <= length:
            short.add(i)
            if len(short) == len(documents):
                raise ValueError(
                    f"no calibration document has more than {length} tokens: "
                    "lower dataset.calibration.length, or set dataset.calibration.sampling=text"
                )
            continue
        start = draw.randint(0, len(tokens) - length - 1)
        windows.append(tokens[start : start + length])
    return torch.tensor(windows, dtype=torch.long)


def text_windows(documents: Sequence[str], encode: Encode, samples: int, length: int, seed: int) -> Tensor:
    """Draw random windows of all documents joined by empty lines, for texts with few long documents.

    Args:
        documents: texts.
        encode: returns the tokens of a text.
        samples: number of windows.
        length: tokens of a window.
        seed: seed of the random numbers.

    Returns:
        (samples, length) int64.

    Raises:
        ValueError: if the text is shorter than a window.
    """
    tokens = torch.tensor(encode("\n\n".join(documents)), dtype=torch.long)
    if tokens.numel() <= length:
        raise ValueError(
            f"the calibration text has {tokens.numel()} tokens, a window has {length}: "
            "lower dataset.calibration.length, or take a longer text"
        )
    draw = random.Random(seed)
    starts = torch.tensor([draw.randint(0, tokens.numel() - length - 1) for _ in range(samples)])
    return tokens[starts[:, None] + torch.arange(length)]


def consecutive_windows(documents: Sequence[str], encode: Encode, length: int, limit: int | None = None) -> Tensor:
    """Cut the documents, joined by empty lines and encoded in one call, into windows without overlap.

    Args:
        documents: texts.
        encode: returns the tokens of a text.
        length: tokens of a window; tokens that fill none are dropped.
        limit: largest number of windows; None: all.

    Returns:
        (windows, length) int64.

    Raises:
        ValueError: if the text is shorter than a window.
    """
    tokens = torch.tensor(encode("\n\n".join(documents)), dtype=torch.long)
    count = tokens.numel() // length
    if not count:
        raise ValueError(f"the text has {tokens.numel()} tokens, fewer than a window of {length}: lower dataset.window")
    return tokens[: count * length].view(count, length)[:limit]
