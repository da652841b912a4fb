"""Dashboards as they are sent to W&B, compared with the file that a real run left for W&B."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from runner.execution.loggers import figure_run_id
from scripts.dashboard import specification
from scripts.dashboard_tables import Section, choose_tables
from tests.scripts.conftest import TINY

NARROW = [o for o in TINY if o != "dataset.fold=0"]


def made(experiment: str, *overrides: str) -> dict:
    """Return the specification as it stands in its file."""
    return json.loads(json.dumps(specification("title", [Section.read(experiment, list(overrides))], "", "runner")))


def workspace_of(spec: dict) -> tuple[dict[str, list[dict]], dict]:
    """Return the panels by section, and the set of runs, of the only workspace."""
    (view,) = spec["workspaces"].values()
    section = view["spec"]["section"]
    (runs,) = section["runSets"]
    return {part["name"]: part["panels"] for part in section["panelBankConfig"]["sections"]}, runs


def grids_of(spec: dict) -> list[tuple[dict, list[dict]]]:
    """Return the set of runs and the panels of each grid of the report."""
    blocks = [block["metadata"] for block in spec["report"]["spec"]["blocks"] if block["type"] == "panel-grid"]
    return [(grid["runSets"][0], grid["panelBankSectionConfig"]["panels"]) for grid in blocks]


def conditions(runs: dict) -> list[tuple]:
    """Return (connector, section, name, operation, value) of each filter."""
    return [
        (f.get("connector"), f["key"]["section"], f["key"]["name"], f["op"], f["value"])
        for f in runs["filters"]["filters"]
    ]


def test_a_workspace_has_the_text_the_metric_and_the_curves_of_one_table(tmp_path) -> None:
    panels, runs = workspace_of(made("graphnorm/table1", "dataset=mutag,ptc", f"paths.outputs={tmp_path}"))
    text, curves = panels.values()  # no bars: this table chooses one epoch for all folds, W&B cannot
    assert "| WL subtree | reported | 90.4 ± 5.7 | 59.9 ± 4.3 |" in text[0]["config"]["value"]
    assert "arXiv 2009.03294v1, table 1" in text[0]["config"]["value"]
    assert "W&B's bars" not in text[0]["config"]["value"]
    assert [p["config"]["metrics"] for p in curves] == [["train/acc", "val/acc"], ["train/loss", "val/loss"]]
    assert runs["grouping"] == [{"section": "config", "name": "choices.value.method"}]
    assert conditions(runs) == [
        (None, "run", "group", "=", "graphnorm/table1"),
        ("AND", "config", "choices.value.dataset", "IN", ["mutag", "ptc"]),
    ]


def test_bars_are_drawn_of_a_table_whose_means_are_those_of_wandb(tmp_path) -> None:
    panels, _ = workspace_of(made("graphnorm/table1_fair", "dataset=mutag,ptc", f"paths.outputs={tmp_path}"))
    assert list(panels)[1] == "test/acc (mean over dataset)"
    text, (bar,), _ = panels.values()
    assert "W&B's bars" in text[0]["config"]["value"]
    assert bar["viewType"] == "Bar Chart"
    assert bar["config"]["metrics"] == ["test/acc"]
    assert bar["config"]["groupBy"] == "choices.value.method"


def test_the_report_has_a_grid_for_each_column_of_each_table(tmp_path) -> None:
    overrides = ["method=esparse", f"paths.outputs={tmp_path}"]
    sections = [Section.read(name, overrides) for name in ("esparse/llama2", "esparse/zeroshot")]
    spec = specification("both", sections, "", "runner")
    assert list(spec["workspaces"]) == ["esparse/llama2 method esparse", "esparse/zeroshot method esparse"]
    grids = grids_of(spec)
    assert [runs["name"] for runs, _ in grids][-3:] == ["Llama-2-70B 4:8", "LLaMA-7B", "LLaMA-13B"]
    assert len(grids) == 8
    assert conditions(grids[1][0]) == [
        (None, "run", "group", "=", "esparse/llama2"),
        ("AND", "config", "choices.value.model", "IN", ["llama2_7b"]),
        ("AND", "config", "method.value.pattern", "IN", ["4:8"]),
        ("AND", "config", "choices.value.method", "IN", ["esparse"]),
    ]
    assert [panel["config"]["metrics"] for panel in grids[0][1]] == [["test/ppl"]]  # nothing is trained: no curves
    headings = [b["children"][0]["text"] for b in spec["report"]["spec"]["blocks"] if b["type"] == "heading"]
    assert headings[:2] == ["esparse/llama2 method esparse", "Llama-2-7B 2:4"]


def test_two_keys_that_make_rows_have_a_plot_each(tmp_path) -> None:
    panels, runs = workspace_of(made("graphnorm/table1_molhiv", f"paths.outputs={tmp_path}"))
    bars = list(panels.values())[1]
    assert [bar["config"]["groupBy"] for bar in bars] == ["choices.value.model", "model.value.norm"]
    assert [key["name"] for key in runs["grouping"]] == ["choices.value.model", "model.value.norm"]


def test_recalled_figures_are_flagged(tmp_path) -> None:
    text = Section.read("esparse/table1", ["model=llama7b", f"paths.outputs={tmp_path}"]).text
    assert "? : this reported figure could not be checked against the paper" in text
    assert any(re.search(r"\d\?", line) for line in text.splitlines() if "| reported |" in line)


def test_runs_that_another_experiment_made_are_told_by_their_id(tmp_path) -> None:
    overrides = ["dataset=mutag", "method=graphnorm", f"paths.outputs={tmp_path}"]
    run = Section.read("graphnorm/table1", overrides).runs[3]
    result = {"choices": {"experiment": "graphnorm/figure5"}, "metrics": {"val/acc": 0.5}, "seconds": {}, "code": {}}
    run.folder.mkdir(parents=True)
    (run.folder / "result.json").write_text(json.dumps(result))
    (run.folder / "metrics.csv").write_text("epoch,step,seconds,val/acc\n0,1,0.1,0.5\n")
    panels, runs = workspace_of(made("graphnorm/table1", *overrides))
    *_, other, chart = conditions(runs)
    assert other == ("OR", "run", "name", "IN", [run.id])
    path = Section.read("graphnorm/table1", overrides).chart
    assert chart == ("OR", "run", "name", "IN", [figure_run_id("graphnorm/table1", path)])
    (panel,) = panels["table as a chart"]
    assert panel["viewType"] == "Media Browser"
    assert panel["config"]["mediaKeys"] == [f"figures/{path.stem}"]


@pytest.mark.slow
def test_every_name_that_is_sent_stands_in_the_file_of_a_real_run(offline_run) -> None:
    (folder,) = offline_run.glob("*/*/*/wandb/offline-run-*")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json"]
    summary = json.loads(subprocess.run([*command, "--summary", str(folder)], check=True, capture_output=True).stdout)
    records = subprocess.run([*command, str(folder)], check=True, capture_output=True, text=True).stdout

    def stored(name: str) -> object:
        first, value, *rest = name.split(".")
        assert value == "value"
        found = summary["config"][first]
        for part in rest:
            found = found[part]
        return found

    spec = made("graphnorm/table1", *NARROW, f"paths.outputs={offline_run}")
    panels, runs = workspace_of(spec)
    text, _, curves = panels.values()
    assert "| GIN + GraphNorm | measured |" in text[0]["config"]["value"]
    assert "(1/10)" in text[0]["config"]["value"]
    (run,) = offline_run.glob("*/*/*/result.json")
    (chart_runs, _), (grid_runs, _) = grids_of(spec)
    assert conditions(chart_runs)[0][1:] == conditions(runs)[-1][1:]
    for part in (runs, grid_runs):
        (_, _, name, _, group), *rest = conditions(part)
        assert name == "group"
        rest = [condition for condition in rest if condition[2] != "name"]
        assert f'"{group}"' in records
        assert {key for _, _, key, _, _ in rest} >= {"choices.value.dataset", "model.value.hidden"}
        for _, _, key, _, values in rest:
            assert stored(key) in values
        for key in part["grouping"]:
            assert stored(key["name"]) == "graphnorm"
    for column in runs["runFeed"]["columnOrder"]:
        section, _, name = column.partition(":")
        assert section == "run" or (name in summary["summary"] if section == "summary" else stored(name))
    logged = json.loads(run.read_text())["metrics"] | summary["summary"]
    assert {"train/acc", "val/loss"} < {m for panel in curves for m in panel["config"]["metrics"]}
    for panel in curves:
        assert set(panel["config"]["metrics"]) <= logged.keys()
        assert panel["config"].get("xAxis", "epoch") in summary["summary"]


@pytest.mark.slow
def test_sent_again_the_dashboard_is_updated_in_place(server, program, tmp_path) -> None:
    command = [sys.executable, "-m", "scripts.dashboard", "experiment=esparse/zeroshot", f"paths.outputs={tmp_path}"]
    first = program(*command, **server.environment())
    assert first.returncode == 0, first.stderr
    report, workspace, file = first.stdout.splitlines()
    assert report.startswith(f"report: {server.url}/me/runner/reports/esparse-zeroshot--")
    assert workspace.startswith(f"esparse/zeroshot: {server.url}/me/runner?nw=")
    assert {view["type"] for view in server.views.values()} == {"runs", "project-view"}
    kept = json.loads(Path(file).read_text())
    sent = {view["type"]: json.loads(view["spec"]) for view in server.views.values()}
    (grid, *_) = (block for block in sent["runs"]["blocks"] if block["type"] == "panel-grid")
    assert grid["metadata"]["runSets"][0]["project"]["entityName"] == "me"
    (view,) = kept["workspaces"].values()
    names = [part["name"] for part in view["spec"]["section"]["panelBankConfig"]["sections"]]
    assert [part["name"] for part in sent["project-view"]["section"]["panelBankConfig"]["sections"]] == names
    before = {key: view["spec"] for key, view in server.views.items()}
    again = program(*command, **server.environment())
    assert again.stdout == first.stdout
    assert before.keys() == server.views.keys()
    server.views.clear()  # as if they were deleted there
    assert program(*command, **server.environment()).returncode == 0
    assert len(server.views) == 2


@pytest.mark.slow
def test_the_chart_of_a_table_is_sent_with_the_dashboard(server, program, offline_run) -> None:
    command = [sys.executable, "-m", "scripts.dashboard", "experiment=graphnorm/table1", *NARROW]
    sent = program(*command, f"paths.outputs={offline_run}", **server.environment())
    assert sent.returncode == 0, sent.stderr
    (panel,) = workspace_of(json.loads(Path(sent.stdout.splitlines()[-1]).read_text()))[0]["table as a chart"]
    (key,) = panel["config"]["mediaKeys"]
    (figure,) = server.runs.values()
    summary = json.loads(figure["files"]["wandb-summary.json"][0])
    assert summary[key]["_type"] == "image-file"
    assert summary[key]["path"].startswith(f"media/images/{key}")


@pytest.mark.slow
def test_what_keeps_a_dashboard_from_being_sent_is_told(server, program, tmp_path) -> None:
    command = [sys.executable, "-m", "scripts.dashboard", "experiment=esparse/zeroshot", f"paths.outputs={tmp_path}"]
    key = server.environment()
    for more, environment, words in (
        ([], {}, "There is no key for"),
        ([], key | {"WANDB_BASE_URL": "http://127.0.0.1:9"}, "http://127.0.0.1:9 cannot be reached from here"),
        (["project=none"], key, "project 'me/none' not found"),
    ):
        process = program(*command, *more, **environment)
        assert process.returncode == 2
        assert words in process.stderr
        assert "dry=true" in process.stderr
        assert "Traceback" not in process.stderr
        assert not list(tmp_path.iterdir())
    dry = program(*command, "dry=true")
    assert dry.returncode == 0
    (path,) = dry.stdout.splitlines()
    assert path == str(tmp_path / "dashboards" / "esparse" / "zeroshot.json")
    assert {"workspaces", "report"} < json.loads(Path(path).read_text()).keys()


@pytest.mark.slow
def test_which_tables() -> None:
    assert choose_tables("graphnorm") == ["graphnorm/table1", "graphnorm/table1_fair", "graphnorm/table1_molhiv"]
    assert choose_tables("esparse/stories,graphnorm/table1") == ["esparse/stories", "graphnorm/table1"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "name the tables"),
        (("experiment=graphnorm/figure4",), "graphnorm/figure4 has no table; choose from "),
        (("experiment=esparse/opt", "dry=yes"), "dry=yes is unknown; choose from true, false"),
        (("experiment=esparse/opt", "method.nope=1", "dry=true"), "method.nope"),
    ],
)
def test_mistakes_are_told(monkeypatch, capsys, arguments, words) -> None:
    from scripts import dashboard

    monkeypatch.setattr(sys, "argv", ["dashboard", *arguments])
    with pytest.raises(SystemExit) as ended:
        dashboard.main()
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_experiments_of_other_folders_are_found(tmp_path, monkeypatch, capsys) -> None:
    from scripts import dashboard

    folder = tmp_path / "conf" / "experiment" / "mine"
    folder.mkdir(parents=True)
    for name, node in (
        ("table", "{title: My table, rows: method.lr, metric: test/acc, reduce: mean_std}"),
        ("plain", ""),
    ):
        table = f"table: {node}\n" if node else ""
        (folder / f"{name}.yaml").write_text(
            "# @package _global_\n# mine\ndefaults:\n  - override /method: graphnorm\n  - override /dataset: atlas\n"
            f'hydra: {{sweeper: {{params: {{seed: range(2), method.lr: "0.01,0.1"}}}}}}\n{table}'
        )
    search = f"hydra.searchpath=[{tmp_path / 'conf'}]"
    assert choose_tables("mine", [search]) == ["mine/table"]
    arguments = ["dashboard", search, "dry=true", f"paths.outputs={tmp_path}"]
    monkeypatch.setattr(sys, "argv", [*arguments, "experiment=mine/table"])
    dashboard.main()
    (path,) = capsys.readouterr().out.splitlines()
    panels, _ = workspace_of(json.loads(Path(path).read_text()))
    assert next(iter(panels)) == "My table"
    monkeypatch.setattr(sys, "argv", [*arguments, "experiment=mine/plain"])
    with pytest.raises(SystemExit):
        dashboard.main()
    assert "experiment=mine/plain has no table; choose from" in capsys.readouterr().err
