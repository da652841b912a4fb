"""The paper's figures in the experiments: what they say of each other, and what runs are to be compared with them."""

from __future__ import annotations

import pytest

from runner.config.compose import compose


@pytest.mark.parametrize("experiment", ["table1", "table1_chamfer", "table1_normals"])
def test_reported_means_are_those_of_the_reported_categories(experiment):
    rows: dict[str, dict[str, float]] = {}
    for cell in compose([f"experiment=occnet/{experiment}"]).table.reported:
        rows.setdefault(cell.row, {})[cell.column] = cell.value
    assert {"ONet", "ONet (paper)"} < set(rows)
    for row, values in rows.items():
        mean = values.pop("mean")
        assert len(values) == 13, row
        assert sum(values.values()) / 13 == pytest.approx(mean, abs=0.0011), row


def test_the_ablation_begins_with_the_first_publications_network():
    def reported(experiment, row, column):
        cells = compose([f"experiment=occnet/{experiment}"]).table.reported
        return next(cell.value for cell in cells if (cell.row, cell.column) == (row, column))

    for experiment, column in (("table1", "IoU"), ("table1_chamfer", "Chamfer-L1"), ("table1_normals", "normals")):
        full = reported("table4", "Uniform, full model", column)
        assert full == reported(experiment, "ONet (paper)", "mean")
    assert compose(["experiment=occnet/table4"]).dataset.image_crop == 0.75
    assert compose(["experiment=occnet/table1"]).dataset.image_crop is None


@pytest.mark.parametrize(
    ("overrides", "threshold", "points"),
    [
        (["experiment=occnet/table1"], 0.2, 2048),
        (["experiment=occnet/table2"], 0.2, 2048),
        (["experiment=occnet/table2", "method=occnet/r2n2"], 0.4, 2048),
        (["experiment=occnet/table3"], 0.2, 1024),
        (["experiment=occnet/repr_power"], 0.5, 1024),
        (["experiment=occnet/unconditional"], 0.2, 2048),
        (["experiment=occnet/table4", "method=occnet/sampling_few"], 0.2, 64),
    ],
)
def test_settings_are_those_of_the_published_configurations(overrides, threshold, points):
    cfg = compose(overrides)
    assert (cfg.method.threshold, cfg.dataset.points) == (threshold, points)
    assert (cfg.method.lr, cfg.method.weight_decay, cfg.method.lr_decay, cfg.dataset.batch_size) == (1e-4, 0, 0, 64)
