"""Two processes on one global batch give what one process gives."""

from __future__ import annotations

import pytest

from runner.execution.record import read_metrics, read_result

# In float64, without dropout (each process draws its own), and without a norm: before a norm, the gradient of a bias is
# rounding error alone, which Adam turns into steps of full size.
OVERRIDES = [
    *("method=graphnorm/none", "dataset=atlas", "logger=csv", "schedule.max_epochs=3", "method.lr=0.001"),
    *("model.dropout=0", "trainer.precision=64-true"),
]


@pytest.mark.slow
def test_two_cpu_processes_agree_with_one(spawn, tmp_path) -> None:
    results = {}
    for name, trainer in {"one": ["trainer=cpu"], "two": ["trainer=ddp", "trainer.accelerator=cpu"]}.items():
        process = spawn(*OVERRIDES, *trainer, f"paths.outputs={tmp_path / name}")
        printed, _ = process.communicate(timeout=300)
        assert process.returncode == 0, printed
        (results[name],) = (tmp_path / name).glob("*/*/*/result.json")
    one, two = (read_result(path.parent) for path in results.values())
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["id"] == two["id"]
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-9)
    for row_one, row_two in zip(*(read_metrics(path.parent) for path in results.values()), strict=True):
        del row_one["seconds"], row_two["seconds"]
        assert row_two == pytest.approx(row_one, rel=1e-9)
