"""Pruning of many families of decoders, against transformers' own forward pass."""

from __future__ import annotations

import logging
from collections import defaultdict

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.gpt2 import GPT2Config
from transformers.models.mamba import MambaConfig
from transformers.models.recurrent_gemma import RecurrentGemmaConfig
from transformers.models.t5 import T5Config

from datasets.progress import track
from methods.esparse.channel_shuffle import ChannelShuffle
from methods.esparse.comparison import Comparison
from methods.esparse.decoder import Decoder
from methods.esparse.description import matrix
from methods.esparse.input_statistics import RequiredStatistics
from methods.esparse.patterns import NM
from methods.esparse.permutation_folding import check_foldable, fold_permutations
from methods.esparse.perplexity import perplexity
from methods.esparse.probing import describe
from methods.esparse.pruning import Recipe, WorkClock, gather_statistics, prune
from methods.esparse.scores import ESparse, Magnitude, Wanda
from methods.esparse.streaming import StreamedDecoder, check_checkpoint
from methods.esparse.zeroshot import log_likelihoods
from tests.methods.esparse.families import COMMON, FAMILIES, GEMMA, VOCABULARY, family_model

MIXTURES = ("mixtral", "qwen3_moe")
DENSE = [family for family in FAMILIES if family not in MIXTURES]


def windows(count: int = 3, length: int = 10, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (count, length), generator=torch.Generator().manual_seed(seed))


def walked(decoder: Decoder, tokens: torch.Tensor, batch: int = 2) -> torch.Tensor:
    states = decoder.embed(tokens, batch)
    for i in range(len(decoder)):
        with decoder.block(i) as block:
            decoder.run_block(block, states)
    return torch.cat([decoder.logits(hidden) for hidden in states.batches])


def layers_inside(block: nn.Module) -> list[str]:
    """Names of all linear layers of a block, but for those that choose experts."""
    kinds = {"Linear", "Conv1D", "FalconLinear"}
    return [n for n, m in block.named_modules() if type(m).__name__ in kinds and "gate" not in n.split(".")]


@pytest.mark.parametrize("family", FAMILIES)
def test_block_by_block_is_the_forward_pass(family):
    model, tokens = family_model(family), windows()
    decoder = Decoder(model)
    with torch.no_grad():
        own = model(tokens, output_hidden_states=True, use_cache=False)
    states = decoder.embed(tokens, 2)
    for i in range(len(decoder)):
        torch.testing.assert_close(torch.cat(states.batches), own.hidden_states[i], rtol=1e-5, atol=2e-5)
        with decoder.block(i) as block:
            decoder.run_block(block, states)
    logits = torch.cat([decoder.logits(hidden) for hidden in states.batches])
    torch.testing.assert_close(logits, own.logits, rtol=1e-5, atol=2e-5)
    decoder.check_walk(tokens)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_matrix_of_a_block_is_in_one_set_with_its_inputs(family):
    model = family_model(family)
    decoder = Decoder(model)
    seen: dict[str, torch.Tensor] = {}
    for i, block in enumerate(decoder.blocks):
        sets = decoder.sets(i)
        plain = [name for s in sets if s.experts is None for name in s.linears]
        assert sorted(plain) == sorted(layers_inside(block))
        experts = [name for s in sets if s.experts is not None for name in s.linears]
        assert len(experts) == sum(2 * len(p) for n, p in block.named_parameters() if n.endswith("experts.down_proj"))
        for name in plain:
            block.get_submodule(name).register_forward_pre_hook(
                lambda _, args, key=f"{i} {name}": seen.update({key: args[0].reshape(-1, args[0].shape[-1])})
            )
    with torch.no_grad():
        model(windows())
    for i in range(len(decoder)):
        for s in decoder.sets(i):
            for name in s.linears if s.experts is None else ():
                assert torch.equal(seen[f"{i} {name}"], seen[f"{i} {s.linears[0]}"])
                assert seen[f"{i} {name}"].shape[1] == s.columns == matrix(decoder.blocks[i], name).shape[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_half_of_every_matrix_is_pruned_also_when_streamed(family, tmp_path):
    model, tokens = family_model(family), windows(4)
    model.save_pretrained(tmp_path / "dense", max_shard_size="8KB")
    check_checkpoint(tmp_path / "dense", model.config, torch.float32)
    out = tmp_path / "out"
    streamed = StreamedDecoder(tmp_path / "dense", model.config, torch.float32, torch.device("cpu"), out)
    torch.testing.assert_close(walked(streamed, tokens), walked(Decoder(model), tokens), rtol=1e-6, atol=1e-6)
    recipe = Recipe(NM(2, 4), ESparse())
    prune(streamed, tokens, recipe, track)
    streamed.finish()

    decoder = Decoder(model)
    report = prune(decoder, tokens, recipe, track)
    assert report.sparsity == 0.5
    for i, block in enumerate(decoder.blocks):
        for s in decoder.sets(i):
            for name in s.linears:
                weight = matrix(block, name)
                assert ((weight == 0).unflatten(1, (-1, 4)).sum(2) == 2).all(), name
    loaded = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    for (name, ours), (_, theirs) in zip(loaded.state_dict().items(), model.state_dict().items(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("family", ["mistral", "gpt2", "phi3", "mixtral", "bloom"])
def test_wanda_keeps_what_its_formula_on_the_models_own_inputs_keeps(family):
    model, tokens = family_model(family), windows(4)
    decoder = Decoder(model)
    seen: dict[str, torch.Tensor] = {}
    first = decoder.blocks[0]
    names = layers_inside(first)
    handles = [
        first.get_submodule(name).register_forward_pre_hook(
            lambda _, args, name=name: seen.update({name: args[0].reshape(-1, args[0].shape[-1])})
        )
        for name in names
    ]
    with torch.no_grad():
        model(tokens)
    for handle in handles:
        handle.remove()
    dense = {name: matrix(first, name).clone() for name in names}
    prune(decoder, tokens, Recipe(NM(2, 4), Wanda()), track)
    for name, weight in dense.items():
        score = (weight.abs() * seen[name].norm(dim=0)).unflatten(1, (-1, 4))
        kept = (matrix(first, name) != 0).unflatten(1, (-1, 4))
        lowest_kept = score.masked_fill(~kept, torch.inf).amin(2)
        highest_pruned = score.masked_fill(kept, -torch.inf).amax(2)
        assert (lowest_kept >= highest_pruned * (1 - 1e-5)).all(), name


@pytest.mark.parametrize("family", DENSE)
def test_folded_permutations_leave_the_outputs_as_they_are(family):
    model, tokens = family_model(family), windows(4)
    report = prune(Decoder(model), tokens, Recipe(NM(2, 4), ESparse(), ChannelShuffle()), track)
    assert any(not torch.equal(e.permutation, torch.arange(len(e.permutation))) for e in report.sets)
    with torch.no_grad():
        simulated = model(tokens).logits
        folded = fold_permutations(model, report)(tokens).logits
    torch.testing.assert_close(folded, simulated, rtol=1e-4, atol=1e-4)


def hidden_states_of_experts(model: nn.Module, tokens: torch.Tensor, i: int) -> tuple[nn.Module, torch.Tensor]:
    mixture = model.model.layers[i].mlp
    seen: list[torch.Tensor] = []

    def keep(_: nn.Module, args: tuple) -> None:
        seen.append(args[0].reshape(-1, 16))

    handle = mixture.register_forward_pre_hook(keep)
    with torch.no_grad():
        model(tokens)
    handle.remove()
    return mixture, torch.cat(seen)


@pytest.mark.parametrize("family", MIXTURES)
def test_statistics_of_an_expert_are_those_of_the_tokens_that_reach_it(family):
    model, tokens = family_model(family), windows(4)
    mixture, x = hidden_states_of_experts(model, tokens, 1)
    chosen = (x @ mixture.gate.weight.T).topk(2, dim=1).indices
    decoder = Decoder(model)
    states = decoder.embed(tokens, 4)
    with decoder.block(0) as block:
        decoder.run_block(block, states)
    with decoder.block(1) as block:
        found = gather_statistics(
            decoder, block, states, RequiredStatistics(frozenset({"norm"})), WorkClock(defaultdict(float))
        )
    assert sum(found[f"expert_{e}"].tokens for e in range(4)) == 2 * len(x)
    for e in range(4):
        own = x[(chosen == e).any(1)]
        gate, up = mixture.experts.gate_up_proj[e].chunk(2)
        inner = nn.functional.silu(own @ gate.T) * (own @ up.T)
        assert found[f"expert_{e}"].tokens == found[f"expert_{e}_out"].tokens == len(own)
        torch.testing.assert_close(found[f"expert_{e}"].sum_squares, own.square().sum(0), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found[f"expert_{e}_out"].sum_squares, inner.square().sum(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", MIXTURES)
@pytest.mark.parametrize("cache", [4 << 30, 0], ids=["inputs kept", "two passes"])
def test_an_expert_that_no_token_reaches_is_pruned_by_magnitude_and_said(family, cache, caplog):
    model, tokens = family_model(family), windows(4)
    with torch.no_grad():
        for block in model.model.layers[1:]:  # one of two opposite logits exceeds 0, the one of expert 0
            gate = block.mlp.gate
            gate.top_k = 1
            gate.weight[0], gate.weight[2], gate.weight[3] = 0, -gate.weight[1], 0.5 * gate.weight[1]
    expert = model.model.layers[1].mlp.experts.gate_up_proj
    dense = expert[0].clone()
    with caplog.at_level(logging.WARNING):
        prune(Decoder(model), tokens, Recipe(NM(2, 4), ESparse(), input_cache_bytes=cache), track)
    assert "expert_0 of block 1: 0" in caplog.text
    kept = dense.abs() * NM(2, 4).mask(dense.abs())
    assert torch.equal(expert[0].abs(), kept)


def test_permutations_of_experts_cannot_be_folded():
    with pytest.raises(ValueError, match=r"single experts.*mixtral.*fold_permutation=false"):
        check_foldable(family_model("mixtral").config)
    check_foldable(family_model("mistral").config)


def test_input_channels_of_blocks_that_differ():
    kinds = describe(family_model("qwen3_moe").config).kinds
    channels = {s.name: s.columns for sets in kinds for s in sets}
    assert (channels["mlp_out"], channels["expert_3"], channels["expert_3_out"]) == (24, 16, 12)


def test_layers_inside_a_router_stay_dense():
    experts = {"num_experts": 4, "num_local_experts": 4, "moe_topk": 2, "moe_intermediate_size": 12}
    found = describe(AutoConfig.for_model("hunyuan_v1_moe", **(COMMON | GEMMA | experts)))
    names = {name for s in found.sets for name in s.linears}
    assert "mlp.shared_mlp.gate_proj" in names
    assert "mlp.gate.wg" not in names


def test_arguments_that_depend_on_the_tokens_are_those_of_their_batch_and_equal_ones_are_held_once():
    states = Decoder(family_model("gemma4")).embed(windows(3), 1)
    first, second, third = states.arguments
    for i, block in enumerate(first):
        (inputs,), (others,) = block.positional, second[i].positional  # per-layer inputs
        assert not torch.equal(inputs, others)
        assert block.keywords["shared_kv_states"] is not second[i].keywords["shared_kv_states"]
        for tables in zip(block.keywords["position_embeddings"], third[i].keywords["position_embeddings"], strict=True):
            assert tables[0] is tables[1]


def test_a_comparison_keeps_what_blocks_hand_to_later_ones_apart():
    texts, tokens = [windows(seed=7)], windows(4)
    recipes = {"wanda": Recipe(NM(2, 4), Wanda()), "magnitude": Recipe(NM(2, 4), Magnitude())}
    found = Comparison(recipes, "own", track).run(Decoder(family_model("gemma4")), tokens, texts)
    for name, recipe in recipes.items():
        prune(alone := Decoder(family_model("gemma4")), tokens, recipe, track)
        assert found[name].perplexities == [perplexity(alone, texts[0], track)], name


def test_a_walk_that_mixes_up_batches_is_refused(monkeypatch):
    decoder = Decoder(family_model("gemma4"))
    embed = decoder.embed

    def mixed(tokens, batch_size):
        states = embed(tokens, batch_size)
        states.arguments = [states.arguments[-1]] * len(states.arguments)
        return states

    monkeypatch.setattr(decoder, "embed", mixed)
    with pytest.raises(ValueError, match="block by block they give other logits"):
        decoder.check_walk(windows())


def test_a_model_whose_blocks_do_not_make_its_logits_is_refused(monkeypatch):
    model = family_model("llama")
    forward = type(model.model.norm).forward
    count = []

    def drifting(self, x):
        count.append(1)
        return forward(self, x) * len(count)

    monkeypatch.setattr(type(model.model.norm), "forward", drifting)
    with pytest.raises(ValueError, match="block by block they give other logits"):
        Decoder(model).check_walk(windows())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (T5Config(d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2, vocab_size=9), "an encoder and a decoder"),
        (MambaConfig(hidden_size=16, num_hidden_layers=2, vocab_size=9), r"mamba.*linear layers.*probing\.py"),
        (
            RecurrentGemmaConfig(hidden_size=16, num_hidden_layers=3, vocab_size=9, num_attention_heads=2),
            r"recurrent_gemma cannot be pruned.*probing\.py",
        ),
        (
            AutoConfig.for_model("gemma3n_text", **(COMMON | GEMMA | {"layer_types": ["full_attention"] * 3})),
            "gemma3n_text cannot be pruned: one with this config.json could not be made",
        ),
    ],
    ids=["t5", "mamba", "recurrent_gemma", "gemma3n"],
)
def test_what_is_no_decoder_of_linear_layers_is_refused_with_what_to_add(config, message):
    with pytest.raises(ValueError, match=message):
        describe(config)


def test_published_gpt2_names_without_prefix_are_found(tmp_path):
    from safetensors.torch import load_file, save_file

    model, tokens = family_model("gpt2"), windows()
    assert isinstance(model.config, GPT2Config)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({n.removeprefix("transformer."): t for n, t in tensors.items()}, tmp_path / "model.safetensors")
    check_checkpoint(tmp_path, model.config, torch.float32)
    streamed = StreamedDecoder(tmp_path, model.config, torch.float32, torch.device("cpu"), tmp_path / "out")
    torch.testing.assert_close(walked(streamed, tokens), walked(Decoder(model), tokens), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_zero_shot_scores_are_those_of_each_choice_alone(family):
    model = family_model(family)
    requests = [((5, 6, 7, 8, 9, 10), (3, 4)), ((5, 6, 7, 8, 9, 10), (11,)), ((12, 13), (14, 15, 16))]
    expected = []
    with torch.no_grad():
        for context, choice in requests:
            logits = model(torch.tensor([context + choice]), use_cache=False).logits[0].log_softmax(1)
            places = range(len(context) - 1, len(context) + len(choice) - 1)
            expected.append(sum(logits[place, token].item() for place, token in zip(places, choice, strict=True)))
    assert log_likelihoods(model, requests, 200) == pytest.approx(expected, abs=1e-4)
