"""Perplexity, against transformers' own loss, and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from methods.esparse.decoder import Decoder
from methods.esparse.perplexity import perplexity, windows_per_batch
from tests.methods.esparse.reference import KINDS, VOCABULARY, random_tokens, silent, tiny_model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens_per_batch", [1, 40, 10000])
def test_it_is_exp_of_the_mean_of_transformers_losses(kind, tokens_per_batch):
    model, windows = tiny_model(kind), random_tokens(5, 16)
    with torch.no_grad():
        losses = [model(window[None], labels=window[None]).loss.double().item() for window in windows]
    found = perplexity(Decoder(model), windows, silent, tokens_per_batch)
    assert found == pytest.approx(math.exp(sum(losses) / 5), rel=1e-5)


def test_two_windows_by_hand():
    """A model whose next token is that of its bias alone: p = softmax(bias) whatever came before."""
    model = tiny_model("llama")
    model.lm_head = nn.Linear(16, VOCABULARY)
    model.lm_head.weight.data.zero_()
    p = [0.5, 0.25, 0.125]
    model.lm_head.bias.data[:3] = torch.tensor(p).log()
    model.lm_head.bias.data[3:] = -torch.inf
    model.lm_head.bias.data[3] = math.log(0.125)
    windows = torch.tensor([[3, 0, 1, 2], [0, 0, 0, 0]])  # first tokens are not predicted
    first = -(math.log(0.5) + math.log(0.25) + math.log(0.125)) / 3
    second = -math.log(0.5)
    assert perplexity(Decoder(model), windows, silent) == pytest.approx(math.exp((first + second) / 2), rel=1e-6)


def test_a_uniform_model_has_the_vocabularys_size():
    model = tiny_model("opt")
    model.lm_head.weight = nn.Parameter(torch.zeros_like(model.lm_head.weight), requires_grad=False)
    assert perplexity(Decoder(model), random_tokens(3, 9), silent) == pytest.approx(VOCABULARY, rel=1e-6)


def test_what_no_float_holds_is_infinite():
    model = tiny_model("llama")
    model.lm_head.weight.mul_(1e6)
    assert perplexity(Decoder(model), random_tokens(3, 9), silent) == math.inf


def test_half_precision_logits_are_measured_in_float32():
    model = tiny_model("llama").bfloat16()
    windows = random_tokens(4, 16)
    with torch.no_grad():
        log_p = model(windows).logits[:, :-1].double().log_softmax(-1)
    mean = -log_p.gather(2, windows[:, 1:, None]).mean().item()
    assert perplexity(Decoder(model), windows, silent) == pytest.approx(math.exp(mean), rel=2e-3)


def test_every_block_is_visited_once_for_all_windows():
    visited = []

    class Watched(Decoder):
        def block(self, i: int, write: bool = False):
            visited.append((i, write))
            return super().block(i, write)

    perplexity(Watched(tiny_model("llama")), random_tokens(7, 8), silent, tokens_per_batch=8)
    assert visited == [(0, False), (1, False), (2, False)]


@pytest.mark.parametrize(
    ("length", "tokens", "windows"), [(256, 2048, 8), (2048, 2048, 1), (4096, 2048, 1), (3, 10, 3)]
)
def test_windows_in_a_batch(length, tokens, windows):
    assert windows_per_batch(length, tokens) == windows
