import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from datasets.graphs.datamodule import AtlasGraphs
from methods.graphnorm.batch_noise import BatchNoise, batch_statistics
from methods.graphnorm.module import GraphClassifier
from methods.graphnorm.networks import GIN

SUMMARIES = ("mean", "std", "mean_max", "mean_min", "std_max", "std_min")


@pytest.fixture(scope="module")
def atlas():
    data = AtlasGraphs(batch_size=300)
    data.setup()
    return data


def make(cls, atlas):
    pl.seed_everything(0, verbose=False)
    return cls(GIN(**atlas.dims, hidden=8, layers=2, norm="batch"))


def fit(module, data, folder, epochs=2, **kwargs):
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )
    pl.seed_everything(1, verbose=False)
    trainer.fit(module, data, **kwargs)
    return trainer


def test_summary_of_batches_is_that_of_all_their_nodes():
    h = torch.randn(100, 6, dtype=torch.float64) * torch.arange(1, 7) + torch.arange(6)
    batches = h.split([10, 55, 30, 5])
    means = torch.stack([b.mean(0) for b in batches])
    variances = torch.stack([b.var(0, correction=0) for b in batches])
    found = batch_statistics(means, variances, torch.tensor([len(b) for b in batches]))
    assert found.keys() == set(SUMMARIES)
    torch.testing.assert_close(found["mean"], h.mean())
    torch.testing.assert_close(found["std"], h.std(0, correction=0).mean())
    stds = [b.std(0, correction=0).mean() for b in batches]
    torch.testing.assert_close(found["std_max"], max(stds))
    torch.testing.assert_close(found["std_min"], min(stds))
    assert found["mean_max"] == max(b.mean(0).mean() for b in batches)
    assert found["mean_min"] == min(b.mean(0).mean() for b in batches)


def test_a_single_batch_has_no_noise():
    found = batch_statistics(torch.randn(1, 4), torch.rand(1, 4), torch.tensor([9]))
    assert found["mean_max"] == found["mean_min"]
    torch.testing.assert_close(found["std"], found["std_max"])


def test_it_records_what_enters_the_first_and_the_last_batchnorm(atlas, tmp_path):
    module = make(BatchNoise, atlas)
    norms = {"first": module.network.layers[0].norm.norm, "last": module.network.norms[-1].norm}
    assert all(isinstance(norm, nn.BatchNorm1d) for norm in norms.values())
    seen = {name: [] for name in norms}
    for name, norm in norms.items():
        norm.register_forward_pre_hook(
            lambda norm, args, name=name: seen[name].append(args[0].detach().clone()) if norm.training else None
        )
    trainer = fit(module, atlas, tmp_path, epochs=1)
    for name, inputs in seen.items():
        assert len(inputs) == 3
        h = torch.cat(inputs).double()
        stds = [x.double().std(0, correction=0).mean() for x in inputs]
        expected = {"mean": h.mean(), "std": h.std(0, correction=0).mean(), "std_max": max(stds), "std_min": min(stds)}
        for key, value in expected.items():
            logged = trainer.callback_metrics[f"train/bn_{name}_{key}"]
            assert float(logged) == pytest.approx(float(value), abs=1e-5)
            assert module.history[f"{name}_{key}"] == [float(logged)]


def test_it_trains_exactly_as_without_being_watched(atlas, tmp_path):
    watched, plain = make(BatchNoise, atlas), make(GraphClassifier, atlas)
    metrics = [fit(module, atlas, tmp_path).callback_metrics for module in (watched, plain)]
    for a, b in zip(watched.network.parameters(), plain.network.parameters(), strict=True):
        assert torch.equal(a, b)
    assert all(torch.equal(metrics[0][name], value) for name, value in metrics[1].items())


def test_a_resumed_run_keeps_its_history(atlas, tmp_path):
    first = make(BatchNoise, atlas)
    fit(first, atlas, tmp_path).save_checkpoint(tmp_path / "last.ckpt")
    resumed = make(BatchNoise, atlas)
    fit(resumed, atlas, tmp_path, epochs=3, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert set(resumed.history) == {f"{layer}_{name}" for layer in ("first", "last") for name in SUMMARIES}
    for name, values in resumed.history.items():
        assert len(values) == 3
        assert values[:2] == first.history[name]
    assert len(resumed.figures()["batch_noise"].axes) == 4


def test_a_network_without_batchnorm_is_refused(atlas):
    with pytest.raises(ValueError, match=r"model\.norm=batch"):
        BatchNoise(GIN(**atlas.dims, norm="graph"))
