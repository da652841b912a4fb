"""One-shot pruning of whole models, against plain hooks on transformers' own forward pass."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from methods.esparse.channel_permutation import ChannelPermutation
from methods.esparse.channel_shuffle import ChannelShuffle
from methods.esparse.decoder import Decoder
from methods.esparse.patterns import NM, Unstructured, make_pattern
from methods.esparse.pruning import Recipe, Report, SetReport, prune
from methods.esparse.scores import RIA, ESparse, Magnitude, Wanda
from methods.esparse.sparsegpt import MaskOnly, OBSUpdate
from runner.config.compose import compose
from tests.methods.esparse.reference import (
    KINDS,
    kept_by_hand,
    linears,
    nm_by_hand,
    random_tokens,
    silent,
    sparsegpt_by_hand,
    tiny_model,
)

CALIBRATION = random_tokens(5, 12, seed=1)
MODELS = ["llama", "llama, wide heads", "opt", "opt, norm after"]


def pruned(kind: str, recipe: Recipe, **settings) -> tuple[nn.Module, Report]:
    model = tiny_model(kind)
    return model, prune(Decoder(model), CALIBRATION, recipe, silent, **settings)


def inputs_of_block(model: nn.Module, number: int) -> dict[str, np.ndarray]:
    """Inputs (tokens, C) of the linear layers of a block when the whole model reads the calibration windows."""
    seen: dict[str, np.ndarray] = {}
    handles = []
    for name, layer in linears(model).items():
        if f".layers.{number}." in name:

            def look(_, args, name=name) -> None:
                seen[name] = args[0].reshape(-1, args[0].shape[-1]).double().numpy()

            handles.append(layer.register_forward_pre_hook(look))
    with torch.no_grad():
        model(CALIBRATION)
    for handle in handles:
        handle.remove()
    return seen


def esparse_score(weight: np.ndarray, x: np.ndarray) -> np.ndarray:
    norm = np.sqrt(2048 * (x**2).mean(0))
    entropy = []
    for column in x.T:
        share = np.histogram(column, bins=100)[0] / len(column)
        share = share[share > 0]
        entropy.append(-(share * np.log(share)).sum())
    return np.abs(weight) * (np.array(entropy) + norm)


def wanda_score(weight: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.abs(weight) * np.sqrt((x**2).sum(0))


def ria_score(weight: np.ndarray, x: np.ndarray) -> np.ndarray:
    size = np.abs(weight)
    return (size / size.sum(0) + size / size.sum(1, keepdims=True)) * (x**2).sum(0) ** 0.25


@torch.no_grad()
def prune_by_hand(kind: str, change) -> nn.Module:
    """Block after block of the whole model; change(weight, inputs) -> the new weight."""
    model = tiny_model(kind)
    for number in range(3):
        for name, x in inputs_of_block(model, number).items():
            layer = linears(model)[name]
            layer.weight.copy_(torch.from_numpy(change(layer.weight.double().numpy(), x)))
    return model


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(("score", "by_hand"), [(Wanda(), wanda_score), (ESparse(), esparse_score), (RIA(), ria_score)])
def test_masks_are_those_of_plain_hooks_on_the_model_pruned_so_far(kind, score, by_hand):
    wanted = prune_by_hand(kind, lambda w, x: w * nm_by_hand(by_hand(w, x), 2, 4))
    model, report = pruned(kind, Recipe(NM(2, 4), score), tokens_per_batch=30)
    for name, layer in linears(model).items():
        torch.testing.assert_close(layer.weight, linears(wanted)[name].weight, rtol=0, atol=0, msg=name)
    assert report.sparsity == 0.5


@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_sparsegpt_is_that_of_plain_hooks_on_the_model_pruned_so_far(kind):
    def change(weight: np.ndarray, x: np.ndarray) -> np.ndarray:
        return sparsegpt_by_hand(weight, x.T @ x * (2 / len(CALIBRATION)), 2, 4, damping=0.01)

    wanted = prune_by_hand(kind, change)
    model, report = pruned(kind, Recipe(NM(2, 4), None, weight_update=OBSUpdate(block_size=8)))
    for name, layer in linears(model).items():
        torch.testing.assert_close(layer.weight, linears(wanted)[name].weight, rtol=1e-3, atol=1e-4, msg=name)
    assert report.sparsity == 0.5


def names_of(model: nn.Module, part: SetReport) -> list[str]:
    """Full names of the matrices that a set's report is about."""
    (layers,) = (s for s in Decoder(model).architecture.sets if s.name == part.name)
    return [n for n in linears(model) for own in layers.linears if n.endswith(f".layers.{part.block}.{own}")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("remove", "of", "permuter"), [(2, 4, ChannelShuffle()), (4, 8, ChannelPermutation()), (3, 4, None)]
)
def test_every_matrix_has_the_pattern_in_its_permuted_order(kind, remove, of, permuter):
    dense = linears(tiny_model(kind))
    model, report = pruned(kind, Recipe(NM(of - remove, of), Wanda(), permuter))
    found, seen = linears(model), []
    for part in report.sets:
        names = names_of(model, part)
        columns = found[names[0]].in_features
        assert (part.permutation is None) == (permuter is None)
        order = torch.arange(columns) if part.permutation is None else part.permutation
        assert sorted(order.tolist()) == list(range(columns))
        for name in names:
            weight = found[name].weight
            kept = weight != 0
            assert (kept[:, order].view(weight.shape[0], -1, of).sum(2) == of - remove).all()
            assert torch.equal(weight[kept], dense[name].weight[kept])
        assert part.size == sum(found[name].weight.numel() for name in names)
        assert part.pruned == sum(int((found[name].weight == 0).sum()) for name in names)
        seen += names
    assert sorted(seen) == sorted(found)
    assert report.sparsity == remove / of


@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_nothing_but_the_blocks_matrices_changes(kind):
    dense, (model, _) = (
        tiny_model(kind),
        pruned(kind, Recipe(NM(2, 4), ESparse(), ChannelShuffle(), OBSUpdate(block_size=8))),
    )
    matrices = {f"{name}.weight" for name in linears(model)}
    for name, value in model.state_dict().items():
        assert torch.equal(value, dense.state_dict()[name]) == (name not in matrices), name


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("range", ["channel", "layer"])
def test_two_passes_give_the_weights_of_one(kind, range):
    recipes = [
        Recipe(NM(2, 4), ESparse(histogram_range=range), ChannelShuffle(), input_cache_bytes=size)
        for size in (1 << 30, 0)
    ]
    (one, first), (two, second) = (pruned(kind, recipe, tokens_per_batch=24) for recipe in recipes)
    for name, layer in linears(one).items():
        assert torch.equal(layer.weight, linears(two)[name].weight), name
    for a, b in zip(first.sets, second.sets, strict=True):
        torch.testing.assert_close(a.entropy, b.entropy)
        torch.testing.assert_close(a.norm, b.norm)


def test_quantiles_need_the_inputs_in_memory():
    recipe = Recipe(NM(2, 4), ESparse(histogram_range="quantile"), input_cache_bytes=0)
    with pytest.raises(ValueError, match=r"method\.score\.histogram_range=quantile.*raise method\.input_cache_gib"):
        pruned("llama", recipe)


@pytest.mark.parametrize("kind", ["llama", "opt"])
@pytest.mark.parametrize("recipe", [Recipe(NM(2, 4), ESparse(), ChannelShuffle()), Recipe(NM(2, 4), Wanda())])
def test_how_the_windows_are_batched_does_not_matter(kind, recipe):
    models = [pruned(kind, recipe, tokens_per_batch=size)[0] for size in (1, 24, 10**6)]
    for a, b in itertools.pairwise(models):
        for name, layer in linears(a).items():
            assert torch.equal(layer.weight == 0, linears(b)[name].weight == 0), name


@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_the_report_says_what_share_of_the_score_is_kept(kind):
    model, report = pruned(kind, Recipe(NM(2, 4), Magnitude(), ChannelShuffle()))
    dense = linears(tiny_model(kind))
    for part in report.sets:
        names = names_of(model, part)
        scores = np.concatenate([dense[n].weight.abs().numpy() for n in names])
        total = scores.astype(float).sum()
        assert part.retained_natural == pytest.approx(kept_by_hand(scores, 2, 4) / total, rel=1e-6)
        assert part.retained == pytest.approx(kept_by_hand(scores[:, part.permutation], 2, 4) / total, rel=1e-6)
        left = sum(linears(model)[n].weight.double().abs().sum().item() for n in names)
        assert part.retained == pytest.approx(left / total, rel=1e-6)
    assert report.retained == pytest.approx(np.mean([part.retained for part in report.sets]))


@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_channels_entropy_and_norm_are_reported_in_the_models_order(kind):
    model, report = pruned(kind, Recipe(NM(2, 4), ESparse(), ChannelShuffle()))
    inputs = inputs_of_block(tiny_model(kind), 0)
    for part in report.sets[:4]:
        x = inputs[names_of(model, part)[0]]
        np.testing.assert_allclose(part.norm, np.sqrt((x**2).mean(0)), rtol=1e-4)
        unit = esparse_score(np.ones((1, x.shape[1])), x)[0] - np.sqrt(2048 * (x**2).mean(0))
        np.testing.assert_allclose(part.entropy, unit, atol=1e-4)


def test_without_needs_no_window_is_read():
    model = tiny_model("llama")
    model.model.embed_tokens.register_forward_pre_hook(lambda *_: pytest.fail("the model was run"))
    report = prune(Decoder(model), CALIBRATION, Recipe(NM(2, 4), Magnitude()), silent)
    assert report.sparsity == 0.5
    for name, layer in linears(tiny_model("llama")).items():
        wanted = layer.weight * torch.from_numpy(nm_by_hand(layer.weight.abs().numpy(), 2, 4))
        assert torch.equal(linears(model)[name].weight, wanted)


@pytest.mark.parametrize(
    ("score", "update"), [(Magnitude(), MaskOnly()), (Wanda(), MaskOnly()), (None, OBSUpdate()), (Wanda(), OBSUpdate())]
)
def test_ratio_zero_changes_nothing(score, update):
    model, report = pruned("llama", Recipe(Unstructured(0.0), score, None, update))
    for name, value in tiny_model("llama").state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert report.sparsity == 0


@pytest.mark.parametrize("group", ["row", "matrix", "variant"])
def test_unstructured_sparsity(group):
    model, report = pruned("llama", Recipe(make_pattern(None, 0.5, group), Wanda()))
    assert report.sparsity == pytest.approx(0.5, abs=0.02)
    dense = linears(tiny_model("llama"))
    for name, layer in linears(model).items():
        kept = layer.weight != 0
        assert torch.equal(layer.weight[kept], dense[name].weight[kept])


@pytest.mark.parametrize("update", [MaskOnly(), OBSUpdate(block_size=20)])
@pytest.mark.parametrize("permuter", [None, ChannelShuffle()])
def test_a_remainder_stays_dense_and_where_it_is(permuter, update):
    model, report = pruned("llama", Recipe(NM(5, 10, allow_remainder=True), Wanda(), permuter, update))
    for part in report.sets:
        columns = {"mlp_out": 24}.get(part.name, 16)
        whole = columns - columns % 10
        order = torch.arange(columns) if part.permutation is None else part.permutation
        assert order[whole:].tolist() == list(range(whole, columns))
        for name in names_of(model, part):
            zeros = linears(model)[name].weight[:, order] == 0
            assert (zeros[:, :whole].view(zeros.shape[0], -1, 10).sum(2) == 5).all()
            assert not zeros[:, whole:].any()


def test_columns_that_do_not_fit_name_the_layer():
    with pytest.raises(ValueError, match=r"self_attn\.q_proj of block 0 has 16 columns"):
        pruned("llama", Recipe(NM(3, 6), Wanda()))


def test_a_given_mask_is_what_the_update_keeps_to():
    """E-Sparse's mask with SparseGPT's update: the first block's zeros are those without the update."""
    plain, _ = pruned("llama", Recipe(NM(2, 4), ESparse(), ChannelShuffle()))
    model, report = pruned("llama", Recipe(NM(2, 4), ESparse(), ChannelShuffle(), OBSUpdate(block_size=8)))
    for name, layer in linears(model).items():
        if ".layers.0." in name:
            assert torch.equal(layer.weight == 0, linears(plain)[name].weight == 0)
            assert not torch.equal(layer.weight, linears(plain)[name].weight)
    assert report.sparsity == 0.5


@pytest.mark.parametrize("score", [None, Wanda()])
def test_updates_are_made_in_the_permuted_order(score):
    """Matrix and Hessian alike; without a score the update chooses the mask itself, by SparseGPT's criterion."""
    model, report = pruned("llama", Recipe(NM(2, 4), score, ChannelShuffle(), OBSUpdate(block_size=8)))
    dense = tiny_model("llama")
    inputs = inputs_of_block(dense, 0)
    for part in report.sets[:4]:
        order = part.permutation.numpy()
        assert (order != np.arange(len(order))).any()
        for name in names_of(model, part):
            weight, x = linears(dense)[name].weight.numpy()[:, order], inputs[name][:, order]
            mask = None if score is None else nm_by_hand(wanda_score(weight, x), 2, 4)
            wanted = sparsegpt_by_hand(weight, x.T @ x * (2 / len(CALIBRATION)), 2, 4, 0.01, mask)
            np.testing.assert_allclose(linears(model)[name].weight[:, order], wanted, rtol=1e-3, atol=1e-4)


def test_updates_lower_the_error_of_the_first_blocks_outputs():
    dense, errors = tiny_model("llama"), []
    for update in (MaskOnly(), OBSUpdate(block_size=8)):
        model, _ = pruned("llama", Recipe(NM(2, 4), Wanda(), None, update))
        inputs = inputs_of_block(dense, 0)
        name = "model.layers.0.self_attn.q_proj"
        x = torch.from_numpy(inputs[name]).float()
        errors.append((linears(dense)[name](x) - linears(model)[name](x)).square().mean().item())
    assert errors[1] < errors[0]


def test_nothing_that_says_which_weights_go_is_refused():
    with pytest.raises(ValueError, match=r"method\.score and method\.weight_update are both null"):
        Recipe(NM(2, 4), None)


def test_pruning_a_pruned_model_again_changes_nothing():
    model, _ = pruned("llama", Recipe(NM(2, 4), Wanda()))
    before = copy.deepcopy(model.state_dict())
    prune(Decoder(model), CALIBRATION, Recipe(NM(2, 4), Wanda()), silent)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def above_threshold_by_hand(weight: np.ndarray, score: np.ndarray, ratio: float) -> np.ndarray:
    """One threshold for the matrix, as in Wanda's prune_magnitude and RIA's prune_ria: what is at most it goes."""
    threshold = np.sort(score.flatten())[int(score.size * ratio)]
    return np.where(score <= threshold, 0.0, weight)


@pytest.mark.parametrize("ratio", [0.3, 0.5])
@pytest.mark.parametrize("kind", ["llama", "opt"])
@pytest.mark.parametrize(("method", "by_hand"), [("magnitude", lambda w, x: np.abs(w)), ("ria", ria_score)])
def test_magnitude_and_ria_with_a_ratio_have_the_published_threshold_per_matrix(method, by_hand, kind, ratio):
    cfg = compose([f"method=esparse/{method}", f"method.ratio={ratio}"])
    recipe = instantiate(cfg.method, network=None).recipe
    wanted = prune_by_hand(kind, lambda w, x: above_threshold_by_hand(w, by_hand(w, x), ratio))
    model, _ = pruned(kind, recipe)
    for name, layer in linears(model).items():
        torch.testing.assert_close(layer.weight, linears(wanted)[name].weight, rtol=0, atol=0, msg=name)
