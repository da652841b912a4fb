"""Folded permutations, against the model that was pruned without folding."""

from __future__ import annotations

import copy

import pytest
import torch

from datasets.progress import track
from methods.esparse.channel_shuffle import ChannelShuffle
from methods.esparse.decoder import Decoder
from methods.esparse.patterns import NM
from methods.esparse.permutation_folding import fold_permutations
from methods.esparse.pruning import Recipe, prune
from methods.esparse.scores import ESparse
from tests.methods.esparse.models import tiny_llama, tiny_opt, tokens


def pruned(model, shuffle):
    report = prune(Decoder(model), tokens(), Recipe(NM(2, 4), ESparse(), shuffle), track)
    return report


@pytest.mark.parametrize(
    "make", [tiny_llama, tiny_opt, lambda: tiny_opt(norm_first=False)], ids=["llama", "opt", "opt350m"]
)
def test_folded_and_simulated_outputs_agree(make):
    model = make()
    report = pruned(model, ChannelShuffle())
    assert any(not torch.equal(e.permutation, torch.arange(len(e.permutation))) for e in report.sets)
    folded = fold_permutations(copy.deepcopy(model), report)
    window = tokens(2, 20, seed=5)
    torch.testing.assert_close(folded(window).logits, model(window).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [tiny_llama, tiny_opt])
def test_folded_matrices_are_2_4_as_they_lie_in_memory(make):
    model = make()
    report = pruned(model, ChannelShuffle())
    folded = fold_permutations(model, report)
    inner = ("q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "gate_proj", "up_proj", "down_proj", "fc1", "fc2")
    checked = 0
    for name, module in folded.named_modules():
        if isinstance(module, torch.nn.Linear) and any(part in name for part in inner):
            groups = module.weight.unflatten(1, (-1, 4))
            assert ((groups != 0).sum(2) <= 2).all(), name
            checked += 1
    assert checked == 2 * len([linear for s in Decoder(model).architecture.sets for linear in s.linears])
