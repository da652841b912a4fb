"""Int8 by torchao."""

from __future__ import annotations

import pytest
import torch

from methods.compression.artifacts import load_network
from methods.compression.measure import measure
from methods.compression.quantization.int8 import PostTrainingInt8, QuantizationAwareInt8, quantized_nodes
from tests.methods.compression.problems import ONE, context, dense

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
    assert not sheet.simulated
    file = network.save_pt2(tmp_path / "net.pt2", {"stage": "ptq_int8"})
    back, notes = load_network(file)
    assert notes == {"stage": "ptq_int8"}
    assert torch.equal(back(x), network(x))
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(ValueError, match="damaged"):
        load_network(file)
