"""Zero-shot multiple choice, scored as in EleutherAI's lm-evaluation-harness: the likeliest continuation wins.

A context passes through the model once, followed by all of its continuations in one row of tokens. Each continuation
attends to the context and itself, not to the others, and has the positions that it would have alone. Models that cannot
compute such rows read each choice in a row of its own.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from methods.esparse.decoder import Model

if TYPE_CHECKING:
    from datasets.text.zeroshot import Example

Encode = Callable[[str], Sequence[int]]
Progress = Callable[[Sequence[Any], str], Iterable[Any]]
Request = tuple[tuple[int, ...], tuple[int, ...]]  # tokens of a context, tokens of its continuation

LOGITS_PER_CHUNK = 512
# model types whose attention takes a mask and positions for each token of a row as they are, and whose logits are the
# output of the head (Granite scales it)
BRANCHING = (
    "llama",
    "opt",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma",
    "phi",
    "phi3",
    "gpt_neox",
    "olmo2",
    "smollm3",
)


def evaluate(
    model: Model,
    encode: Encode,
    examples: Sequence[Example],
    *,
    tokens_per_batch: int = 4096,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Compute the accuracy of a model on multiple-choice questions.

    Args:
        model: causal LM of transformers in eval mode.
        encode: returns the tokens of a text, with the special tokens that a text begins with.
        examples: questions.
        tokens_per_batch: padded tokens of a batch.
        progress: shows the progress over the batches.

    Returns:
        `acc` and `acc_norm`: share of the examples whose right choice has the largest log-probability, or the largest
        log-probability per character of the choice.

    Raises:
        ValueError: if there are no examples, or a choice has no tokens or more than the model takes.
        FloatingPointError: if the model computes NaN.
    """
    if not examples:
        raise ValueError("there are no examples to evaluate on")
    encode = lru_cache(maxsize=8)(encode)  # the choices of an example share their context
    requests = [
        request(encode, context, choice)
        for example in examples
        for context, choice in zip(example.contexts, example.choices, strict=True)
    ]
    scores = iter(log_likelihoods(model, requests, tokens_per_batch, progress))
    return accuracies([list(islice(scores, len(example.choices))) for example in examples], examples)


def accuracies(scores: Sequence[Sequence[float]], examples: Sequence[Example]) -> dict[str, float]:
    """Compute acc and acc_norm from the log-probability of each choice of each example. The first of equals wins."""
    plain = norm = 0
    for row, example in zip(scores, examples, strict=True):
        per_character = [score / len(c.removeprefix(" ")) for score, c in zip(row, example.choices, strict=True)]
        plain += row.index(max(row)) == example.gold
        norm += per_character.index(max(per_character)) == example.gold
    return {"acc": plain / len(examples), "acc_norm": norm / len(examples)}


def request(encode: Encode, context: str, continuation: str) -> Request:
    """Return the tokens of the context, and those that the continuation adds to them.

    Spaces at the context's end belong to the continuation.

    Raises:
        ValueError: if either has no tokens.
    """
    bare = context.rstrip()
    start = tuple(encode(bare))
    added = tuple(encode(context + continuation))[len(start) :]
    if not start or not added:
        raise ValueError(
            f"no tokens for the {'continuation' if start else 'context'} of {context!r} + {continuation!r}"
        )
    return start, added


@torch.inference_mode()
def log_likelihoods(
    model: Model,
    requests: Sequence[Request],
    tokens_per_batch: int = 4096,
    progress: Progress | None = None,
) -> list[float]:
    """Compute the natural logarithm of the probability of each continuation given its context.

    The beginning of a context that is too long is dropped.

    Args:
        model: causal LM of transformers in eval mode.
        requests: tokens of context and continuation.
        tokens_per_batch: padded tokens of a batch.
        progress: shows the progress over the batches.

    Raises:
        ValueError: if the model's attention cannot take a mask, or a continuation is too long.
        FloatingPointError: if the model computes NaN.
    """
    if model.config._attn_implementation not in ("eager", "sdpa"):
        raise ValueError(f"zero-shot tasks need attention eager or sdpa, got {model.config._attn_implementation}")
    numbers: dict[Request, int] = {}
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize
    places = [numbers.setdefault(shorten(request, longest), len(numbers)) for request in requests]
    if not takes_branches(model.config):
        found = [alone(model, one) for one in (progress(list(numbers), "zero-shot") if progress else numbers)]
        if any(math.isnan(score) for score in found):
            raise FloatingPointError("the model computes NaN: choose model.dtype=bfloat16 or float32")
        return [found[place] for place in places]
    batches = list(batched(bundle(numbers), tokens_per_batch))
    scores = torch.zeros(len(numbers), dtype=torch.float64)
    for batch in progress(batches, "zero-shot, batch") if progress else batches:
        owners, log_probabilities = token_log_probabilities(model, batch)
        if log_probabilities.isnan().any():
            raise FloatingPointError("the model computes NaN: choose model.dtype=bfloat16 or float32")
        scores.index_add_(0, owners, log_probabilities)
    return scores[places].tolist()


def takes_branches(config: Any) -> bool:
    """Return whether a model computes rows of branched texts right: with a mask and positions for each token.

    Models with sliding windows or ALiBi take positions from the places in the row instead.
    """
    text = config.get_text_config()
    windows = getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True)
    return text.model_type in BRANCHING and not windows


@torch.inference_mode()
def alone(model: Any, request: Request) -> float:
    """Return the log-likelihood of one continuation, from a row of its own."""
    context, continuation = request
    tokens = torch.tensor([[*context, *continuation]], device=next(model.parameters()).device)
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits[0, -len(continuation) :].float()
    return logits.log_softmax(1).gather(1, tokens[0, -len(continuation) :, None]).double().sum().item()


def shorten(request: Request, longest: int) -> Request:
    """Drop first tokens of the context such that both parts, without the last token, have at most `longest` tokens.

    Raises:
        ValueError: if the continuation alone is longer.
    """
    context, continuation = request
    if len(continuation) > longest:
        raise ValueError(f"a choice has {len(continuation)} tokens, but this model takes {longest} at most")
    return context[-(longest + 1 - len(continuation)) :], continuation


class Bundle:
    """Context and its continuations as one row of L tokens that predicts T tokens.

    Attributes:
        tokens: (L) tokens; the last one of each continuation is left out.
        positions: (L) position of each token in its text.
        branches: (L) 0 for the context, 1, 2, ... for the continuations.
        sources: (T) place in the row that predicts a token.
        targets: (T) tokens to predict.
        owners: (T) number of the request that a predicted token belongs to.

    Args:
        context: tokens of the context.
    """

    def __init__(self, context: Sequence[int]) -> None:
        self.length = len(context)
        self.tokens, self.positions, self.branches = list(context), list(range(self.length)), [0] * self.length
        self.sources: list[int] = []
        self.targets: list[int] = []
        self.owners: list[int] = []

    def add(self, continuation: Sequence[int], number: int) -> None:
        """Append a continuation that belongs to the request of that number."""
        start, inner = len(self.tokens), len(continuation) - 1
        self.sources += [self.length - 1, *range(start, start + inner)]
        self.targets += continuation
        self.owners += [number] * len(continuation)
        self.tokens += continuation[:-1]
        self.positions += range(self.length, self.length + inner)
        self.branches += [self.branches[-1] + 1] * inner


def bundle(requests: dict[Request, int]) -> list[Bundle]:
    """Return a bundle for each context. requests: distinct requests with their numbers."""
    bundles: dict[tuple[int, ...], Bundle] = {}
    for (context, continuation), number in requests.items():
        if context not in bundles:
            bundles[context] = Bundle(context)
        bundles[context].add(continuation, number)
    return list(bundles.values())


def batched(bundles: Iterable[Bundle], tokens: int) -> Iterator[list[Bundle]]:
    """Yield batches of at most `tokens` tokens, padding included, or of one row; the longest rows come first."""
    batch: list[Bundle] = []
    for row in sorted(bundles, key=lambda row: -len(row.tokens)):
        if batch and (len(batch) + 1) * len(batch[0].tokens) > tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def token_log_probabilities(model: Model, batch: Sequence[Bundle]) -> tuple[Tensor, Tensor]:
    """Compute the log-probabilities of the T tokens that a batch predicts.

    Returns:
        Number of the request of each token (T,), and its log-probability (T,) float64, on the CPU.
    """
    device, head = model.device, model.get_output_embeddings()
    tokens = padded([row.tokens for row in batch], 0).to(device)
    hidden = model.base_model(
        input_ids=tokens,
        position_ids=padded([row.positions for row in batch], 0).to(device),
        attention_mask=bundle_mask(padded([row.branches for row in batch], -1).to(device), model.dtype),
        use_cache=False,
    ).last_hidden_state
    width = tokens.shape[1]
    sources = torch.tensor([i * width + source for i, row in enumerate(batch) for source in row.sources], device=device)
    targets = torch.tensor([target for row in batch for target in row.targets], device=device)
    parts = zip(hidden.flatten(0, 1)[sources].split(LOGITS_PER_CHUNK), targets.split(LOGITS_PER_CHUNK), strict=True)
    values = [head(h).float().log_softmax(-1).gather(1, target[:, None])[:, 0] for h, target in parts]
    return torch.tensor([owner for row in batch for owner in row.owners]), torch.cat(values).double().cpu()


def padded(rows: Iterable[Sequence[int]], value: int) -> Tensor:
    """Return the rows as (B, L) int64, padded on the right."""
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


def bundle_mask(branches: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the mask that is added to the attention's scores: 0 where a token attends to another, else the minimum.

    A token attends to earlier tokens of the context and of its own branch.

    Shapes:
        branches: (B, L), 0 for the context and -1 for padding. Result: (B, 1, L, L).
    """
    before = torch.ones(branches.shape[1], branches.shape[1], dtype=torch.bool, device=branches.device).tril()
    key, query = branches[:, None, :], branches[:, :, None]
    hidden = ~(before & ((key == 0) | (key == query)))
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, torch.finfo(dtype).min)[
        :, None
    ]
