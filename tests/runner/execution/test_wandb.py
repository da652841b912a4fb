"""What Weights & Biases gets, read back from its own file by its own reader."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from runner.execution.loggers import wandb_key_is_set, wandb_settings
from runner.execution.record import PROGRESS, read_metrics, read_result

pytestmark = pytest.mark.slow


def inspect(folder: Path) -> dict:
    """wandb's summary of an offline run."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(folder)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_an_offline_run_holds_config_metrics_and_figures(spawn, tiny, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    overrides = [*(o for o in tiny if o != "logger=csv"), "experiment=graphnorm/demo", "schedule.max_epochs=2"]
    process = spawn(*overrides, "tags=[mine]")
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    assert "wandb:" not in printed
    (folder,) = tmp_path.glob("*/*/*/wandb/offline-run-*")
    result = read_result(folder.parents[1])
    summary = inspect(folder)
    text = json.dumps(summary)
    assert folder.name.endswith(result["id"])
    assert summary["config"]["method"]["lr"] == 0.01
    for name, value in result["metrics"].items():
        assert f'"{name}"' in text
        assert str(value)[:8] in text
    last_epoch = read_metrics(folder.parents[1])[-1]
    assert "train/grad_norm" in last_epoch  # logged by step
    for name, value in last_epoch.items():
        assert name in PROGRESS or summary["summary"][name] == value
    assert "figures/curve_acc" in text
    records = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for words in ("graphnorm/demo", "mine", "val/acc"):
        assert words in records


def test_after_a_failed_run_of_a_sweep_the_next_has_a_run_of_its_own(spawn, tiny, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    overrides = [o for o in tiny if o != "logger=csv"]
    process = spawn("-m", *overrides, "method=graphnorm/none", "method.lr=1e30,0.01", "schedule.max_epochs=20")
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 1, printed
    (result,) = tmp_path.glob("*/*/*/result.json")
    (folder,) = result.parent.glob("wandb/offline-run-*")
    assert inspect(folder)["config"]["method"]["lr"] == 0.01
    assert len(list(tmp_path.glob("*/*/*/wandb/offline-run-*"))) == 2


def test_a_key_from_wandb_login_is_found(tmp_path, monkeypatch) -> None:
    """It is stored by the server's name, which is another one since wandb 0.31."""
    from wandb.sdk.lib.wbauth import write_netrc_auth

    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert not wandb_key_is_set()
    write_netrc_auth(host=wandb_settings().base_url, api_key=40 * "a")
    assert wandb_key_is_set()
