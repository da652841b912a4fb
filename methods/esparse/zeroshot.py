"""Zero-shot multiple choice, scored as EleutherAI's lm-evaluation-harness does: the likeliest continuation wins.

A context goes through the model once, with all of its continuations behind it in one row of tokens. Each of these sees
the context and itself, not the others, and has the positions that it would have alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

if TYPE_CHECKING:
    from datasets.text.zeroshot import Example

Encode = Callable[[str], Sequence[int]]
Request = tuple[tuple[int, ...], tuple[int, ...]]  # tokens of a context, tokens of its continuation

LOGITS_AT_ONCE = 512


def evaluate(
    model: nn.Module,
    encode: Encode,
    examples: Sequence[Example],
    *,
    tokens_per_batch: int = 4096,
    progress: Callable[[Sequence, str], Iterable] | None = None,
) -> dict[str, float]:
    """{"acc", "acc_norm"}: the share of examples whose right choice is the likeliest, as a fraction.

    acc compares log-probabilities, acc_norm log-probabilities per character of the choice.

    Args:
        model: a causal LM of transformers in eval mode (LLaMA, OPT). encode: text -> its tokens, as the model wants a
            text to begin. examples: with `contexts`, `choices` and `gold`.
        tokens_per_batch: padded tokens at once. progress: (batches, what is done) -> the same batches, told of.

    Raises ValueError (no examples; a choice without tokens, or longer than the model's longest text) and
    FloatingPointError (the model computes NaN).
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
    """acc and acc_norm from the log-probability of each choice of each example. The first of equals wins."""
    plain = norm = 0
    for row, example in zip(scores, examples, strict=True):
        per_character = [score / len(c.removeprefix(" ")) for score, c in zip(row, example.choices, strict=True)]
        plain += row.index(max(row)) == example.gold
        norm += per_character.index(max(per_character)) == example.gold
    return {"acc": plain / len(examples), "acc_norm": norm / len(examples)}


def request(encode: Encode, context: str, continuation: str) -> Request:
    """Tokens of the context, and those that the continuation adds to them.

    Spaces at the context's end count as the continuation's.
    Raises ValueError where either has no tokens.
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
    model: nn.Module,
    requests: Sequence[Request],
    tokens_per_batch: int = 4096,
    progress: Callable[[Sequence, str], Iterable] | None = None,
) -> list[float]:
    """Natural logarithm of the probability of each continuation given its context. Arguments and errors: `evaluate`.

    A context that is too long loses its beginning.
    """
    if model.config._attn_implementation not in ("eager", "sdpa"):
        raise ValueError(f"attention has to be eager or sdpa here, not {model.config._attn_implementation}")
    numbers: dict[Request, int] = {}
    longest = model.config.max_position_embeddings
    places = [numbers.setdefault(shorten(request, longest), len(numbers)) for request in requests]
    batches = list(batched(bundle(numbers), tokens_per_batch))
    scores = torch.zeros(len(numbers), dtype=torch.float64)
    for batch in progress(batches, "zero-shot, batch") if progress else batches:
        owners, found = score(model, batch)
        if found.isnan().any():
            raise FloatingPointError("the model computes NaN: choose model.dtype=bfloat16 or float32")
        scores.index_add_(0, owners, found)
    return scores[places].tolist()


def shorten(request: Request, longest: int) -> Request:
    """Without the first tokens of the context where both, less the last token, are longer than `longest`.

    Raises ValueError where the continuation alone is.
    """
    context, continuation = request
    if len(continuation) > longest:
        raise ValueError(f"a choice has {len(continuation)} tokens, but this model takes {longest} at most")
    return context[-(longest + 1 - len(continuation)) :], continuation


class Bundle:
    """A context and its continuations as one row of L tokens, which predicts T tokens.

    tokens, positions, branches (L): branch 0 is the context, 1, 2, ... the continuations, each without its last token.
    sources, targets, owners (T): the place in the row that predicts a token, this token, and its request's number.
    """

    def __init__(self, context: Sequence[int]) -> None:
        self.length = len(context)
        self.tokens, self.positions, self.branches = list(context), list(range(self.length)), [0] * self.length
        self.sources: list[int] = []
        self.targets: list[int] = []
        self.owners: list[int] = []

    def add(self, continuation: Sequence[int], number: int) -> None:
        start, inner = len(self.tokens), len(continuation) - 1
        self.sources += [self.length - 1, *range(start, start + inner)]
        self.targets += continuation
        self.owners += [number] * len(continuation)
        self.tokens += continuation[:-1]
        self.positions += range(self.length, self.length + inner)
        self.branches += [self.branches[-1] + 1] * inner


def bundle(requests: dict[Request, int]) -> list[Bundle]:
    """A bundle for each context. requests: distinct, with their numbers."""
    bundles: dict[tuple[int, ...], Bundle] = {}
    for (context, continuation), number in requests.items():
        if context not in bundles:
            bundles[context] = Bundle(context)
        bundles[context].add(continuation, number)
    return list(bundles.values())


def batched(bundles: Iterable[Bundle], tokens: int) -> Iterator[list[Bundle]]:
    """Batches of at most `tokens` tokens, padding included, but at least one row; the longest rows first."""
    batch: list[Bundle] = []
    for row in sorted(bundles, key=lambda row: -len(row.tokens)):
        if batch and (len(batch) + 1) * len(batch[0].tokens) > tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def score(model: nn.Module, batch: Sequence[Bundle]) -> tuple[Tensor, Tensor]:
    """Of the T tokens that a batch predicts: their requests' numbers, their log-probabilities (float64), on the CPU."""
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
    parts = zip(hidden.flatten(0, 1)[sources].split(LOGITS_AT_ONCE), targets.split(LOGITS_AT_ONCE), strict=True)
    found = [head(h).float().log_softmax(-1).gather(1, target[:, None])[:, 0] for h, target in parts]
    return torch.tensor([owner for row in batch for owner in row.owners]), torch.cat(found).double().cpu()


def padded(rows: Iterable[Sequence[int]], value: int) -> Tensor:
    """(B, L) int64, filled up on the right."""
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


def bundle_mask(branches: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to the attention's scores, (B, 1, L, L): 0 where a token sees another, else the least number.

    Seen are, of what stands before, the context and the own branch. branches (B, L): 0 is the context, -1 padding.
    """
    before = torch.ones(branches.shape[1], branches.shape[1], dtype=torch.bool, device=branches.device).tril()
    key, query = branches[:, None, :], branches[:, :, None]
    hidden = ~(before & ((key == 0) | (key == query)))
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, torch.finfo(dtype).min)[
        :, None
    ]
