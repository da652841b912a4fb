import torch

from scripts import bench_esvae


def test_contestants_compute_the_same(capsys):
    losses = [step() for step in bench_esvae.training_steps(batch=2, steps=2).values()]
    torch.testing.assert_close(*losses)
    spikes = [float(step()) for step in bench_esvae.lif_steps(batch=1, steps=2).values()]
    assert len(set(spikes)) == 1
    assert torch.equal(*(step() for step in bench_esvae.generation_steps(count=2, steps=3).values()))
    bench_esvae.compare(
        {"one": lambda: torch.ones(200_000).sum(), "other": lambda: torch.ones(200_000).sum()}, 1, 2, "x"
    )
    assert "1.00 x" in capsys.readouterr().out
