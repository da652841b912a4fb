"""Networks from maps to waves: sizes, lengths, what they share, what they refuse."""

from __future__ import annotations

import pytest
import torch

from methods.calibrationphys.networks import CameraPhysNet2D, CameraPhysNet3D, PhysNet2D, PhysNet3D


@pytest.mark.parametrize(("channels", "parameters"), [(1, 290_817), (3, 291_137)])
@pytest.mark.parametrize(("stem", "up"), [("space", "time"), ("time", "space")])
def test_physnet2d_has_the_size_of_the_public_re_implementation(channels, parameters, stem, up):
    network = PhysNet2D(channels, stem_axis=stem, up_axis=up)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize("time_pools", [1, 2])
@pytest.mark.parametrize("length", [64, 75])
def test_physnet2d_keeps_the_length(length, time_pools):
    network = PhysNet2D(3, width=8, time_pools=time_pools).eval()
    maps = torch.randn(2, 3, 64, length)
    assert network(maps).shape == (2, length)
    assert network.rows(maps, 4).shape == (2, 4, length)
    torch.testing.assert_close(network.rows(maps, 1)[:, 0], network(maps))  # one group: the mean over patches


@pytest.mark.parametrize("decoder", ["transposed", "interpolate"])
def test_physnet3d_keeps_the_length(decoder):
    network = PhysNet3D(3, patches=16, width=8, decoder=decoder).eval()
    assert network(torch.randn(2, 3, 16, 61)).shape == (2, 61)
    assert network.rows(torch.randn(2, 3, 16, 60), 4).shape == (2, 4, 60)


@pytest.mark.parametrize(("decoder", "pool"), [("transposed", torch.nn.MaxPool3d), ("interpolate", torch.nn.AvgPool3d)])
def test_physnet3d_pools_as_the_method_of_its_decoder(decoder, pool):
    network = PhysNet3D(3, patches=16, width=8, decoder=decoder)
    assert sum(isinstance(layer, pool) for layer in network.encoder) == 4


def test_networks_of_cameras_share_nothing_unless_told():
    own = CameraPhysNet2D({"a": 3, "b": 3}, 16, width=8)
    assert own.of("a") is not own.of("b")
    assert own.dims == {"channels": {"a": 3, "b": 3}, "patches": 16}
    shared = CameraPhysNet2D({"a": 3, "b": 3}, 16, shared=True, width=8)
    assert shared.of("a") is shared.of("b")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CameraPhysNet2D({"a": 3}, 9), "at least 16 patches"),
        (lambda: CameraPhysNet2D({"a": 3, "b": 1}, 16, shared=True), r"model\.shared"),
        (lambda: CameraPhysNet3D({"a": 3}, 20), "square grid"),
        (lambda: CameraPhysNet2D({"a": 3}, 16, time_pools=3), r"model\.time_pools"),
        (lambda: CameraPhysNet2D({"a": 3}, 16, width=0), r"model\.width must be at least 4"),
        (lambda: CameraPhysNet3D({"a": 3}, 16, width=3), r"model\.width must be at least 4"),
    ],
)
def test_networks_refuse_maps_that_do_not_fit(make, message):
    with pytest.raises(ValueError, match=message):
        make()
