"""TensorBoard and MLflow: what they are sent, several at once, and trackers that fail."""

from __future__ import annotations

import logging

import pytest

from runner.execution.careful import Careful
from runner.execution.loggers import short_values
from runner.execution.record import headline, read_result, summary


def test_two_trackers_get_metrics_config_and_figures(call, tiny, tmp_path) -> None:
    pytest.importorskip("tensorboard")
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    arguments = [o for o in tiny if not o.startswith("logger")]
    code, printed = call(*arguments, "logger=[tensorboard,mlflow]")
    assert code == 0, printed
    (folder,) = (tmp_path / "graphnorm").glob("*/*")
    result = read_result(folder)
    assert result is not None
    final = result["metrics"] | result["costs"]
    events = EventAccumulator(str(folder / "tensorboard"))
    scalars: dict[str, float] = {}
    images: list[str] = []
    for file in (folder / "tensorboard").rglob("events*"):
        events = EventAccumulator(str(file)).Reload()
        scalars |= {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"]}
        images += events.Tags()["images"]
    assert {name: scalars[f"final/{name}"] for name in final} == pytest.approx(final, rel=1e-5)
    assert "val/acc" in scalars
    assert {"figures/curve_acc", "figures/curve_loss"} <= set(images)
    client = MlflowClient(f"file:{tmp_path / 'mlruns'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "graphnorm"]
    (tracked,) = client.search_runs([experiment.experiment_id])
    assert {name: tracked.data.metrics[name] for name in final} == pytest.approx(final, rel=1e-6)
    assert tracked.data.params["model.hidden"] == "8"
    assert tracked.info.run_name == f"graphnorm-atlas-gin-fold0-seed0-{folder.name}"
    assert {path.path for path in client.list_artifacts(tracked.info.run_id, "figures")} >= {"figures/curve_acc.png"}
    assert set(result["tracked"]) == {"TensorBoard", "MLflow"}


def test_a_server_that_does_not_answer_costs_a_warning(call, tiny, tmp_path) -> None:
    pytest.importorskip("mlflow")
    arguments = [o for o in tiny if not o.startswith("logger")]
    server = ("logger.mlflow.uri=http://127.0.0.1:9", "logger.mlflow.wait_seconds=1")
    code, printed = call(*arguments, "logger=mlflow", *server)
    assert code == 0, printed
    assert "MLflow failed, the run continues without it" in printed


def test_a_wrong_address_of_the_server_keeps_runs_offline(monkeypatch, caplog) -> None:
    from runner.execution.loggers import wandb_mode

    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "foo")
    assert wandb_mode() == "offline"
    assert "W&B's settings are wrong" in caplog.text
    assert wandb_mode() == "offline"
    assert caplog.text.count("W&B's settings are wrong") == 1


def test_a_server_that_takes_no_run_is_waited_for_once(monkeypatch, tmp_path) -> None:
    import os

    import wandb

    from runner.execution.wandb_logger import PatientWandbLogger

    asked = []

    def init(**settings):
        asked.append((settings["mode"], settings["settings"].init_timeout))
        raise TimeoutError("no answer")

    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("WANDB_INIT_TIMEOUT", raising=False)
    monkeypatch.setattr(wandb, "init", init)
    logger = PatientWandbLogger(project="p", save_dir=str(tmp_path), mode="online")
    assert logger.careful.lost is False
    _ = logger.experiment
    assert asked == [("online", 10.0), ("offline", 10.0)]
    assert os.environ["WANDB_MODE"] == "offline"


def test_after_a_failure_a_tracker_is_left_alone(caplog) -> None:
    careful, calls = Careful("It"), []

    def fail() -> None:
        calls.append(1)
        raise ConnectionError("gone")

    with caplog.at_level(logging.WARNING):
        assert careful(lambda: 3) == 3
        assert careful(fail) is None
        assert careful(fail) is None
    assert len(calls) == 1
    assert caplog.text.count("It failed, the run continues without it") == 1


def test_an_action_that_takes_too_long_is_given_up(caplog) -> None:
    import threading

    assert Careful("It")(threading.Event().wait, seconds=0.05) is None
    assert "no answer within" in caplog.text


def test_a_config_is_flat_for_a_tracker() -> None:
    config = {"a": {"b": 1, "c": {"d": None, "e": [1, 2]}}, "f": True}
    assert short_values(config) == {"a.b": 1, "a.c.d": "None", "a.c.e": "[1, 2]", "f": True}


def test_a_smoke_run_is_short_and_apart(call, tiny, tmp_path) -> None:
    from scripts.report.collect import collect

    code, printed = call(*tiny, "smoke=true", "schedule.max_epochs=50")
    assert code == 0, printed
    (folder,) = tmp_path.glob(".smoke/graphnorm/*/*")
    result = read_result(folder)
    assert result is not None
    assert result["identity"]["trainer"]["limit_train_batches"] == 2
    assert (folder / "metrics.csv").read_text().count("\n") == 2  # header and one epoch
    assert collect(tmp_path) == []


def test_the_summary_begins_with_the_headline_metrics(tmp_path) -> None:
    metrics = {"test/prune_seconds": 3.0, "test/loss": 0.5, "test/dense_ppl": 10.0, "test/ppl": 12.0, "test/acc": 0.9}
    assert headline(metrics) == ["test/acc", "test/ppl", "test/dense_ppl"]
    result = {
        "metrics": metrics,
        "seconds": {"fit": 2.0},
        "peak_memory": {"process": 2**30},
        "device": "cpu",
        "tracked": {"W&B": "offline"},
        "choices": {"experiment": "graphnorm/table1"},
    }
    lines = summary(tmp_path, result)
    assert [line.split()[0] for line in lines] == [
        *("test/acc", "test/ppl", "test/dense_ppl", "test/loss", "test/prune_seconds"),
        *("cost", "files", "W&B", "next"),
    ]
    assert "fit 2.0 s, 1.00 GiB, cpu" in lines[5]
    assert lines[-1].endswith("python -m runner.table experiment=graphnorm/table1")
