"""Whole runs: order of stages, files, resumption, commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pytorch_lightning import Trainer, seed_everything

from methods.compression.artifacts import load_network
from methods.compression.coding.deep_compression import DeepCompression
from methods.compression.distillation.kd import KnowledgeDistillation
from methods.compression.dynamic.early_exit import EarlyExit
from methods.compression.lowrank.tucker import Tucker2
from methods.compression.module import DenseTraining
from methods.compression.nas.evolution import EvolutionarySearch
from methods.compression.optional import import_optional
from methods.compression.pipeline import Compression
from methods.compression.pruning.l1_filter import L1FilterPruning
from methods.compression.pruning.magnitude import MagnitudePruning
from methods.compression.quantization.binary import BinaryNetwork
from methods.compression.quantization.dorefa import DoReFa
from methods.compression.quantization.int8 import PostTrainingInt8
from methods.compression.quantization.lsq import LearnedStepQuantization
from methods.compression.quantization.post_training import FakePTQ
from methods.compression.stage import Stage, choose
from methods.compression.training import EpochReports
from runner import main
from runner.config.address import Run
from runner.errors import UserError
from runner.files import read_json
from scripts import evaluate_compressed
from tests.methods.compression.problems import NONE, ONE, context, dense, digits

STAGES = {
    "filters": L1FilterPruning(ratio=0.5, recipe=ONE),
    "weights": MagnitudePruning(0.5, recipe=ONE),
    "tucker": Tucker2(rank=0.5, recipe=ONE),
    "coded": DeepCompression(4, 4, recipe=NONE),
    "lsq": LearnedStepQuantization(4, 4, recipe=ONE),
    "ptq": FakePTQ(4),
    "int8": PostTrainingInt8(compile=False),
    "search": EvolutionarySearch(),
    "exits": EarlyExit((1.0, 0.3), recipe=ONE),
    "fresh": DoReFa(recipe=ONE),
    "binary": BinaryNetwork(fresh=False, recipe=ONE),
    "pact": LearnedStepQuantization(4, 4, "pact", recipe=ONE),
    "student": KnowledgeDistillation(lambda **dims: dense(), recipe=ONE),
}


@pytest.mark.parametrize("pipeline", [["tucker", "lsq"], ["filters", "binary"], ["weights", "lsq"], ["student", "ptq"]])
def test_stages_that_can_follow_each_other_do(pipeline):
    assert list(choose(STAGES, pipeline)) == pipeline


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        (["lsq", "weights"], "weights cannot follow lsq. What can follow: nothing"),
        (["coded", "tucker"], "tucker cannot follow coded. What can follow: ptq"),
        (["int8", "coded"], "coded cannot follow int8"),
        (["weights", "search"], "search must come first"),
        (["weights", "fresh"], "fresh must come first: it starts from new weights"),
        (["weights", "student"], "student must come first"),
        (["tucker", "filters"], "filters cannot follow tucker"),
        (["tucker", "weights", "filters"], "filters cannot follow weights"),
        (["search", "filters"], "filters cannot follow search"),
        (["exits", "weights"], "weights cannot follow exits. What can follow: nothing"),
        (["weights", "binary"], "binary has no zero among its weights and would undo the pruning"),
        (["weights", "pact"], "pact has no zero"),
        (["weights", "tucker"], "tucker has no zero"),
        (["weights", "weights"], "names a stage twice"),
        (["nothing"], "there is no stage nothing; choose from filters, weights"),
        ([], "is empty"),
    ],
)
def test_stages_that_cannot_follow_each_other_are_named(pipeline, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        choose(STAGES, pipeline)


def run(folder, pipeline, **options) -> Compression:
    torch.manual_seed(0)
    module = Compression(dense(), STAGES, pipeline, **({"latency_repeats": 2, "block_seconds": 0.001} | options))
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=str(folder))
    module.prepare(digits())
    trainer.test(module, digits(), verbose=False)
    module.logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return module


@pytest.mark.parametrize("pipeline", [["filters", "weights", "coded"], ["tucker", "ptq"]])
def test_a_pipeline_measures_after_each_stage_and_writes_files_that_load(tmp_path, pipeline):
    module = run(tmp_path, pipeline)
    rows = json.loads((tmp_path / "sheet.json").read_text())
    assert [row["name"] for row in rows] == ["dense", *pipeline]
    assert [row["bytes_file"] for row in rows] == sorted((row["bytes_file"] for row in rows), reverse=True)
    assert module.logged["test/acc"] == pytest.approx(rows[-1]["acc"])
    assert module.logged["test/compression"] > 1
    for place, name in enumerate(pipeline, 1):
        file = tmp_path / f"stage_{place}_{name}.dcz"
        network, notes = load_network(file)
        assert notes["stage"] == name
        assert context().test_accuracy(network) == rows[place]["acc"]
        assert file.stat().st_size == rows[place]["bytes_file"]
    assert not list(tmp_path.glob("*.work"))
    assert {"pareto_bytes", "pareto_macs", "pareto_latency", "weights"} <= module.figures().keys()


def test_a_pipeline_goes_on_after_its_last_stage(tmp_path, monkeypatch):
    def interrupted(network, ctx):
        raise KeyboardInterrupt

    whole = run(tmp_path / "whole", ["filters", "tucker"])
    with monkeypatch.context() as patch:
        patch.setattr(Tucker2, "__call__", lambda self, network, ctx: interrupted(network, ctx))
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            run(tmp_path / "cut", ["filters", "tucker"])
    calls = []
    monkeypatch.setattr(L1FilterPruning, "__call__", lambda *_: calls.append(1))
    resumed = run(tmp_path / "cut", ["filters", "tucker"])
    assert not calls
    assert resumed.logged["test/acc"] == whole.logged["test/acc"]
    assert resumed.logged["test/macs"] == whole.logged["test/macs"]


def test_a_stage_that_does_not_fit_is_named_with_its_key():
    stages: dict[str, Stage] = {"filters": L1FilterPruning(ratio=0.99)}
    module = Compression(dense(), stages, ["filters"])
    with pytest.raises(ValueError, match=r"method\.stages\.filters: layers\.0: a ratio of 0\.99 would empty"):
        module.prepare(digits())


def test_a_pruned_network_is_not_quantized_without_zeros(tmp_path):
    network = MagnitudePruning(0.5, recipe=NONE)(dense(), context())
    module = Compression(network, STAGES, ["binary"])
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=str(tmp_path))
    module.prepare(digits())
    with pytest.raises(ValueError, match=r"method\.stages\.binary: the network is pruned"):
        trainer.test(module, digits(), verbose=False)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method.stages.prune_l1_filter.ratio=0.999", "would empty"),
        ("method.pipeline=[early_exit,prune_l1_filter]", "cannot follow early_exit"),
        ("method.pipeline=[small_dense]", "max_bytes=1"),
    ],
)
def test_a_bad_setting_is_refused_before_the_dense_network_is_trained(tmp_path, monkeypatch, override, message):
    started = []
    monkeypatch.setattr(main, "checkpoint_of", lambda run: started.append(run))
    overrides = ["method=compression/compose", "dataset=digits", "model=smallcnn", "method.pipeline=[prune_l1_filter]"]
    more = ["method.stages.small_dense.max_bytes=1", "logger=csv", f"paths.outputs={tmp_path}"]
    run = Run.compose([*overrides, *more, override])
    with pytest.raises(UserError, match=message):
        main.execute(run)
    assert not started
    assert read_json(run.folder / "state.json")["state"] == "failed"


NEGATIVE = [
    (key, -1, "must not be negative")
    for key in ("bn_recal_batches", "penalty", "alpha_weight_decay", "sweeps", "recipe.weight_decay")
]
ZERO = [(key, 0, "must be positive") for key in ("population", "min_rank", "batches", "alpha", "recipe.lr")]


@pytest.mark.parametrize(("key", "value", "message"), [*NEGATIVE, *ZERO])
def test_every_stage_refuses_settings_out_of_range(key, value, message):
    files = sorted(Path("conf/method/compression/_stage").glob("*.yaml"))
    having = [node for node in map(OmegaConf.load, files) if OmegaConf.select(node, key) is not None]
    assert having
    for node in having:
        OmegaConf.update(node, key, value)
        with pytest.raises(InstantiationException, match=message):
            instantiate(node)


def test_dense_training_learns_and_reports_the_network():
    seed_everything(0, verbose=False)
    module = DenseTraining(dense(), lr=0.05)
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False, max_epochs=1,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, digits())
    trainer.test(module, digits(), verbose=False)
    assert float(trainer.callback_metrics["test/acc"]) > 0.5
    assert float(trainer.callback_metrics["test/params"]) == sum(p.numel() for p in module.network.parameters())


def test_a_missing_library_is_named():
    with pytest.raises(ValueError, match=r"prune_x needs the library y: pip install"):
        import_optional("no_such_library", "y", "prune_x")


def test_a_file_alone_is_measured_again(tmp_path, capsys):
    run(tmp_path, ["weights", "coded"], latency_repeats=0)
    file = tmp_path / "stage_2_coded.dcz"
    data = ("dataset=digits", "dataset.size=8", "dataset.limit_test=200")
    evaluate_compressed.main([str(file), *data, "--export", str(tmp_path / "net.safetensors")])
    evaluate_compressed.main([str(tmp_path / "net.safetensors"), *data])
    first, _, second = capsys.readouterr().out.strip().split("\n")
    acc = json.loads((tmp_path / "sheet.json").read_text())[-1]["acc"]
    assert f"accuracy {acc:.4f} on 200 images, {file.stat().st_size:,} bytes" in first
    assert f"accuracy {acc:.4f} on 200" in second


@pytest.mark.parametrize(
    ("damage", "data", "message"),
    [
        (None, "dataset=fashion", r"does not take images|cannot be read|needs"),
        ("torn", "dataset=digits", "is torn"),
    ],
)
def test_a_file_that_does_not_fit_ends_in_a_message(tmp_path, capsys, damage, data, message):
    from methods.compression.coding.dcz import save_dcz

    file = tmp_path / "net.dcz"
    save_dcz(file, dense() if damage else DenseTraining(dense()).network)
    if damage:
        file.write_bytes(file.read_bytes()[:-50])
        with pytest.raises(SystemExit) as stopped:
            evaluate_compressed.main([str(file), data])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
        return
    with pytest.raises(ValueError, match="does not take images"):
        evaluate_compressed.check_fit(load_network(file)[0], torch.rand(2, 3, 8, 8), 10, file)
    with pytest.raises(ValueError, match="has 10 classes, the data set has 3"):
        evaluate_compressed.check_fit(load_network(file)[0], torch.rand(2, 1, 8, 8), 3, file)


def test_an_export_takes_one_file(capsys):
    with pytest.raises(SystemExit):
        evaluate_compressed.main(["a.dcz", "b.dcz", "--export", "net.onnx"])
    assert "--export takes one file" in capsys.readouterr().err


@pytest.mark.slow
def test_an_onnx_graph_computes_the_same(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from methods.compression.artifacts import export_onnx

    network = L1FilterPruning(ratio=0.5, recipe=NONE)(dense(), context())
    assert export_onnx(tmp_path / "net.onnx", network, context().images(4)) < 1e-4
    loaded, _ = load_network(tmp_path / "net.onnx")
    x = context().images(7)
    torch.testing.assert_close(loaded(x), network(x), atol=1e-4, rtol=1e-3)
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    exits = EarlyExit((1.0, 0.3), recipe=NONE).with_exits(dense(), context())
    with pytest.raises(ValueError, match="holds no network that images leave early"):
        export_onnx(tmp_path / "exits.onnx", exits, x)
    with pytest.raises(ValueError, match="differs from the network"):
        export_onnx(tmp_path / "other.onnx", network, x, tolerance=-1.0)
    assert {path.name for path in tmp_path.iterdir()} == {"net.onnx", "bad.onnx"}
    with pytest.raises(ValueError, match="no ONNX graph"):
        load_network(tmp_path / "bad.onnx")


@pytest.mark.parametrize(("every_seconds", "shown"), [(0.0, [3, 4, 5]), (3600.0, [5])])
def test_long_trainings_report_their_epochs_and_short_ones_the_last(caplog, every_seconds, shown):
    report = EpochReports("kd", done=2, epochs=5)
    report.every_seconds = every_seconds
    with caplog.at_level("INFO", logger="methods.compression.training"):
        for done in (3, 4, 5):
            report(done, f"loss {1 / done:.2f}")
    assert [int(record.message.split()[2].split("/")[0]) for record in caplog.records] == shown
    assert caplog.records[-1].message == "kd: epoch 5/5, loss 0.20"
    assert [record.underway for record in caplog.records] == [done < 5 for done in shown]  # what a sweep prints too
