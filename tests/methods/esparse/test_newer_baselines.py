"""ADMM, DSnoT, OWL, Pruner-Zero and MaskLLM, against their formulas written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from datasets.progress import track
from methods.esparse.admm import ADMMUpdate, gradual_mask
from methods.esparse.decoder import Decoder
from methods.esparse.description import matrix
from methods.esparse.dsnot import ChannelMoments, DSnoT
from methods.esparse.input_statistics import InputStatistics, RequiredStatistics
from methods.esparse.matrix_scores import GivenMasks, PrunerZero, matrix_names
from methods.esparse.owl import OWL, layer_ratios, outlier_share
from methods.esparse.patterns import NM, MatrixThreshold, Unstructured
from methods.esparse.pruning import Recipe, prune
from methods.esparse.scores import Magnitude, Wanda
from methods.esparse.sparsegpt import MaskOnly
from tests.methods.esparse.families import VOCABULARY, family_model

PATTERNS = [NM(2, 4), Unstructured(0.5), MatrixThreshold(0.5)]


def windows(count: int = 4, length: int = 10, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (count, length), generator=torch.Generator().manual_seed(seed))


def random_inputs(kinds: set[str], columns: int = 8, seed: int = 0) -> tuple[InputStatistics, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=draw)
    x = torch.randn(3, 20, columns, generator=draw) @ mixing + 0.5
    statistics = InputStatistics(RequiredStatistics(frozenset(kinds)))
    for window in x:
        statistics.add(window[None])
    return statistics, x.reshape(-1, columns)


def test_admm_with_a_given_mask_converges_to_the_least_squares_solution():
    statistics, x = random_inputs({"hessian"})
    weight = torch.randn(5, 8, generator=torch.Generator().manual_seed(3))
    mask = NM(2, 4).mask(weight.abs())
    update = ADMMUpdate(iterations=600, damping=0.0)
    found = update(weight, update.prepare(statistics, torch.arange(8)), NM(2, 4), mask)
    for row, kept, original in zip(found, mask, weight, strict=True):
        expected = torch.linalg.lstsq(x[:, kept].double(), (x @ original)[:, None].double()).solution[:, 0]
        torch.testing.assert_close(row[kept].double(), expected, rtol=1e-3, atol=1e-3)
        assert (row[~kept] == 0).all()


@pytest.mark.parametrize("pattern", PATTERNS, ids=["2:4", "row", "matrix"])
def test_admm_loses_less_than_pruning_without_an_update(pattern):
    statistics, x = random_inputs({"hessian", "norm"})
    weight = torch.randn(16, 8, generator=torch.Generator().manual_seed(3))
    update = ADMMUpdate()
    found = update(weight, update.prepare(statistics, torch.arange(8)), pattern, None)
    wanda = weight * pattern.mask(Wanda()(weight, statistics))
    assert (x @ (found - weight).T).norm() < 0.8 * (x @ (wanda - weight).T).norm()
    if isinstance(pattern, NM):
        assert ((found == 0).unflatten(1, (-1, 4)).sum(2) == 2).all()
    else:
        assert abs((found == 0).float().mean() - 0.5) < 0.01


def test_the_gradual_mask_prunes_the_smallest_first_and_ends_at_the_pattern():
    scores = torch.rand(6, 8, generator=torch.Generator().manual_seed(0))
    half = gradual_mask(scores, NM(2, 4), 0.5)
    full = gradual_mask(scores, NM(2, 4), 1.0)
    assert torch.equal(full, NM(2, 4).mask(scores))
    assert int((~half).sum()) == 12
    assert (half | ~full).all()
    assert scores[~half].max() <= scores[half & ~full].min()


def dsnot_by_hand(weight, mask, total, variance, norm, cycles, threshold, group):
    """One row after another, with sorted lists, as the published code walks them."""
    mask = mask.copy()
    for r, w in enumerate(weight):
        effect = w * total
        kept = mask[r].copy()
        error = effect[~kept].sum()
        sign = np.sign(error)
        ranked = sorted(range(len(w)), key=lambda c: 0.0 if kept[c] else effect[c] / variance[c])
        score = [abs(w[c]) * norm[c] if kept[c] else np.inf for c in range(len(w))]
        for _ in range(cycles):
            if abs(error) <= threshold:
                break
            grown = ranked.pop() if error > 0 else ranked.pop(0)
            inside = range(grown // group * group, grown // group * group + group) if group else range(len(w))
            allowed = [c for c in inside if np.isfinite(score[c]) and (group or effect[c] * error < 0)]
            if mask[r, grown] or not allowed:
                break
            pruned = min(allowed, key=lambda c: score[c])
            after = error + effect[pruned] - effect[grown]
            if np.sign(after) != sign:
                break
            mask[r, grown], mask[r, pruned], error, score[pruned] = True, False, after, np.inf
    return mask


@pytest.mark.parametrize("group", [4, None], ids=["2:4", "row"])
def test_dsnot_swaps_as_its_procedure_row_by_row(group):
    draw = torch.Generator().manual_seed(1)
    weight, total = torch.randn(40, 16, generator=draw), torch.randn(16, generator=draw) + 0.5
    moments = ChannelMoments(total, torch.rand(16, generator=draw) + 0.5, torch.rand(16, generator=draw) + 0.5)
    pattern = NM(2, 4) if group else Unstructured(0.5)
    mask = pattern.mask(weight.abs() * moments.norm)
    found = DSnoT(max_cycles=10).refine(weight, mask, moments, group)
    arrays = [t.numpy() for t in (moments.total, moments.variance, moments.norm)]
    expected = dsnot_by_hand(weight.numpy(), mask.numpy(), *arrays, 10, 0.1, group)
    assert np.array_equal(found.numpy(), expected)
    assert not torch.equal(found, mask)
    assert torch.equal(DSnoT(max_cycles=0).refine(weight, mask, moments, group), mask)
    assert torch.equal(found.sum(1), mask.sum(1))
    before, after = (((weight * total) * ~m).sum(1).abs() for m in (mask, found))
    assert after.mean() < before.mean()


def test_moments_are_the_mean_variance_of_the_sequences():
    statistics, x = random_inputs({"moments"})
    sequences = x.view(3, 20, 8)
    torch.testing.assert_close(statistics.variance, sequences.var(1, unbiased=False).mean(0))
    torch.testing.assert_close(statistics.channel_sum, sequences.sum(1).mean(0))


@pytest.mark.parametrize("skip", [[], ["mlp"], ["self_attn", "up_proj"]])
def test_dsnot_leaves_the_mask_of_layers_that_it_skips(skip):
    tokens = windows()
    masks = []
    for update in (None, DSnoT(max_cycles=3, threshold=0.0, skip=skip)):
        model = family_model("llama")
        recipe = Recipe(NM(2, 4), Wanda(), weight_update=update or MaskOnly())
        decoder = Decoder(model)
        prune(decoder, tokens, recipe, track)
        first = [n for n in matrix_names(decoder.architecture) if n.startswith(f"{decoder.architecture.prefix}0.")]
        masks.append({name: matrix(model, name) != 0 for name in first})  # later blocks see other inputs
    plain, refined = masks
    for name in plain:
        skipped = bool(set(name.split(".")) & set(skip))
        assert torch.equal(plain[name], refined[name]) == skipped, name


def test_dsnot_needs_a_mask():
    with pytest.raises(ValueError, match=r"method\.score is null"):
        DSnoT()(torch.ones(2, 4), None, NM(2, 4), None)


def test_owls_ratios_span_two_lambda_around_the_mean():
    found = layer_ratios([1.0, 2.0, 5.0], 0.7, 0.08)
    assert found == pytest.approx([0.7 + mean - k for k in (0.0, 0.04, 0.16) for mean in [0.2 / 3]])
    assert sum(found) / 3 == pytest.approx(0.7)
    assert layer_ratios([1.0, 1.0], 0.5, 0.08) == [0.5, 0.5]
    assert layer_ratios([0.0, 1.0], 0.01, 0.08)[1] == 0.01


def test_outliers_are_counted_against_the_mean_of_the_block():
    assert outlier_share([torch.tensor([[1.0, 1.0, 1.0]]), torch.tensor([[9.0]])], 2.0) == 0.25


def test_owl_prunes_each_block_by_its_ratio():
    model, tokens = family_model("mistral"), windows()
    recipe = Recipe(Unstructured(0.5), Wanda(), allocation=OWL(multiple=2.0, deviation=0.2))
    report = prune(Decoder(model), tokens, recipe, track)
    shares = [
        sum(s.pruned for s in report.sets if s.block == i) / sum(s.size for s in report.sets if s.block == i)
        for i in range(3)
    ]
    assert max(shares) - min(shares) > 0.2
    assert sum(shares) / 3 == pytest.approx(0.5, abs=0.05)
    with pytest.raises(ValueError, match=r"method\.allocation.*method\.ratio"):
        Recipe(NM(2, 4), Wanda(), allocation=OWL())


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_pruner_zero_scores_are_squares_times_scaled_gradients(family):
    model, tokens = family_model(family), windows(2)
    score, decoder = PrunerZero(), Decoder(family_model(family))
    score.begin(decoder, tokens, track)
    for name in matrix_names(decoder.architecture)[:: 3 if family == "mixtral" else 1]:
        squares = 0.0
        weight = matrix(model, name)
        for window in tokens:
            model.zero_grad()
            model.requires_grad_(True)
            logits = model(window[None]).logits
            cross_entropy(logits[0, :-1], window[1:]).backward()
            path = name.rpartition("[")[0]
            grad = model.get_parameter(path).grad[int(name[:-1].rpartition("[")[2])] if path else None
            if grad is None:
                layer = model.get_submodule(name)
                grad = layer.weight.grad.T if type(layer).__name__ == "Conv1D" else layer.weight.grad
            squares = squares + grad.square()
        root = squares.sqrt()
        expected = (weight * weight).abs() * (root - root.min()) / (root.max() - root.min())
        torch.testing.assert_close(score.of(name, weight.detach()), expected.detach(), rtol=1e-3, atol=1e-6)
    assert not any(p.requires_grad for p in decoder.model.parameters())
    assert prune(decoder, tokens, Recipe(NM(2, 4), score), track).sparsity == 0.5


@pytest.mark.parametrize("kind", ["npz", "pt"])
def test_learned_masks_are_applied_as_they_are(kind, tmp_path):
    model = family_model("llama")
    decoder, draw = Decoder(model), torch.Generator().manual_seed(4)
    masks = {}
    for name in matrix_names(decoder.architecture):
        masks[f"{name}.weight"] = NM(2, 4).mask(torch.rand(matrix(model, name).shape, generator=draw))
    file = tmp_path / f"masks.{kind}"
    if kind == "pt":
        torch.save({n.replace("weight", "mask.weight"): m for n, m in masks.items()}, file)
    else:
        np.savez_compressed(file, **{f"{n}.mask": np.packbits(m.numpy()) for n, m in masks.items()})
    score = GivenMasks(str(file))
    score.check(decoder.architecture, NM(2, 4))
    dense = {name: matrix(model, name.removesuffix(".weight")).clone() for name in masks}
    prune(decoder, windows(), Recipe(NM(2, 4), score), track)
    for name, mask in masks.items():
        assert torch.equal(matrix(model, name.removesuffix(".weight")), dense[name] * mask)


def test_masks_that_do_not_fit_are_refused(tmp_path):
    decoder = Decoder(family_model("llama"))
    names = matrix_names(decoder.architecture)
    with pytest.raises(ValueError, match=r"method\.score\.path is not set"):
        GivenMasks(None)
    with pytest.raises(FileNotFoundError, match=r"method\.score\.path"):
        GivenMasks(str(tmp_path / "none.npz")).check(decoder.architecture, NM(2, 4))
    file = tmp_path / "few.pt"
    torch.save({f"{names[0]}.weight": torch.ones(16, 16)}, file)
    score = GivenMasks(str(file))
    with pytest.raises(ValueError, match=f"no masks for {len(names) - 1} matrices"):
        score.check(decoder.architecture, NM(2, 4))
    with pytest.raises(ValueError, match="is not 2:4"):
        score.of(names[0], torch.ones(16, 16))
    with pytest.raises(ValueError, match="another size"):
        score.of(names[0], torch.ones(8, 16))
    (tmp_path / "bad.npz").write_text("no archive")
    with pytest.raises(ValueError, match="could not be read as masks"):
        GivenMasks(str(tmp_path / "bad.npz")).check(decoder.architecture, NM(2, 4))
    for content in ([1, 2], {"model.layers.0.mlp.down_proj.mask": "none"}):
        torch.save(content, tmp_path / "list.pt")
        with pytest.raises(ValueError, match=r"list\.pt holds no masks by the names of their parameters"):
            GivenMasks(str(tmp_path / "list.pt")).check(decoder.architecture, NM(2, 4))
    with pytest.raises(ValueError, match=r"method\.permutation=null"):
        Recipe(NM(2, 4), score, permutation=lambda scores, n, m: scores)
    with pytest.raises(ValueError, match=r"method\.ratio=null"):
        score.check(decoder.architecture, Unstructured(0.5))


def test_magnitude_then_dsnot_keeps_the_pattern():
    model, tokens = family_model("qwen3"), windows()
    report = prune(Decoder(model), tokens, Recipe(NM(2, 4), Magnitude(), weight_update=DSnoT()), track)
    assert report.sparsity == 0.5
