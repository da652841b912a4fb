"""Scores of multiple-choice questions, against each (context, choice) sent through the model alone."""

from __future__ import annotations

import functools
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.text.zeroshot import Example
from methods.esparse.zeroshot import accuracies, batched, bundle, evaluate, log_likelihoods, request, shorten

VOCABULARY, LONGEST, BOS = 97, 40, 1


@functools.cache
def model_of(kind: str) -> torch.nn.Module:
    """Tiny and random, float64; its weights are large enough for choices to differ."""
    from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

    common = {"vocab_size": VOCABULARY, "hidden_size": 24, "num_hidden_layers": 2, "max_position_embeddings": LONGEST}
    torch.manual_seed(0)
    if kind == "opt":
        config = OPTConfig(num_attention_heads=4, ffn_dim=40, word_embed_proj_dim=16, init_std=0.4, **common)
        return OPTForCausalLM(config).double().eval()
    config = LlamaConfig(
        intermediate_size=40, num_attention_heads=4, num_key_value_heads=2, initializer_range=0.4, **common
    )
    config._attn_implementation = "eager" if kind == "llama, eager" else "sdpa"
    return LlamaForCausalLM(config).double().eval()


def encode(text: str) -> list[int]:
    """BOS, then a token for every two characters: a continuation can change the context's last token."""
    return [BOS, *(2 + hash_of(text[i : i + 2]) for i in range(0, len(text), 2))]


def hash_of(piece: str) -> int:
    return sum(ord(c) * 31**i for i, c in enumerate(piece)) % (VOCABULARY - 2)


@torch.no_grad()
def alone(model: torch.nn.Module, context: list[int], continuation: list[int]) -> float:
    """By the book: one text, no padding, no cache; the beginning is cut off where the model cannot take it."""
    tokens = [*context, *continuation][-(LONGEST + 1) :]
    log_p = model(torch.tensor([tokens[:-1]]), use_cache=False).logits[0].log_softmax(-1)
    return sum(log_p[-len(continuation) + i, token].item() for i, token in enumerate(continuation))


def random_requests(seed: int, count: int = 30) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Contexts that are shared and not, of 1 token and too long ones; continuations of 1 to 12 tokens, some twice."""
    draw = random.Random(seed)

    def tokens(least: int, most: int) -> tuple[int, ...]:
        return tuple(draw.randrange(VOCABULARY) for _ in range(draw.randint(least, most)))

    contexts = [tokens(1, 50) for _ in range(count // 3)]
    made = [(draw.choice(contexts), tokens(1, draw.choice([1, 4, 12]))) for _ in range(count)]
    return [*made, *made[:2]]


EXAMPLES = [
    Example(("The cat",) * 3, (" sat on the mat", " flew", " barked at the other cat"), 0),
    Example(("The cat",) * 2, (" sat on the mat", " no"), 1),
    Example(("Is it? ",) * 2, (" yes", " no"), 1),
    Example(("Ann met Bob so Ann", "Ann met Bob so Bob"), (" said hello.",) * 2, 0),
    Example(("x" * 77,) * 2, (" a long choice", " b"), 0),
    Example(("Q: 1 + 1 =\nA:",) * 5, (" 1", " 2", " 3", " 11", " two"), 1),
]


@pytest.mark.parametrize("kind", ["llama", "llama, eager", "opt"])
def test_scores_are_those_of_each_choice_alone(kind):
    model, requests = model_of(kind), random_requests(seed=1)
    wanted = [alone(model, list(context), list(continuation)) for context, continuation in requests]
    torch.testing.assert_close(log_likelihoods(model, requests, 120), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_accuracy_is_that_of_each_choice_alone(kind):
    model = model_of(kind)
    scores = []
    for example in EXAMPLES:
        scores.append([])
        for context, choice in zip(example.contexts, example.choices, strict=True):
            before, whole = encode(context.rstrip()), encode(context + choice)
            scores[-1].append(alone(model, before, whole[len(before) :]))
    right = [max(range(len(row)), key=row.__getitem__) == e.gold for row, e in zip(scores, EXAMPLES, strict=True)]
    norm = [
        max(range(len(row)), key=lambda i, row=row, e=e: row[i] / len(e.choices[i][1:])) == e.gold
        for row, e in zip(scores, EXAMPLES, strict=True)
    ]
    found = evaluate(model, encode, EXAMPLES, tokens_per_batch=64)
    assert found == {"acc": sum(right) / len(right), "acc_norm": sum(norm) / len(norm)}
    assert 0 < found["acc"] < 1


@pytest.mark.parametrize("kind", ["llama", "opt"])
@settings(max_examples=15)
@given(tokens=st.integers(1, 2000), seed=st.integers(0, 3))
def test_the_batches_do_not_matter(kind, tokens, seed):
    model, requests = model_of(kind), random_requests(seed)
    torch.testing.assert_close(
        log_likelihoods(model, requests, tokens), log_likelihoods(model, requests, 500), rtol=0, atol=1e-5
    )


@given(tokens=st.integers(1, 500), seed=st.integers(0, 100))
def test_batches_keep_to_their_budget_and_hold_every_row_once(tokens, seed):
    rows = bundle({r: i for i, r in enumerate(dict.fromkeys(random_requests(seed)))})
    batches = list(batched(rows, tokens))
    assert sorted(id(row) for batch in batches for row in batch) == sorted(map(id, rows))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(len(row.tokens) for row in batch) <= tokens


def test_each_context_is_read_once():
    model, seen = model_of("llama"), []
    requests = [((1, 2, 3, 4), (5,)), ((1, 2, 3, 4), (6, 7, 8)), ((1, 2, 3, 4), (6, 7, 8)), ((1, 2, 3), (5,))]
    hook = model.get_input_embeddings().register_forward_pre_hook(lambda _, args: seen.append(args[0].tolist()))
    try:
        scores = log_likelihoods(model, requests, 1000)
    finally:
        hook.remove()
    assert seen == [[[1, 2, 3, 4, 6, 7], [1, 2, 3, 0, 0, 0]]]
    assert scores[1] == scores[2]


def test_a_long_context_loses_its_beginning():
    model = model_of("opt")
    context, same_end = tuple(range(2, 90)), (9, *range(2, 90))
    first, second = log_likelihoods(model, [(context, (3, 4)), (same_end, (3, 4))])
    assert first == second
    assert shorten((context, (3, 4)), LONGEST) == (context[-39:], (3, 4))
    assert shorten((context[:39], (3, 4)), LONGEST) == (context[:39], (3, 4))
    longest = tuple(range(LONGEST))
    assert shorten((context, longest), LONGEST) == (context[-1:], longest)
    with pytest.raises(ValueError, match="41 tokens, but this model takes 40"):
        shorten((context, (*longest, 1)), LONGEST)


def test_a_request_is_what_the_continuation_adds():
    assert request(encode, "abc", " de") == (tuple(encode("abc")), tuple(encode("abc de"))[3:])
    assert request(encode, "ab \n ", "cd") == (tuple(encode("ab")), tuple(encode("ab \n cd"))[2:])
    with pytest.raises(ValueError, match="no tokens for the context of ' ' "):
        request(lambda text: encode(text)[1:], " ", "no")
    with pytest.raises(ValueError, match="no tokens for the continuation"):
        request(lambda _: [BOS], "yes", " no")


def test_acc_norm_divides_by_the_characters_of_the_choice():
    example = Example(("Why?",) * 3, (" because", " so", " it is what it is"), 0)
    assert accuracies([[-8.0, -3.0, -30.0]], [example]) == {"acc": 0.0, "acc_norm": 1.0}  # -1.14, -1.5, -1.88
    assert accuracies([[-3.0, -1.0, -4.0]], [example]) == {"acc": 0.0, "acc_norm": 0.0}
    assert accuracies([[-2.0, -2.0, -9.0]] * 2, [example] * 2) == {"acc": 1.0, "acc_norm": 1.0}


def test_progress_sees_every_batch():
    told = []

    def track(batches, what):
        told.append((len(batches), what))
        yield from batches

    model = model_of("llama")
    assert evaluate(model, encode, EXAMPLES, tokens_per_batch=30, progress=track) == evaluate(model, encode, EXAMPLES)
    assert len(told) == 1
    assert told[0][0] > 1


def test_what_cannot_be_scored_is_said():
    with pytest.raises(ValueError, match="no examples"):
        evaluate(model_of("llama"), encode, [])
    broken = type(model_of("llama"))(model_of("llama").config)
    broken.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="NaN"):
        log_likelihoods(broken, [((1, 2), (3,))])
