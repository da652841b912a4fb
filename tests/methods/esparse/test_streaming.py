"""Pruning block by block from disk, against pruning in memory."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from datasets.progress import track
from methods.esparse.channel_shuffle import ChannelShuffle
from methods.esparse.decoder import Decoder
from methods.esparse.patterns import NM
from methods.esparse.perplexity import perplexity
from methods.esparse.pruning import Recipe, prune
from methods.esparse.scores import ESparse
from methods.esparse.shards import INDEX, Shards
from methods.esparse.streaming import StreamedDecoder, block_file
from tests.methods.esparse.models import tiny_llama, tiny_opt, tokens

RECIPE = Recipe(NM(2, 4), ESparse(), ChannelShuffle())


def streamed(folder, model, out=None, dtype=torch.float32):
    return StreamedDecoder(folder, model.config, dtype, torch.device("cpu"), out)


@pytest.mark.parametrize(
    "make", [tiny_llama, lambda: tiny_llama(tied=True), tiny_opt, lambda: tiny_opt(norm_first=False)]
)
@pytest.mark.parametrize("shard", ["1GB", "4KB"])
def test_a_streamed_model_is_pruned_as_one_in_memory(make, shard, tmp_path):
    model = make()
    model.save_pretrained(tmp_path / "dense", max_shard_size=shard)
    decoder = streamed(tmp_path / "dense", model, tmp_path / "out")
    dense = perplexity(decoder, tokens(seed=7), track)
    assert dense == pytest.approx(perplexity(Decoder(model), tokens(seed=7), track), rel=1e-6)
    prune(decoder, tokens(), RECIPE, track)
    decoder.finish()

    prune(Decoder(model), tokens(), RECIPE, track)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    for (name, ours), (_, theirs) in zip(loaded.state_dict().items(), model.state_dict().items(), strict=True):
        assert torch.equal(ours, theirs), name
    again = streamed(tmp_path / "out", model)
    assert perplexity(again, tokens(seed=7), track) == pytest.approx(
        perplexity(Decoder(model), tokens(seed=7), track), rel=1e-6
    )


def test_an_interrupted_walk_goes_on_after_its_last_block(tmp_path):
    model = tiny_llama()
    model.save_pretrained(tmp_path / "dense")
    whole = streamed(tmp_path / "dense", model, tmp_path / "whole")
    expected = prune(whole, tokens(), RECIPE, track)
    whole.finish()

    class Interrupted(StreamedDecoder):
        def store_reports(self, i, reports):
            super().store_reports(i, reports)
            if i == 1:
                raise KeyboardInterrupt

    stopped = Interrupted(tmp_path / "dense", model.config, torch.float32, torch.device("cpu"), tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        prune(stopped, tokens(), RECIPE, track)
    first = tmp_path / "out" / block_file(0)
    assert first.exists()
    assert not (tmp_path / "out" / block_file(1)).exists()
    written = first.stat().st_mtime_ns
    dense = perplexity(decoder := streamed(tmp_path / "dense", model, tmp_path / "out"), tokens(seed=7), track)
    assert dense == pytest.approx(perplexity(Decoder(model), tokens(seed=7), track), rel=1e-6)  # of dense blocks still
    report = prune(decoder, tokens(), RECIPE, track)
    decoder.finish()
    assert first.stat().st_mtime_ns == written
    assert (report.retained, report.sparsity, len(report.sets)) == (
        expected.retained,
        expected.sparsity,
        len(expected.sets),
    )
    ours, theirs = (
        shards.read({name: name for name in shards.files})
        for shards in (Shards(tmp_path / "out"), Shards(tmp_path / "whole"))
    )
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {path.name for path in (tmp_path / "whole").iterdir()}
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


def test_weights_keep_the_dtype_of_their_file_and_their_values(tmp_path):
    model = tiny_llama().to(torch.bfloat16)
    model.save_pretrained(tmp_path / "dense")
    decoder = streamed(tmp_path / "dense", model, tmp_path / "out")  # computes in float32
    prune(decoder, tokens(), RECIPE, track)
    decoder.finish()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    for (name, ours), (_, theirs) in zip(loaded.state_dict().items(), model.state_dict().items(), strict=True):
        assert ours.dtype == torch.bfloat16
        assert torch.equal(ours[ours != 0], theirs[ours != 0]), name
    assert (loaded.model.layers[0].mlp.up_proj.weight == 0).float().mean() == 0.5


def test_missing_shards_are_named(tmp_path):
    model = tiny_llama()
    model.save_pretrained(tmp_path, max_shard_size="4KB")
    gone = sorted(set(json.loads((tmp_path / INDEX).read_text())["weight_map"].values()))[1]
    (tmp_path / gone).unlink()
    with pytest.raises(FileNotFoundError, match=gone):
        Shards(tmp_path)


def test_a_folder_without_safetensors_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="safetensors only"):
        Shards(tmp_path)


def test_a_missing_tensor_is_named(tmp_path):
    from safetensors.torch import load_file, save_file

    model = tiny_llama()
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.norm\.weight"):
        streamed(tmp_path, model)
