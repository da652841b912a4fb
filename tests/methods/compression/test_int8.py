"""Int8 by torchao."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from pytorch_lightning import Trainer

from methods.compression.artifacts import load_network
from methods.compression.measure import measure
from methods.compression.pipeline import Compression
from methods.compression.quantization.int8 import (
    Int8Network,
    PostTrainingInt8,
    QuantizationAwareInt8,
    quantized_nodes,
)
from methods.compression.training import Recipe
from tests.methods.compression.problems import ONE, context, dense, digits

pytest.importorskip("torchao")


@pytest.mark.slow
@pytest.mark.parametrize("qat", [False, True])
def test_int8_networks_are_close_small_and_come_back_from_a_file(tmp_path, qat):
    surroundings = context()
    stage = QuantizationAwareInt8(ONE, calib_images=100, compile=False) if qat else PostTrainingInt8(100, False)
    stage.check(dense(), None)
    network = stage(dense(), surroundings)
    assert quantized_nodes(network.graph) > 0
    assert any(t.dtype == torch.int8 for t in network.tensors().values())
    x = context().images(20)
    if not qat:
        assert surroundings.numbers["output_error"] < 0.05
    assert abs(context().test_accuracy(network) - context().test_accuracy(dense())) < 0.15
    sheet = measure(network, x[:1], "int8")
    assert sheet.bits < measure(dense(), x[:1]).bits / 2
    assert sheet.simulated  # not compiled
    file = network.save_pt2(tmp_path / "net.pt2", {"stage": "ptq_int8"})
    back, notes = load_network(file)
    assert notes == {"stage": "ptq_int8"}
    assert torch.equal(back(x), network(x))
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(ValueError, match="damaged"):
        load_network(file)


@pytest.mark.slow
def test_the_compiled_graph_is_timed_after_a_resumption_too(tmp_path, monkeypatch):
    calls = []

    def compile_kernels(network: Int8Network) -> None:
        graph = network.graph
        network.compiled = lambda x: (calls.append(1), graph(x))[1]

    monkeypatch.setattr(Int8Network, "compile_kernels", compile_kernels)
    for attempt in range(2):
        module = Compression(dense(), {"int8": PostTrainingInt8(100)}, ["int8"], latency_repeats=2, block_seconds=0.001)
        trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=str(tmp_path))
        module.prepare(digits())
        calls.clear()
        if attempt:
            monkeypatch.setattr(PostTrainingInt8, "__call__", lambda *_: pytest.fail("the stage was done before"))
        trainer.test(module, digits(), verbose=False)
        row = json.loads((tmp_path / "sheet.json").read_text())[-1]
        assert not row["simulated"]
        assert row["bytes_file"] == (tmp_path / "stage_1_int8.pt2").stat().st_size
        assert len(calls) > 5  # batches of the accuracy, then timed passes


def test_a_missing_compiler_is_named_before_anything_runs(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="need the C\\+\\+ compiler no-such-compiler"):
        PostTrainingInt8().check(dense(), None)
    PostTrainingInt8(compile=False).check(dense(), None)


@pytest.mark.slow
def test_training_before_int8_keeps_zeros_and_goes_on_after_a_stop(tmp_path, monkeypatch):
    sparse = dense()
    sparse.layers[3].weight.data[:, :4] = 0
    stage = QuantizationAwareInt8(Recipe(2, 0.01), calib_images=100, compile=False)
    whole = stage(copy.deepcopy(sparse), context())
    zeros = [int((t == 0).sum()) for t in whole.tensors().values() if t.dtype == torch.int8 and t.dim() == 4]
    assert max(zeros) >= 16 * 4 * 9

    surroundings = context(folder=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(QuantizationAwareInt8, "_finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            stage(copy.deepcopy(sparse), surroundings)
    assert (tmp_path / "training_1.pt").exists()
    resumed = stage(copy.deepcopy(sparse), context(folder=tmp_path))
    x = context().images(20)
    torch.testing.assert_close(resumed(x), whole(x))


@pytest.mark.slow
def test_compiled_kernels_compute_the_same_for_batches_of_any_size():
    stage = PostTrainingInt8(100)
    stage.check(dense(), None)
    network = stage(dense(), context())
    images = context().images(9)
    with torch.no_grad():
        expected = network(images)
        compiled = stage.ready(network)
        for size in (9, 5, 1):
            torch.testing.assert_close(compiled(images[:size]), expected[:size], atol=1e-3, rtol=1e-3)
    assert not measure(compiled, images[:1]).simulated
