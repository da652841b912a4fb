"""Every kind of figure, drawn with data of the usual size in the project's style: no two texts overlap."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from runner.execution.figures import learning_curves
from runner.execution.plot_style import pyplot, save_figure, stable_colours
from tests.runner.results.texts import overlapping_texts

torch.manual_seed(0)
IMAGES = torch.rand(6, 1, 8, 8)


def learning() -> dict[str, Any]:
    rows = [
        {"epoch": e, "step": e, "seconds": 1.0, "train/acc": 0.1 * e, "val/acc": 0.05 * e, "val/loss": 1e-4 / (e + 1)}
        for e in range(10)
    ]
    return learning_curves(rows)


def esparse() -> dict[str, Any]:
    from methods.esparse.figures import draw_figures
    from methods.esparse.pruning import Report, SetReport

    sets = []
    for block in range(5):
        for i, name in enumerate(("attention_in", "attention_out", "mlp_in", "mlp_out")):
            norm = torch.logspace(-2 + 0.4 * i, -1.2 + i, 64)
            order = torch.randperm(64)
            sets.append(SetReport(block, name, order, 10, 20, 0.7, 0.8 + 0.01 * block, torch.rand(64) * 5, norm))
    return draw_figures(Report(sets))


def esvae() -> dict[str, Any]:
    from methods.esvae import figures as f

    layers = {f"encoder.layers.{i}.neuron": 0.1 * i for i in range(6)}
    return {
        "rows": f.image_rows({"original": IMAGES * 2 - 1, "reconstruction": IMAGES * 2 - 1}),
        "layers": f.layer_rates(layers),
        "latent": f.latent_rates(torch.rand(20, 64), torch.rand(20, 64)),
        "robustness": f.robustness_curve({0.0: 10.0, 0.1: 12.0, 0.2: 20.0}, 40.0, "deletion"),
        "operations": f.operation_bars({"ESVAE": 1e8, "ANN": 1e3}, {"ESVAE": 1e6, "ANN": 1e9}),
    }


def f2at() -> dict[str, Any]:
    from methods.f2at.figures import plot_eps_curve

    return {"eps": plot_eps_curve({i / 255: 0.9 - i / 20 for i in range(0, 17, 2)}, 8 / 255)}


def famus() -> dict[str, Any]:
    from methods.famus.diagnostics import Diagnostics

    names = ("weight_clean", "weight_noisy", "loss_auc", "weight_auc", "open_gates", "meta_grad_norm", "meta_grad_std")
    diagnostics = Diagnostics()
    diagnostics.rows = [{f"train/{name}": 10.0 ** -(e % 4) for name in names} for e in range(8)]
    diagnostics.weights, diagnostics.noisy = torch.rand(100), torch.arange(100) % 3 == 0
    diagnostics.gate_steps, diagnostics.open_counts = 10, dict.fromkeys(map(str, range(30)), 4)
    return diagnostics.figures()


def graphnorm() -> dict[str, Any]:
    from methods.graphnorm.figures import draw_learned_alpha
    from methods.graphnorm.norms import GraphNorm

    layers = torch.nn.ModuleList([GraphNorm(16) for _ in range(5)])
    for layer in layers:
        torch.nn.init.uniform_(layer.mean_scale)
    return draw_learned_alpha(layers)


def mira() -> dict[str, Any]:
    from methods.mira import figures as f

    return {
        "epochs": f.plot_attack_epochs([{"acc": 0.9, "trigger_acc": 1 - 0.1 * e} for e in range(10)]),
        "smooth": f.plot_smooth_accuracy(torch.rand(10), 3),
        "activations": f.plot_activations({"normal": torch.rand(50), "recovered": torch.rand(50)}, 3),
        "images": f.plot_image_rows({"triggers": IMAGES, "recovered": IMAGES}),
    }


def occnet() -> dict[str, Any]:
    from methods.occnet import figures as f
    from methods.occnet.mise import Grid

    sides = (16, 32, 64, 128, 256)
    means = {f"test/{key}_at_{n}": n / 300 for key in ("iou", "voxel_iou") for n in sides}
    return {
        "resolution": f.plot_iou_by_resolution(means, sides),
        "slices": f.plot_field_slices(Grid(np.random.default_rng(0).normal(size=(17, 17, 17)), 100), 0.0),
    }


def optfeature() -> dict[str, Any]:
    from methods.optfeature import figures as f

    names = [f"C{i}" for i in range(26)]
    points = {name: [(0.1 * i, 0.75 + 0.01 * i) for i in range(1, 9)] for name in ("OptFeature", "OptInter", "OptFS")}
    return {
        "pairs": f.plot_pairs(torch.rand(26 * 25 // 2), names, "share of open gates", 0.0, 1.0),
        "calibration": f.plot_calibration(torch.randn(500), torch.randint(2, (500,))),
        "kept": f.plot_auc_against_kept_ratio(points, 0.8),
    }


def search() -> dict[str, Any]:
    from runner.sweeps import search_report as r
    from runner.sweeps.space import Dimension

    lr = Dimension("method.lr", low=1e-4, high=1e-1, log=True)
    hidden, model = Dimension("model.hidden", values=("8", "16", "32")), Dimension("model", values=("gin", "gcn"))
    complete = SimpleNamespace(name="COMPLETE")
    trials = [
        SimpleNamespace(
            number=i,
            state=complete,
            value=0.5 + i / 50,
            values=[0.5 + i / 50, 1.0 + i],
            params={"method.lr": 10 ** -(1 + i % 4), "model.hidden": "16", "model": "gin"},
            intermediate_values={},
        )
        for i in range(20)
    ]
    study = SimpleNamespace(get_trials=lambda deepcopy=True: trials, best_trials=trials[-1:])
    one = SimpleNamespace(goals=[("val/acc", "maximize")], metrics=("val/acc",))
    given = SimpleNamespace(settings=one, space=[lr, hidden, model], study=study)
    two = SimpleNamespace(settings=SimpleNamespace(metrics=("val/acc", "time/fit")), study=study)
    return {
        "history": r.history(given, trials),
        "slices": r.slices(given, trials),
        "front": r.front(two, trials),
    }


@pytest.mark.parametrize(
    "draw",
    [learning, esparse, esvae, f2at, famus, graphnorm, mira, occnet, optfeature, search],
    ids=lambda f: f.__name__,
)
def test_no_texts_overlap(draw: Callable[[], dict[str, Any]], tmp_path) -> None:
    with pyplot() as plt:
        figures = draw()
        assert figures
        for figure in figures.values():
            figure.set_dpi(150)
        overlapping = {name: found for name, figure in figures.items() if (found := overlapping_texts(figure))}
        for name, figure in figures.items():
            figure.savefig(tmp_path / f"{name}.png")
        plt.close("all")
    assert not overlapping


def test_figures_are_saved_in_each_format(tmp_path) -> None:
    with pyplot() as plt:
        figure, axes = plt.subplots()
        axes.plot([1, 2])
        files = save_figure(figure, tmp_path / "a.b", ("png", "pdf", "svg"))
    assert [path.name for path in files] == ["a.b.png", "a.b.pdf", "a.b.svg"]
    assert [path.read_bytes()[:4] for path in files] == [b"\x89PNG", b"%PDF", b"<?xm"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in files)


def test_a_known_value_has_one_colour_in_all_figures() -> None:
    known = [f"paper/{i}" for i in range(12)]
    with pyplot():
        first = stable_colours(["paper/3", "paper/1"], known)
        second = stable_colours(["paper/1", "paper/5", "paper/3"], known)
        crowded = stable_colours(["paper/1", "paper/9"], known)  # 9 is 1 modulo the eight colours
    assert first == {"paper/3": 3, "paper/1": 1}
    assert {name: second[name] for name in first} == first
    assert crowded["paper/1"] == 1
    assert crowded["paper/9"] != 1
