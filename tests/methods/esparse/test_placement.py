"""Models whose blocks lie on several devices. There is no second device here: accelerate's hooks run on the CPU."""

from __future__ import annotations

import pytest
import torch

from datasets.progress import track
from methods.esparse import placement
from methods.esparse.channel_shuffle import ChannelShuffle
from methods.esparse.decoder import Decoder
from methods.esparse.patterns import NM
from methods.esparse.perplexity import perplexity
from methods.esparse.pruning import Recipe, prune
from methods.esparse.scores import ESparse
from methods.esparse.sparsegpt import OBSUpdate
from tests.methods.esparse.families import family_model
from tests.methods.esparse.test_families import windows

pytest.importorskip("accelerate", reason="device maps need accelerate: pip install '.[llm]'")
GIB = 2**30


@pytest.fixture
def fake_devices(monkeypatch) -> list[dict]:
    """Two devices that are both the CPU; the device maps by which models are spread."""
    import accelerate

    maps: list[dict] = []
    dispatch = accelerate.dispatch_model

    def on_cpu(model, device_map, **settings):
        maps.append(device_map)
        return dispatch(model, dict.fromkeys(device_map, "cpu"), main_device="cpu", **settings)

    monkeypatch.setattr("accelerate.dispatch_model", on_cpu)
    return maps


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma4", "mixtral"])
def test_a_spread_model_is_pruned_as_one_on_one_device(fake_devices, family):
    recipe = Recipe(NM(2, 4), ESparse(), ChannelShuffle(), OBSUpdate(block_size=4))
    whole, parts = Decoder(family_model(family)), Decoder(family_model(family))
    size = sum(p.numel() * p.element_size() for p in whole.model.parameters())
    placement.spread(parts, {0: int(0.8 * size), 1: size})
    (places,) = fake_devices
    assert set(places.values()) == {0, 1}
    blocks = parts.architecture.prefix
    assert all(name.removeprefix(blocks).isdigit() for name in places if name.startswith(blocks))  # none is split
    assert all(hasattr(block, "_hf_hook") for block in parts.blocks)
    parts.check_walk(windows())
    first, second = (prune(decoder, windows(4), recipe, track) for decoder in (whole, parts))
    assert [vars(s)["retained"] for s in first.sets] == [vars(s)["retained"] for s in second.sets]
    for (name, ours), (_, theirs) in zip(
        parts.model.state_dict().items(), whole.model.state_dict().items(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    assert perplexity(parts, windows(seed=7), track) == perplexity(whole, windows(seed=7), track)


def test_a_model_that_fits_nowhere_is_refused():
    with pytest.raises(ValueError, match=r"does not fit in the memory of 2 devices.*method\.stream=true"):
        placement.spread(Decoder(family_model("llama")), {0: 4000, 1: 4000})


@pytest.mark.parametrize(
    ("kind", "free", "spread"),
    [("cpu", [100, 100], False), ("cuda", [10], False), ("cuda", [GIB, GIB], False), ("cuda", [100, 200], True)],
)
def test_only_models_that_do_not_fit_on_their_gpu_are_spread(monkeypatch, kind, free, spread):
    calls: list = []
    decoder = Decoder(family_model("llama"))
    monkeypatch.setattr(placement, "free_memory", lambda: free)
    monkeypatch.setattr(placement, "spread", lambda _, limits: calls.append(limits))
    monkeypatch.setattr(decoder.model, "to", calls.append)
    device = torch.device(kind)
    placement.place(decoder, device)
    assert calls == [{0: 80, 1: 160}] if spread else calls == [device]
