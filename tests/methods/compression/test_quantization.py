"""Quantizers against their formulas, gradients, and stored codes."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from methods.architectures.convnet import ConvNet
from methods.compression.artifacts import export_onnx
from methods.compression.coding.dcz import load_dcz, save_dcz
from methods.compression.layers import selected_layers, weight_layers
from methods.compression.macs import bit_operations, layer_macs
from methods.compression.measure import count_parameters, storage_bits
from methods.compression.quantization.binary import (
    BinaryConnect,
    BinaryConnectQuantizer,
    BinaryInput,
    BinaryNetwork,
    BinaryWeightQuantizer,
    SignWithClippedGradient,
    binary_scale,
    input_scale,
    squared_hinge,
)
from methods.compression.quantization.dorefa import DoReFa, DoReFaInput, DoReFaWeight, QuantizeGradient
from methods.compression.quantization.layers import Quantizer, deploy, plain, quantize_layers
from methods.compression.quantization.lsq import LearnedStep, LearnedStepQuantization, PactInput, signed_inputs
from methods.compression.quantization.post_training import (
    AdaRound,
    AffineInput,
    FakePTQ,
    FixedStep,
    RoundedWeight,
    symmetric_step,
)
from methods.compression.training import Recipe
from tests.methods.compression.problems import NONE, ONE, context, dense, digits, dims, randomized

ADAM = Recipe(2, 0.01, optimizer="adam", weight_decay=0.0)


def test_the_binary_scale_is_the_closest():
    weight = torch.randn(5, 4, 3, 3)
    alpha, sign = binary_scale(weight), torch.where(weight >= 0, 1.0, -1.0)

    def error(factor: float) -> torch.Tensor:
        return (weight - factor * alpha[:, None, None, None] * sign).square().flatten(1).sum(1)

    assert (error(1.0) <= error(0.99)).all()
    assert (error(1.0) <= error(1.01)).all()


def test_gradients_of_binary_weights_are_those_of_xnor_net():
    weight = torch.tensor([[0.5, -2.0, 0.1, -0.3]], requires_grad=True)
    gradient = torch.tensor([[1.0, 1.0, -1.0, 2.0]])
    BinaryWeightQuantizer()(weight).backward(gradient)
    alpha = float(weight.detach().abs().mean())
    expected = gradient * (1 / 4 + alpha * torch.tensor([[1.0, 0.0, 1.0, 1.0]]))
    torch.testing.assert_close(weight.grad, expected)


def test_the_gradient_of_a_sign_passes_within_one():
    x = torch.tensor([-1.5, -0.5, 0.0, 0.9, 1.1], requires_grad=True)
    SignWithClippedGradient.apply(x).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


def test_stochastic_binary_weights_have_the_weight_as_mean():
    torch.manual_seed(0)
    quantizer = BinaryConnectQuantizer(stochastic=True).train()
    draws = torch.stack([quantizer(torch.tensor([-2.0, -0.5, 0.0, 0.8])) for _ in range(2000)])
    torch.testing.assert_close(draws.mean(0), torch.tensor([-1.0, -0.5, 0.0, 0.8]), atol=0.06, rtol=0)
    assert torch.equal(quantizer.eval()(torch.tensor([0.3])), torch.tensor([0.3]))


def test_xnor_input_scales_are_box_filters_of_the_mean():
    layer, x = nn.Conv2d(4, 2, 3, padding=1, stride=2), torch.randn(2, 4, 6, 6)
    box = torch.full((1, 1, 3, 3), 1 / 9)
    expected = nn.functional.conv2d(x.abs().mean(1, keepdim=True), box, stride=2, padding=1)
    torch.testing.assert_close(input_scale(x, layer), expected)
    assert BinaryInput(layer).eval()(x).abs().unique().tolist() == [1.0]


def test_squared_hinge_is_zero_beyond_the_margin():
    batch = next(iter(digits().train_dataloader()))
    perfect = nn.functional.one_hot(batch.y, 10) * 4.0 - 2
    assert float(squared_hinge(lambda x: perfect, batch)) == 0
    assert float(squared_hinge(lambda x: 0 * perfect, batch)) == pytest.approx(10)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_dorefa_weights_lie_on_the_levels(bits):
    weight = torch.randn(6, 5)
    values = DoReFaWeight(bits)(weight)
    if bits == 1:
        torch.testing.assert_close(values.abs(), weight.abs().mean().expand_as(weight))
    else:
        levels = torch.tensor([2 * i / (2**bits - 1) - 1 for i in range(2**bits)])
        assert (values[..., None] - levels).abs().amin(-1).max() < 1e-6
    x = DoReFaInput(2)(torch.linspace(-1, 2, 31))
    assert x.unique().tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_quantized_gradients_are_unbiased_and_on_levels():
    torch.manual_seed(0)
    x, gradient = torch.zeros(2, 500, requires_grad=True), torch.randn(2, 500)
    total = torch.zeros(2, 500)
    for _ in range(300):
        x.grad = None
        QuantizeGradient.apply(x, 4).backward(gradient)
        total += x.grad
    inner = gradient.abs() < 0.8 * gradient.abs().amax(1, keepdim=True)
    torch.testing.assert_close((total / 300)[inner], gradient[inner], atol=0.1, rtol=0)
    assert len((x.grad[0]).unique()) <= 16


def test_gradients_of_learned_steps_are_the_papers():
    v = torch.tensor([-3.0, -0.6, 0.2, 0.9, 5.0], requires_grad=True)
    quantizer = LearnedStep(3, signed=True)  # codes -4..3
    quantizer.step.data.fill_(0.5)
    quantizer.ready.fill_(True)
    out = quantizer(v)
    torch.testing.assert_close(out.detach(), torch.tensor([-2.0, -0.5, 0.0, 1.0, 1.5]))
    out.sum().backward()
    assert v.grad.tolist() == [0, 1, 1, 1, 0]
    x = v.detach() / 0.5
    inside = torch.round(x) - x
    expected = (-4 + inside[1:4].sum() + 3) / math.sqrt(5 * 3)
    torch.testing.assert_close(quantizer.step.grad, expected)


def test_steps_by_channel_have_the_gradient_of_single_ones():
    torch.manual_seed(0)
    weight = torch.randn(3, 4)
    together = LearnedStep(3, True, 3, 2)
    together.initialize(weight)
    together(weight).square().sum().backward()
    for i in range(3):
        alone = LearnedStep(3, True)
        alone.initialize(weight[i])
        torch.testing.assert_close(alone.step.detach(), together.step.detach()[i, 0])
        alone(weight[i : i + 1]).square().sum().backward()
        torch.testing.assert_close(alone.step.grad, together.step.grad[i, 0])


def test_the_first_step_follows_the_mean():
    weight = torch.randn(50, 40)
    quantizer = LearnedStep(8, True)
    quantizer.initialize(weight)
    assert float(quantizer.step) == pytest.approx(2 * float(weight.abs().mean()) / math.sqrt(127))
    assert float((quantizer(weight) - weight).norm() / weight.norm()) < 0.1
    two = LearnedStep(2, True)
    two.initialize(weight)
    assert len(two(weight).unique()) <= 4


def test_pact_learns_its_level():
    quantizer = PactInput(2, alpha=3.0)
    x = torch.tensor([-1.0, 0.4, 1.6, 5.0], requires_grad=True)
    out = quantizer(x)
    assert out.tolist() == pytest.approx([0, 0, 2, 3])
    out.sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 0]
    assert float(quantizer.alpha.grad) == 1


def test_rounding_errors_are_at_most_half_a_step():
    weight = torch.randn(4, 30)
    quantizer = FixedStep(weight, 4)
    assert ((quantizer(weight) - weight).abs() <= quantizer.step / 2 + 1e-6).all()
    better = FixedStep(weight, 3, "mse")
    assert (better(weight) - weight).square().sum() <= (FixedStep(weight, 3)(weight) - weight).square().sum()
    assert symmetric_step(weight, 4)[0] == pytest.approx(float(weight[0].abs().max()) / 7)
    inputs = AffineInput(-0.5, 2.0, 8)
    x = torch.linspace(-0.5, 2, 50)
    assert (inputs(x) - x).abs().max() < 2.5 / 255
    assert float(inputs(torch.tensor([9.0]))) == pytest.approx(2.0, abs=0.02)


QUANTIZERS = {
    "BinaryConnect": lambda w: BinaryConnectQuantizer(),
    "BWN": lambda w: BinaryWeightQuantizer(),
    "DoReFa 1": lambda w: DoReFaWeight(1),
    "DoReFa 3": lambda w: DoReFaWeight(3),
    "PTQ": lambda w: FixedStep(w, 4),
    "AdaRound": lambda w: RoundedWeight(w, 3),
}


@pytest.mark.parametrize("name", [*QUANTIZERS, "LSQ"])
def test_stored_codes_are_the_simulated_weights(name):
    weight = torch.randn(6, 3, 3, 3)
    if name == "LSQ":
        quantizer: Quantizer = LearnedStep(4, True, 6, 4)
        quantizer.initialize(weight)
    else:
        quantizer = QUANTIZERS[name](weight)
    codes = quantizer.codes(weight)
    torch.testing.assert_close(codes.values(), quantizer(weight).detach(), atol=1e-6, rtol=1e-5)
    assert int(codes.codes.min()) >= 0
    assert int(codes.codes.max()) < 2**quantizer.bits


STAGES = {
    "BinaryConnect": BinaryConnect(recipe=ADAM),
    "BWN": BinaryNetwork(recipe=ADAM),
    "XNOR": BinaryNetwork("binary", recipe=ADAM),
    "DoReFa": DoReFa(2, 4, 6, recipe=Recipe(2, 0.05)),
    "LSQ": LearnedStepQuantization(3, 4, recipe=ONE),
    "PACT": LearnedStepQuantization(3, 4, "pact", recipe=ONE),
    "PTQ": FakePTQ(4, 8),
}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_yields_a_network_whose_file_is_small_and_exact(name, tmp_path):
    network = STAGES[name](dense(), context())
    x = context().images(8)
    expected = network(x)
    torch.testing.assert_close(deploy(network)(x), expected, atol=1e-4, rtol=1e-3)
    size = save_dcz(tmp_path / "net.dcz", deploy(network))
    torch.testing.assert_close(load_dcz(tmp_path / "net.dcz")[0](x), expected, atol=1e-4, rtol=1e-3)
    assert size < storage_bits(dense()) / 8
    bits = weight_layers(network)["layers.3"].weight_quantizer.bits
    counts = layer_macs(network, x[:1])
    assert bit_operations(network, counts) < 1024 * sum(counts.values())
    saved = (32 - bits) * 1152
    assert storage_bits(network) < storage_bits(dense()) - 0.7 * saved
    assert count_parameters(deploy(network))[0] >= 1152


def test_inputs_below_zero_get_signed_codes_and_are_refused_by_pact():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()
    x = context().images(20)
    assert signed_inputs(network, x) == ["1"]
    with pytest.raises(ValueError, match="activations=pact clips inputs below zero, which 1 has"):
        LearnedStepQuantization(4, 4, "pact").check(network, digits())

    def error(signed: list[str]) -> float:
        out = LearnedStepQuantization(8, 8).quantize(copy.deepcopy(network), signed).train()
        return float(((out(x) - network(x)).norm() / network(x).norm()).detach())

    assert error(["1"]) < 0.1
    assert error([]) > 2 * error(["1"])


def test_adaround_keeps_zeros():
    network = dense()
    network.layers[3].weight.data[:, :4] = 0
    out = AdaRound(iterations=40, w_bits=2, calib_images=60, lr=0.1)(network, context())
    weight = out.layers[3].weight_quantizer(out.layers[3].weight)
    assert not weight[:, :4].any()


@pytest.mark.slow
def test_stored_low_bit_networks_become_onnx_graphs(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    network = LearnedStepQuantization(4, 4, recipe=ONE)(dense(), context())
    assert export_onnx(tmp_path / "net.onnx", deploy(network), context().images(4)) < 1e-4


def test_more_bits_lose_less():
    x, original = context().images(100), dense().eval()
    errors = []
    for bits in (8, 4, 2):
        out = FakePTQ(bits)(dense(), context())(x)
        errors.append(float((out - original(x)).norm()))
    assert errors == sorted(errors)
    learned = LearnedStepQuantization(2, 32, recipe=Recipe(3, 0.01))(dense(), context())
    rounded = FakePTQ(2)(dense(), context())
    assert context().test_accuracy(learned) > context().test_accuracy(rounded)


def test_adaround_moves_the_output_closer_than_rounding_to_nearest():
    torch.manual_seed(0)
    x, original = context().images(200), dense().eval()
    options = {"w_bits": 2, "calib_images": 200, "clip": "mse"}
    nearest = FakePTQ(**options)(dense(), context())
    learned = AdaRound(iterations=150, **options)(dense(), context())
    distances = [float((net(x) - original(x)).norm()) for net in (learned, nearest)]
    assert distances[0] < distances[1]
    up = learned.layers[3].weight_quantizer
    assert set(((up.up() >= 0.5).float()).unique().tolist()) <= {0.0, 1.0}


def test_binary_weights_after_training_need_batch_normalisation_measured_anew():
    options = {"fresh": False, "recipe": NONE}
    without = BinaryNetwork(bn_recal_batches=0, **options)(dense(), context())
    measured = BinaryNetwork(bn_recal_batches=6, **options)(dense(), context())
    assert context().test_accuracy(measured) > context().test_accuracy(without)


def test_ordinary_layers_with_quantized_weights_compute_the_same():
    network = randomized(ConvNet(widths=[4, 6], **dims(size=8)))
    quantize_layers(network, lambda layer: FixedStep(layer.weight, 3), None, [])
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(plain(network)(x), network(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DoReFa(9), "w_bits must be in 1..8"),
        (lambda: DoReFa(32), "quantizes no weight"),
        (lambda: LearnedStepQuantization(1), "bwn_xnor does 1 bit"),
        (lambda: FakePTQ(1), "w_bits must be in 2..8"),
        (lambda: FakePTQ(4, 9), "a_bits must be in 2..8"),
        (lambda: BinaryNetwork("ternary"), "inputs=ternary"),
        (lambda: selected_layers(dense(), ["stem", "head", "layers.3"]), "no Conv2d or Linear layer is left"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
