"""Decompositions: exact at full rank, closest below it, ranks of planted matrices."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from methods.architectures.cifar_resnet import CifarResNet
from methods.compression.layers import weight_layers
from methods.compression.lowrank.circulant import Circulant, CirculantLinear, circulant_matrix
from methods.compression.lowrank.cp import CPDecomposition, cp_als, cp_conv
from methods.compression.lowrank.ranks import energy_rank, evbmf_rank, golden_section
from methods.compression.lowrank.separable import SeparableSVD, separable_conv
from methods.compression.lowrank.svd import SVDLinear, svd_linear
from methods.compression.lowrank.tucker import Tucker2, tucker2, tucker_conv
from methods.compression.macs import count_macs
from tests.methods.compression.problems import NONE, ONE, context, dense, dims


def conv(**options) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(6, 8, 3, **({"padding": 1, "stride": 2} | options))


X = torch.rand(2, 6, 9, 9, generator=torch.Generator().manual_seed(1))


def test_svd_is_exact_at_full_rank_and_the_closest_below():
    layer, x = nn.Linear(12, 7), torch.rand(3, 12)
    torch.testing.assert_close(svd_linear(layer, 7)(x), layer(x))
    first, second = svd_linear(layer, 3)
    found = second.weight @ first.weight
    tail = torch.linalg.svdvals(layer.weight.detach())[3:]
    assert float((found - layer.weight).norm()) == pytest.approx(float(tail.norm()), rel=1e-4)
    assert sum(p.numel() for p in (first.weight, second.weight)) == 3 * (12 + 7)


def test_tucker_is_exact_at_full_rank():
    layer = conv()
    torch.testing.assert_close(tucker_conv(layer, 8, 6)(X), layer(X), atol=1e-5, rtol=1e-4)


def test_tucker_finds_a_planted_rank_and_is_no_worse_than_tensorlys():
    tensorly = pytest.importorskip("tensorly")
    from tensorly.decomposition import partial_tucker

    generator = torch.Generator().manual_seed(0)
    core = torch.randn(3, 2, 3, 3, generator=generator)
    u_out, u_in = torch.randn(8, 3, generator=generator), torch.randn(6, 2, generator=generator)
    planted = torch.einsum("rshw,or,is->oihw", core, u_out, u_in)
    found = tucker2(planted, 3, 2)
    torch.testing.assert_close(torch.einsum("rshw,or,is->oihw", *found), planted, atol=1e-4, rtol=1e-3)

    weight = torch.randn(8, 6, 3, 3, generator=generator)
    ours = torch.einsum("rshw,or,is->oihw", *tucker2(weight, 4, 3, sweeps=10))
    (c, factors), _ = partial_tucker(weight.double().numpy(), rank=[4, 3], modes=[0, 1], tol=1e-10)
    theirs = torch.from_numpy(tensorly.tenalg.multi_mode_dot(c, factors, modes=[0, 1]))
    assert float((ours - weight).norm()) <= float((theirs - weight).norm()) * 1.001


def test_tucker_parameters_follow_the_formula():
    layer = nn.Conv2d(64, 64, 3, bias=False)
    for rank, expected in ((32, 13_312), (16, 4_352)):
        assert sum(p.numel() for p in tucker_conv(layer, rank, rank, 0).parameters()) == expected


@pytest.mark.parametrize("rank", [5, 12, 20])
def test_evbmf_finds_planted_ranks_and_the_noise(rank):
    generator = torch.Generator().manual_seed(rank)
    signal = torch.randn(64, rank, generator=generator) @ torch.randn(rank, 576, generator=generator)
    found, variance = evbmf_rank(signal + 0.5 * torch.randn(64, 576, generator=generator))
    assert found == rank
    assert variance == pytest.approx(0.25, rel=0.1)


def test_evbmf_finds_nothing_in_noise():
    assert evbmf_rank(torch.randn(40, 300, generator=torch.Generator().manual_seed(0)))[0] == 0
    assert evbmf_rank(torch.zeros(4, 9)) == (0, 0.0)


def test_golden_section_and_energy():
    assert golden_section(lambda x: (x - 1.25) ** 2, -3, 7) == pytest.approx(1.25, abs=1e-5)
    assert energy_rank(torch.tensor([3.0, 1.0, 0.1]), 0.9) == 2
    assert energy_rank(torch.tensor([3.0, 1.0, 0.1]), 1.0) == 3


def test_cp_layers_compute_their_tensor():
    layer = conv(dilation=2, padding=2)
    generator = torch.Generator().manual_seed(0)
    factors = [torch.randn(n, 4, generator=generator) for n in (8, 6, 3, 3)]
    with torch.no_grad():
        layer.weight.copy_(torch.einsum("or,ir,yr,xr->oiyx", *factors))
    torch.testing.assert_close(cp_conv(layer, factors)(X), layer(X), atol=1e-4, rtol=1e-3)


def test_als_finds_a_planted_rank_and_is_as_close_as_tensorly():
    pytest.importorskip("tensorly")
    from methods.compression.lowrank.cp import parafac

    generator = torch.Generator().manual_seed(0)
    factors = [torch.randn(n, 3, generator=generator) for n in (8, 6, 3, 3)]
    planted = torch.einsum("or,ir,yr,xr->oiyx", *factors)
    found, error = cp_als(planted, 3, iterations=200)
    assert error < 1e-3
    norms = torch.stack([f.norm(dim=0) for f in found])
    torch.testing.assert_close(norms, norms[:1].expand_as(norms), rtol=1e-3, atol=1e-3)  # spread evenly
    theirs = torch.einsum("or,ir,yr,xr->oiyx", *parafac(planted, 3, 200, 0))
    assert float((theirs - planted).norm() / planted.norm()) < 0.05


def test_separable_convolutions_are_exact_at_full_rank():
    layer = conv()
    torch.testing.assert_close(separable_conv(layer, 18)(X), layer(X), atol=1e-5, rtol=1e-4)
    assert sum(p.numel() for p in separable_conv(layer, 4)[0].parameters()) == 4 * 3 * 6
    assert isinstance(separable_conv(layer, 4, norm=True)[1], nn.BatchNorm2d)


@pytest.mark.parametrize(("inputs", "outputs"), [(8, 8), (12, 5), (5, 12)])
def test_products_by_fft_are_those_of_the_circulant_matrix(inputs, outputs):
    layer, x = CirculantLinear(inputs, outputs), torch.rand(3, inputs)
    size = max(inputs, outputs)
    padded = torch.nn.functional.pad(x * layer.signs, (0, size - inputs))
    expected = (padded @ circulant_matrix(layer.r).T)[:, :outputs] + layer.bias
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-4)
    assert circulant_matrix(torch.tensor([1.0, 2, 3]))[:, 1].tolist() == [3, 1, 2]


def test_the_projection_is_the_closest_circulant_matrix():
    weight = torch.randn(6, 6)
    layer = CirculantLinear(6, 6, bias=False)
    layer.project(weight)

    def distance(r: torch.Tensor) -> float:
        return float((circulant_matrix(r) * layer.signs - weight).norm())

    best = distance(layer.r.detach())
    for i in range(6):
        for step in (0.05, -0.05):
            moved = layer.r.detach().clone()
            moved[i] += step
            assert distance(moved) > best


STAGES = {
    "svd": lambda: SVDLinear(rank=4, recipe=ONE),
    "tucker": lambda: Tucker2(rank=0.5, recipe=ONE),
    "tucker by EVBMF": lambda: Tucker2(min_rank=2, recipe=ONE),
    "cp": lambda: CPDecomposition(0.5, iterations=20, restarts=1, recipe=ONE),
    "separable": lambda: SeparableSVD(rank=0.4, recipe=ONE),
}


@pytest.mark.parametrize("name", STAGES)
def test_a_decomposition_saves_operations(name):
    network = STAGES[name]()(dense(), context())
    x = context().example
    assert count_macs(network, x) < count_macs(dense(), x)
    assert context().test_accuracy(network) > 0.2


def test_circulant_layers_have_fewer_weights():
    network = Circulant(ignore=(), skip_if_slower=False, recipe=ONE)(dense(), context())
    assert network.head.r.numel() == 16
    assert "head" not in weight_layers(network)


def test_statistics_measured_anew_help_after_a_decomposition():
    one, other = (Tucker2(rank=0.35, bn_recal_batches=n, recipe=NONE)(dense(), context()) for n in (0, 6))
    assert context().test_accuracy(other) > context().test_accuracy(one)


def test_layers_that_would_be_slower_stay():
    before = CifarResNet(depth=8, width=4, **dims())
    with pytest.raises(ValueError, match="no layer would be cheaper"):
        Tucker2(rank=1.0 - 1e-9, recipe=NONE)(copy.deepcopy(before), context(before))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SVDLinear(rank=100).check(dense(), None), "head: rank=100 must be in 1..10"),
        (lambda: Tucker2(rank=64).check(dense(), None), "layers.3: rank=64 must be in 1..16"),
        (lambda: CPDecomposition(rank=5000).check(dense(), None), "rank=5000"),
        (lambda: CPDecomposition(engine="none"), "engine=none"),
        (lambda: SeparableSVD(rank=999).check(dense(), None), "rank=999"),
        (lambda: Tucker2().check(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)), None), "Conv2d"),
    ],
)
def test_ranks_that_do_not_fit_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
