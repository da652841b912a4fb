"""Block-by-block evaluation, against transformers' own forward pass."""

from __future__ import annotations

import pytest
import torch

from methods.esparse.decoder import Decoder
from tests.methods.esparse.reference import KINDS, linears, random_tokens, tiny_model


def walked(decoder: Decoder, tokens: torch.Tensor, batch: int) -> torch.Tensor:
    states = decoder.embed(tokens, batch)
    for i in range(len(decoder)):
        with decoder.block(i) as block:
            decoder.run_block(block, states)
    return torch.cat([decoder.logits(hidden) for hidden in states.batches])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("count", "length", "batch"), [(5, 12, 2), (3, 48, 1), (2, 2, 8)])
def test_block_by_block_is_the_forward_pass(kind, count, length, batch):
    model, tokens = tiny_model(kind), random_tokens(count, length)
    found = walked(Decoder(model), tokens, batch)
    with torch.no_grad():
        torch.testing.assert_close(found, model(tokens).logits, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_states_before_and_after_each_block_are_the_forward_passs(kind):
    model, tokens = tiny_model(kind), random_tokens(3, 10)
    decoder = Decoder(model)
    with torch.no_grad():
        hidden = model(tokens, output_hidden_states=True).hidden_states
    states = decoder.embed(tokens, 2)
    assert [b.shape[0] for b in states.batches] == [2, 1]
    for i in range(len(decoder) - 1):
        torch.testing.assert_close(torch.cat(states.batches), hidden[i], rtol=1e-5, atol=2e-5)
        with decoder.block(i) as block:
            decoder.run_block(block, states)
    torch.testing.assert_close(torch.cat(states.batches), hidden[-2], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_the_model_is_left_as_it_was(kind):
    model, tokens = tiny_model(kind), random_tokens(2, 9)
    with torch.no_grad():
        before = model(tokens).logits
    config = model.config.to_dict()
    walked(Decoder(model), tokens, 1)
    assert model.config.to_dict() == config
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, before)


@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_states_stay_where_a_block_runs_for_its_hooks_only(kind):
    decoder = Decoder(tiny_model(kind))
    states = decoder.embed(random_tokens(3, 9), 2)
    before = [hidden.clone() for hidden in states.batches]
    with decoder.block(1) as block:
        decoder.run_hooks(block, states)
    assert all(torch.equal(a, b) for a, b in zip(states.batches, before, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_sets_name_every_linear_layer_and_share_their_input(kind):
    model = tiny_model(kind)
    decoder, tokens = Decoder(model), random_tokens(2, 7)
    named = [name for s in decoder.architecture.sets for name in s.linears]
    with decoder.block(1) as block:
        assert sorted(named) == sorted(n for n, m in block.named_modules() if isinstance(m, torch.nn.Linear))
        assert len(linears(model)) == len(named) * len(decoder)
        seen = {}
        for name in named:

            def look(_, args, name=name) -> None:
                seen[name] = args[0].reshape(-1, args[0].shape[-1])

            block.get_submodule(name).register_forward_pre_hook(look)
        with torch.no_grad():
            model(tokens)
    for layers in decoder.architecture.sets:
        first = seen[layers.linears[0]]
        assert all(torch.equal(seen[name], first) for name in layers.linears)
        assert layers.columns == first.shape[1]


@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_values_that_are_not_finite_stop_the_walk(kind):
    model = tiny_model(kind).half()
    decoder = Decoder(model)
    states = decoder.embed(random_tokens(2, 6), 2)
    with decoder.block(0, write=True) as block:
        layer = block.get_submodule("mlp.down_proj" if kind == "llama" else "fc2")
        layer.weight.fill_(6e4)
        layer.weight[0] = -6e4
        with pytest.raises(FloatingPointError, match=r"not finite in float16.*model\.dtype=bfloat16 or float32"):
            decoder.run_block(block, states)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_such_value_is_enough(value):
    decoder = Decoder(tiny_model("llama"))
    states = decoder.embed(random_tokens(2, 6), 2)
    states.batches[0] = states.batches[0].clone()
    states.batches[0][1, 2, 3] = value
    with decoder.block(0) as block, pytest.raises(FloatingPointError):
        decoder.run_hooks(block, states)
