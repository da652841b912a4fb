"""Several methods in one walk over the blocks, against runs of each method alone."""

from __future__ import annotations

import json
from collections import defaultdict

import pytest
import torch
from omegaconf import OmegaConf

from datasets.progress import track
from methods.esparse.admm import ADMMUpdate
from methods.esparse.channel_shuffle import ChannelShuffle
from methods.esparse.comparison import Comparison
from methods.esparse.decoder import Decoder
from methods.esparse.dsnot import DSnoT
from methods.esparse.input_statistics import RequiredStatistics
from methods.esparse.matrix_scores import PrunerZero
from methods.esparse.owl import OWL
from methods.esparse.patterns import NM, MatrixThreshold, Unstructured
from methods.esparse.perplexity import perplexity
from methods.esparse.pruning import Recipe, Report, WorkClock, gather_statistics, prune, prune_sets
from methods.esparse.scores import RIA, ESparse, Magnitude, Wanda
from methods.esparse.sparsegpt import OBSUpdate
from runner.config.address import Run
from tests.methods.esparse.models import tiny_llama, tiny_opt, tokens
from tests.methods.esparse.test_module import tiny  # noqa: F401  (fixture)
from tests.methods.esparse.test_streaming import streamed

RECIPES = {
    "magnitude": Recipe(NM(2, 4), Magnitude()),
    "wanda": Recipe(NM(2, 4), Wanda()),
    "esparse": Recipe(NM(2, 4), ESparse(), ChannelShuffle()),
    "coarse": Recipe(NM(2, 4), ESparse(bins=7, histogram_range="layer")),
    "sparsegpt": Recipe(NM(2, 4), None, weight_update=OBSUpdate(block_size=8)),
    "dsnot": Recipe(NM(2, 4), Wanda(), weight_update=DSnoT(max_cycles=3)),
    "pruner_zero": Recipe(NM(2, 4), PrunerZero()),
    "ria": Recipe(MatrixThreshold(0.5), RIA()),
    "admm": Recipe(Unstructured(0.5), None, weight_update=ADMMUpdate()),
    "owl": Recipe(Unstructured(0.6), Wanda(), allocation=OWL(multiple=2.0)),
}
MAKERS = pytest.mark.parametrize("make", [tiny_llama, tiny_opt])


def without_times(report: Report) -> str:
    return repr([vars(s) for s in report.sets])


@MAKERS
def test_with_their_own_inputs_methods_give_what_they_give_alone(make):
    texts = [tokens(seed=7), tokens(3, 9, seed=8)]
    model = make()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = Comparison(RECIPES, "own", track).run(Decoder(model), tokens(), texts)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert found.pop("dense").perplexities == [perplexity(Decoder(model), text, track) for text in texts]
    assert found.keys() == RECIPES.keys()
    for name, recipe in RECIPES.items():
        alone = Decoder(make())
        report = prune(alone, tokens(), recipe, track)
        assert found[name].perplexities == [perplexity(alone, text, track) for text in texts], name
        assert without_times(found[name].report) == without_times(report), name


def test_a_streamed_model_gives_the_same(tmp_path):
    model = tiny_llama()
    model.save_pretrained(tmp_path)
    recipes = {name: RECIPES[name] for name in ("magnitude", "esparse", "sparsegpt", "owl")}
    for inputs in ("own", "dense"):
        held = Comparison(recipes, inputs, track).run(Decoder(model), tokens(), [tokens(seed=7)])
        read = Comparison(recipes, inputs, track).run(streamed(tmp_path, model), tokens(), [tokens(seed=7)])
        assert {n: c.perplexities for n, c in read.items()} == {n: c.perplexities for n, c in held.items()}


@MAKERS
def test_with_dense_inputs_all_statistics_are_those_of_the_dense_model(make):
    recipes = {name: RECIPES[name] for name in ("wanda", "esparse", "sparsegpt", "ria")}
    found = Comparison(recipes, "dense", track).run(Decoder(make()), tokens(), [tokens(seed=7)])
    own = Comparison(recipes, "own", track).run(Decoder(make()), tokens(), [tokens(seed=7)])
    everything = RequiredStatistics(frozenset({"norm", "entropy", "hessian"}))
    for name, recipe in recipes.items():
        dense, pruned = Decoder(make()), Decoder(make())
        states = dense.embed(tokens(), 4)
        for i in range(len(dense)):
            clock = WorkClock(defaultdict(float))
            with dense.block(i) as block, pruned.block(i, write=True) as other, torch.inference_mode():
                statistics = gather_statistics(dense, block, states, everything, clock)
                prune_sets(pruned, other, i, statistics, recipe, clock)
                dense.run_block(block, states)
        assert found[name].perplexities == [perplexity(pruned, tokens(seed=7), track)]
        assert found[name].perplexities != own[name].perplexities
        first, of_single_run = (without_times(Report(c[name].report.sets[:4])) for c in (found, own))
        assert first == of_single_run  # of the first block


@pytest.mark.parametrize("count", [1, 3])
def test_with_dense_inputs_a_block_sees_the_calibration_twice_whatever_the_number_of_methods(count):
    model, lengths = tiny_llama(), []
    model.model.layers[1].register_forward_pre_hook(
        lambda _, inputs, keywords: lengths.append((inputs or (keywords["hidden_states"],))[0].shape[1]),
        with_kwargs=True,
    )
    recipes = {name: RECIPES[name] for name in ("wanda", "esparse", "sparsegpt")[:count]}
    Comparison(recipes, "dense", track).run(Decoder(model), tokens(length=12), [tokens(length=9, seed=7)])
    assert lengths.count(12) == 2  # statistics, outputs
    assert lengths.count(9) == count + 1  # each method and the dense model


def test_the_methods_of_the_config_are_those_of_their_own_files():
    compared = Run.compose(["method=esparse/compare"]).cfg.method.methods
    for name, parts in compared.items():
        single = Run.compose([f"method={name if name == 'esparse' else f'esparse/{name}'}"]).cfg.method
        for key in ("score", "permutation", "weight_update", "allocation"):
            assert parts.get(key) == single[key], (name, key)
        assert parts.get("group", "row") == single.group, name
        assert OmegaConf.select(compared, name) is not None


def metrics_of_the_only_run(outputs):
    (result,) = outputs.glob("*/*/*/result.json")
    return json.loads(result.read_text())["metrics"]


def test_a_run_records_each_method_and_prints_a_table(call, tiny, tmp_path):  # noqa: F811
    code, printed = call("method=esparse/compare", *tiny, "method.leave_out=[admm,obs_update]")
    assert code == 0, printed
    metrics = metrics_of_the_only_run(tmp_path / "outputs")
    for name in ("magnitude", "wanda", "esparse", "sparsegpt"):
        assert metrics[f"test/{name}_sparsity"] == 0.5
        assert metrics[f"test/{name}_seconds"] >= 0
        assert f"  {name}" in printed
    assert "test/admm_ppl" not in metrics
    assert "left out, since their allocation does not fit the pattern: owl" in printed
    code, _ = call("method=esparse/wanda", *tiny, f"paths.outputs={tmp_path}/alone")
    alone = metrics_of_the_only_run(tmp_path / "alone")
    assert metrics["test/wanda_ppl"] == alone["test/ppl"]
    assert metrics["test/wanda_retained"] == alone["test/retained"]
    assert metrics["test/dense_ppl"] == alone["test/dense_ppl"]


def test_unstructured_pruning_leaves_the_shuffles_out(call, tiny, tmp_path):  # noqa: F811
    code, printed = call("method=esparse/compare", *tiny, "method.ratio=0.5", "method.leave_out=[admm]")
    assert code == 0, printed
    assert "their permutation does not fit the pattern: wanda_shuffle, esparse, obs_update" in printed
    metrics = metrics_of_the_only_run(tmp_path / "outputs")
    assert metrics["test/owl_sparsity"] == pytest.approx(0.5, abs=0.06)  # few columns: counts are rounded
    assert "test/esparse_ppl" not in metrics


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method.inputs=both"], "method.inputs=both is unknown; choose from own, dense"),
        (["method.leave_out=[gptq]"], "method.leave_out=gptq is unknown"),
        (["method.pattern=half"], "method.pattern=half must have the form N:M"),
        (["method.stream=true"], "method.stream reads safetensors from a folder"),
    ],
)
def test_mistakes_are_named(call, tiny, overrides, message):  # noqa: F811
    code, printed = call("method=esparse/compare", *tiny, *overrides)
    assert code == 2
    assert message in printed


def test_zero_shot_tasks_are_refused(call, tiny, tmp_path):  # noqa: F811
    question = {"query": "Passage: a b.\nQuestion: b?\n", "choices": ["no", "yes"], "gold": 1}
    folder = tmp_path / "data" / "text" / "zeroshot"
    folder.mkdir()
    (folder / "boolq.jsonl").write_text(json.dumps(question))
    code, printed = call("method=esparse/compare", *tiny, "dataset.zeroshot=[boolq]")
    assert code == 2
    assert "a comparison holds no pruned model" in printed
