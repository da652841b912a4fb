"""Perplexity of texts under a pruned model, and their continuation by it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from datasets.prediction import files_below, unique_names, write_rows
from datasets.progress import track

SUFFIXES = (".txt", ".md", ".tex", ".rst", ".html", ".json", ".jsonl", ".py")


def predict_texts(
    model: Any,
    encode: Callable[[str], list[int]],
    decode: Callable[[list[int]], str],
    paths: list[Path],
    out: Path,
    window: int,
    tokens: int = 0,
) -> list[Path]:
    """Write `perplexity.csv`, a row for each text, and with `tokens` the continuation of each text.

    Args:
        model: causal language model of transformers.
        encode: returns the tokens of a text.
        decode: returns the text of tokens.
        paths: text files in UTF-8, or folders of them.
        out: folder of the files; a continuation is `<name>.continued.txt`, text and continuation, with the names of
            folders before it where names repeat.
        window: largest number of tokens that the model sees at once.
        tokens: number of tokens by which each text is continued, always by the likeliest one; 0: not at all.

    Raises:
        ValueError: a file is no text, or has fewer than two tokens.
    """
    if not isinstance(tokens, int) or not 0 <= tokens < window:
        raise ValueError(f"tokens must be a whole number from 0 to {window - 1}, got {tokens}")
    files = files_below(paths, SUFFIXES, "texts")
    texts = [_read(path) for path in files]
    names, written, rows = unique_names(files), [], []
    for path, text in track(zip(files, texts, strict=True), "texts", total=len(files)):
        ids = torch.tensor(encode(text))
        if len(ids) < 2:
            raise ValueError(f"{path} has {len(ids)} tokens: at least 2 are needed, since the first is given")
        loss = mean_cross_entropy(model, ids, window)
        rows.append([str(path), len(ids), f"{loss:.6f}", f"{math.exp(loss) if loss < 700 else math.inf:.4f}"])
        if tokens:
            written.append(out / f"{names[path]}.continued.txt")
            written[-1].write_text(text + decode(continue_tokens(model, ids, tokens, window)))
    header = ["file", "tokens", "cross_entropy", "perplexity"]
    return [write_rows(out / "perplexity.csv", header, rows), *written]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: {error}") from error


def mean_cross_entropy(model: Any, ids: Tensor, window: int) -> float:
    """Return the mean cross-entropy in nats of all tokens but the first of each window.

    Args:
        model: causal language model.
        ids: (n,) int64 tokens of a text.
        window: tokens that the model sees at once; a last window of one token is left out.
    """
    total, count = 0.0, 0
    for part in ids.split(window):
        if len(part) > 1:
            logits = model(input_ids=part[None]).logits[0, :-1].float()
            total += cross_entropy(logits, part[1:], reduction="sum").double().item()
            count += len(part) - 1
    return total / count


def continue_tokens(model: Any, ids: Tensor, count: int, window: int) -> list[int]:
    """Return the likeliest next tokens, one after the other; fewer if the model ends the text.

    Args:
        model: causal language model with a cache of keys and values.
        ids: (n,) int64 tokens of the text; its end is used if it is longer than the window allows.
        count: number of tokens.
        window: tokens that the model sees at once.
    """
    end = model.config.eos_token_id
    ends = set(end) if isinstance(end, list) else {end}
    state = model(input_ids=ids[None, -(window - count) :], use_cache=True)
    new: list[int] = []
    while len(new) < count:
        token = int(state.logits[0, -1].argmax())
        if token in ends:
            break
        new.append(token)
        state = model(input_ids=torch.tensor([[token]]), past_key_values=state.past_key_values, use_cache=True)
    return new
