"""Scripts around OptFeature: benchmark forms, preparation, the figure of kept ratios."""

from __future__ import annotations

import json

import pytest
import torch

from scripts import bench_ctr, plot_kept_ratio, prepare_ctr


def test_both_forms_of_the_benchmark_have_the_same_scores_and_logits():
    torch.manual_seed(0)
    sizes = (4,) * 5
    ids = torch.randint(0, 4, (6, 5)) + torch.arange(5) * 4
    models = {}
    for form, (network_class, selection_class) in bench_ctr.FORMS.items():
        models[form] = network_class(sizes, 4, (8,)), selection_class(sizes, 3, rank=4)
    for mine, published in zip(models["batched"], models["gathered"], strict=True):
        for parameter in mine.parameters():
            torch.nn.init.normal_(parameter)
        published.load_state_dict(mine.state_dict())
    outputs = {form: (s.scores(ids), network(ids, s.gates(ids).pair)) for form, (network, s) in models.items()}
    for mine, published in zip(outputs["batched"], outputs["gathered"], strict=True):
        torch.testing.assert_close(mine, published)


def test_generated_file_is_prepared_checked_and_read(tmp_path, capsys):
    pytest.importorskip("polars")
    folder = tmp_path / "criteo"
    folder.mkdir()
    prepare_ctr.main(["generate", str(folder / "train.txt"), "--rows", "500"])
    prepare_ctr.main(["prepare", "criteo", "min_count=3", "split.kind=autoint", "--root", str(tmp_path)])
    assert "39 fields" in capsys.readouterr().out
    prepare_ctr.main(["verify", "criteo", "min_count=3", "split.kind=autoint", "--root", str(tmp_path)])
    shard = next(tmp_path.glob("ctr_prepared/*/val/*.labels.npy"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"\7")
    with pytest.raises(SystemExit) as error:
        prepare_ctr.main(["verify", "criteo", "min_count=3", "split.kind=autoint", "--root", str(tmp_path)])
    assert error.value.code == 2
    assert "missing or changed" in capsys.readouterr().err
    bench_ctr.main(["data", str(folder / "train.txt"), "--train"])
    assert "test AUC" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no FuxiCTR in there"):
        bench_ctr.main(["data", str(folder / "train.txt"), "--fuxictr", str(tmp_path)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["criteo", "min_count=0"], "dataset.min_count must be positive, got 0"),
        (["criteo", "mincount=3"], "dataset.mincount is not an argument"),
        (["criteo", "split.kind=foo"], "dataset.split.kind=foo is unknown"),
        (["click_table"], "no value is given for dataset.fields, dataset.label, dataset.path"),
        (["criteo"], "Put it at one of"),
    ],
)
def test_mistakes_are_one_message(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as error:
        prepare_ctr.main(["prepare", *arguments, "--root", str(tmp_path)])
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_figure_of_kept_ratios(tmp_path, capsys):
    for number, (alias, kept, area) in enumerate(
        [("none", None, 0.9), ("random-0.1", 0.1, 0.8), ("field-0", 0.5, 0.9)]
    ):
        folder = tmp_path / "optfeature" / "x" / str(number)
        folder.mkdir(parents=True)
        metrics = {"test/auc": area} | ({} if kept is None else {"test/kept_ratio": kept})
        (folder / "result.json").write_text(json.dumps({"metrics": metrics, "seconds": {}, "code": {}}))
        (folder / "config.yaml").write_text(f"alias: {alias!r}")
    damaged = tmp_path / "optfeature" / "x" / "3"
    damaged.mkdir()
    (damaged / "result.json").write_text("{}")
    assert plot_kept_ratio.read_points(tmp_path) == ({"random pairs": [(0.1, 0.8)], "OptFeature-f": [(0.5, 0.9)]}, 0.9)
    plot_kept_ratio.main([str(tmp_path), "--figure", str(tmp_path / "curve.png")])
    assert (tmp_path / "curve.png").stat().st_size > 1000
    with pytest.raises(SystemExit, match="no finished run"):
        plot_kept_ratio.main([str(tmp_path / "nothing")])
