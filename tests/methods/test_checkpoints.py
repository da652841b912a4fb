"""Weights out of a checkpoint, beside the state_dict that went in."""

from __future__ import annotations

import torch
from torch import nn

from methods.checkpoints import weights_below


def test_weights_are_those_below_the_first_prefix_that_any_has(tmp_path):
    plain, average = nn.Linear(2, 3), nn.Linear(2, 3)
    module = nn.ModuleDict({"network": plain, "average": nn.ModuleDict({"network": average})})
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": module.state_dict()}, path)
    for prefixes, expected in (
        (("network.",), plain),
        (("average.network.", "network."), average),
        (("teacher.", "network."), plain),
    ):
        found = weights_below(path, *prefixes)
        assert found.keys() == expected.state_dict().keys()
        assert all(torch.equal(found[name], value) for name, value in expected.state_dict().items())
    assert weights_below(path, "teacher.") == {}
