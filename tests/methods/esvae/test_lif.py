import subprocess
import sys
from pathlib import Path

import pytest
import torch

from methods.esvae.lif import LIF, kernels_for, lif, lif_step
from methods.esvae.lif_compiled import CompiledKernels
from methods.esvae.lif_eager import EAGER, Dynamics
from tests.methods.esvae.official import lif_loop

ROOT = Path(__file__).parents[3]
CENTERS = {"membrane": 0.0, "threshold": 0.2}


def currents(steps=7, shape=(3, 5, 4), dtype=torch.float32, seed=0):
    return torch.randn(steps, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 0.6


def spikes_and_gradient(neuron, x):
    x = x.detach().clone().requires_grad_()
    spikes = neuron(x)
    weight = torch.linspace(-1, 1, spikes.numel(), dtype=x.dtype).view(spikes.shape)
    (spikes * weight).sum().backward()
    return spikes.detach(), x.grad


@pytest.mark.parametrize("surrogate", CENTERS)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_spikes_and_gradients_are_those_of_autograd_through_the_official_loop(surrogate, steps):
    x = currents(steps)
    spikes, gradient = spikes_and_gradient(LIF(surrogate=surrogate), x)
    theirs, their_gradient = spikes_and_gradient(
        lambda x: lif_loop(x.movedim(0, -1), CENTERS[surrogate]).movedim(-1, 0), x
    )
    assert torch.equal(spikes, theirs)
    assert 0.1 < spikes.mean() < 0.9
    torch.testing.assert_close(gradient, their_gradient, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("center", CENTERS.values())
def test_compiled_kernels_are_bit_equal_to_eager_ones_over_several_blocks(center):
    dynamics = Dynamics(center=center)
    x = currents(5, (5000,))
    for rows in (x, x[:1]):
        for pair in zip(CompiledKernels().forward(rows, 5, dynamics), EAGER.forward(rows, 5, dynamics), strict=True):
            assert torch.equal(*pair)
        potential = EAGER.forward(rows, 5, dynamics)[0]
        grad = currents(5, (5000,), seed=1)
        ours = CompiledKernels().backward(grad, potential, len(rows), dynamics)
        assert torch.equal(ours, EAGER.backward(grad, potential, len(rows), dynamics))


def test_threads_give_the_same_spikes(monkeypatch):
    x, grad = currents(4, (200_000,)), currents(4, (200_000,), seed=1)
    expected = CompiledKernels().forward(x, 4, Dynamics())
    expected_grad = CompiledKernels().backward(grad, expected[0], 4, Dynamics())
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    found = CompiledKernels().forward(x, 4, Dynamics())
    assert all(map(torch.equal, found, expected))
    assert torch.equal(CompiledKernels().backward(grad, found[0], 4, Dynamics()), expected_grad)


def test_a_constant_current_equals_its_repetition():
    x = currents(1)
    spikes, gradient = spikes_and_gradient(lambda x: LIF()(x, 6), x)
    repeated, repeated_gradient = spikes_and_gradient(lambda x: LIF()(x.expand(6, *x.shape[1:])), x)
    assert torch.equal(spikes, repeated)
    torch.testing.assert_close(gradient, repeated_gradient)


def test_float64_takes_the_eager_kernels_and_agrees():
    x = currents(dtype=torch.float64)
    spikes, gradient = spikes_and_gradient(LIF(), x)
    theirs, their_gradient = spikes_and_gradient(lambda x: lif_loop(x.movedim(0, -1)).movedim(-1, 0), x)
    assert spikes.dtype == torch.float64
    assert torch.equal(spikes, theirs)
    torch.testing.assert_close(gradient, their_gradient, rtol=1e-12, atol=1e-12)
    assert kernels_for("cpu", torch.float64).name == "eager"
    assert "numba" in kernels_for("cpu", torch.float32).name


def test_half_precision_currents_run_in_float32():
    assert lif(currents().bfloat16(), 7, Dynamics()).dtype == torch.float32


def test_steps_one_by_one_are_the_whole_sequence():
    x, dynamics = currents(), Dynamics()
    state, spikes = torch.zeros_like(x[0]), []
    for current in x:
        fired, state = lif_step(current, state, dynamics)
        spikes.append(fired)
    assert torch.equal(torch.stack(spikes), lif(x, 7, dynamics))


@pytest.mark.parametrize("surrogate", CENTERS)
def test_spikingjelly_gives_the_same_spikes_and_gradients(surrogate):
    pytest.importorskip("spikingjelly.activation_based.neuron", exc_type=ImportError)
    x = currents()
    ours = spikes_and_gradient(LIF(surrogate=surrogate), x)
    theirs = spikes_and_gradient(LIF(surrogate=surrogate, backend="spikingjelly"), x)
    assert torch.equal(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-5, atol=1e-6)
    again = spikes_and_gradient(LIF(surrogate=surrogate, backend="spikingjelly"), x)
    assert torch.equal(theirs[0], again[0])  # starts at rest each time


def test_spikingjellys_own_rectangle_is_the_threshold_centred_one():
    pytest.importorskip("spikingjelly.activation_based.neuron", exc_type=ImportError)
    from spikingjelly.activation_based import neuron, surrogate

    theirs = neuron.LIFNode(
        tau=4 / 3,
        decay_input=False,
        v_threshold=0.2,
        v_reset=0.0,
        surrogate_function=surrogate.Rect(alpha=1.0),
        detach_reset=False,
        step_mode="m",
    )
    x = currents()
    ours = spikes_and_gradient(LIF(surrogate="threshold"), x)
    found = spikes_and_gradient(theirs, x)
    assert torch.equal(ours[0], found[0])
    torch.testing.assert_close(ours[1], found[1], rtol=1e-5, atol=1e-6)


def test_snntorch_gives_the_same_spikes():
    snntorch = pytest.importorskip("snntorch")
    neuron = snntorch.Leaky(beta=0.25, threshold=0.2, reset_mechanism="zero")
    x, potential, spikes = currents(), neuron.init_leaky(), []
    for current in x:
        fired, potential = neuron(current, potential)
        spikes.append(fired)
    assert torch.equal(torch.stack(spikes), LIF()(x))


def test_a_missing_spikingjelly_is_named_with_the_way_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "spikingjelly", None)
    monkeypatch.setitem(sys.modules, "spikingjelly.activation_based", None)
    with pytest.raises(ImportError, match=r"pip install --no-deps spikingjelly"):
        LIF(backend="spikingjelly")


TRITON = """
import sys
import numpy as np, torch
from methods.esvae.lif_eager import EAGER, Dynamics
from methods.esvae.lif_triton import TritonKernels
for center in (0.0, 0.2):
    dynamics = Dynamics(center=center)
    x = torch.randn(4, 1500, generator=torch.Generator().manual_seed(0)) * 0.6
    grad = torch.randn(4, 1500, generator=torch.Generator().manual_seed(1))
    for rows in (x, x[:1].contiguous()):
        ours, theirs = TritonKernels().forward(rows, 4, dynamics), EAGER.forward(rows, 4, dynamics)
        assert all(map(torch.equal, ours, theirs))
        expected = EAGER.backward(grad, theirs[0], len(rows), dynamics)
        torch.testing.assert_close(TritonKernels().backward(grad, theirs[0], len(rows), dynamics), expected)
    one = TritonKernels().forward(x[:1].contiguous(), 1, dynamics)[0]
    torch.testing.assert_close(TritonKernels().backward(grad[:1].contiguous(), one, 1, dynamics),
                               EAGER.backward(grad[:1], one, 1, dynamics))
print("equal")
"""


@pytest.mark.slow
def test_triton_kernels_are_equal_in_its_interpreter():
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-c", TRITON],
        cwd=ROOT,
        env={**__import__("os").environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.strip() == "equal", done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("surrogate", CENTERS)
def test_a_gpu_agrees_with_the_cpu(surrogate):
    neuron, x = LIF(surrogate=surrogate), currents()
    spikes, gradient = spikes_and_gradient(neuron, x)
    there = x.cuda().requires_grad_()
    found = neuron(there)
    (found * torch.linspace(-1, 1, found.numel(), device="cuda").view(found.shape)).sum().backward()
    assert (found.cpu() != spikes).float().mean() < 1e-3  # products fused with sums
    assert ((there.grad.cpu() - gradient).abs() > 1e-4).float().mean() < 1e-2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 0.0}, r"model\.neuron\.threshold must be positive"),
        ({"decay": 1.5}, r"model\.neuron\.decay must lie in \[0, 1\]"),
        ({"surrogate": "arctan"}, r"choose from membrane, threshold"),
        ({"backend": "norse"}, r"choose from native, spikingjelly"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LIF(**arguments)


def test_another_number_of_steps_is_refused():
    with pytest.raises(ValueError, match="have 7 time steps, expected 5"):
        lif(currents(7), 5, Dynamics())
    with pytest.raises(ValueError, match="at least 1"):
        lif(currents(7), 0, Dynamics())
