"""Report on folders as runs leave them, and its page in a browser."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from runner.config.address import Run
from runner.execution import record
from runner.files import write_json
from runner.results.renderers import render
from runner.results.table_model import Cell, Table
from scripts.report import tables as report_tables
from scripts.report.__main__ import main
from scripts.report.collect import collect, read_curves
from scripts.report.page import page
from scripts.report.tables import tables

EVIL = "<script>document.title = 'taken over'</script>"
EXPERIMENT = "graphnorm/table1_molhiv"


def finish(outputs: Path, value: float, *overrides: str) -> Run:
    """Write the files of a finished run of the experiment: result.json, metrics.csv and two figures."""
    import matplotlib.pyplot as plt

    run = Run.compose([f"experiment={EXPERIMENT}", f"paths.outputs={outputs}", *overrides])
    (run.folder / "figures").mkdir(parents=True)
    result = record.describe(run, {"test/auc": value, "test/loss": 1.0}, {"fit": 75.0, "test": 5.0}, 1, "cpu", {})
    write_json(run.folder / "result.json", result)
    lines = [f"{epoch},{2 * epoch + 2},{epoch / 2},{1 / (epoch + 1)},{epoch / 300}" for epoch in range(300)]
    (run.folder / "metrics.csv").write_text("\n".join(["epoch,step,seconds,train/loss,val/auc", *lines, ""]))
    figure = plt.figure(figsize=(2, 1))
    for name in ("curve_loss", "alpha"):
        figure.savefig(run.folder / "figures" / f"{name}.png")
    plt.close(figure)
    return run


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of three finished runs, a failed one, two damaged ones, and one with a script in its name."""
    outputs = tmp_path_factory.mktemp("outputs")
    for seed, value in ((1, 0.70), (2, 0.80), (3, 0.75)):
        run = finish(outputs, value, "model.norm=graph", f"seed={seed}")
    failed = run.folder.with_name("failed")
    failed.mkdir()
    record.write_state(failed, "failed", error=f"Diverged: the loss is nan\n{EVIL}")
    shutil.copytree(run.folder, run.folder.with_name("half"))
    half = (run.folder / "result.json").read_text()[:900]
    (run.folder.with_name("half") / "result.json").write_text(half)
    shutil.copytree(run.folder, run.folder.with_name("text"))
    (run.folder.with_name("text") / "metrics.csv").write_text("epoch,train/loss\n0,much\n")
    evil = outputs / "graphnorm" / f"{EVIL.replace('/', '_')}-mutag-gin" / "evil"
    evil.mkdir(parents=True)
    (evil / "state.json").write_text("[]")
    return outputs


def by_id(outputs: Path) -> dict[str, object]:
    return {found.folder.name: found for found in collect(outputs)}


def test_every_run_is_listed_as_it_stands(outputs):
    found = by_id(outputs)
    assert len(found) == 7
    finished = [r for r in found.values() if r.is_finished and r.folder.name != "text"]
    assert {(r.seed, r.metrics["test/auc"], r.seconds) for r in finished} == {(1, 0.7, 80), (2, 0.8, 80), (3, 0.75, 80)}
    assert {r.group for r in finished} == {("graphnorm/molhiv", "molhiv", "molgin")}
    assert (found["failed"].state, found["failed"].error.splitlines()[0]) == ("failed", "Diverged: the loss is nan")
    assert found["half"].state == "unreadable"
    assert "result.json is damaged" in found["half"].error
    assert found["evil"].state == "unreadable"


def test_a_run_of_other_code_is_stale(outputs, tmp_path):
    (source,) = [r.folder for r in collect(outputs) if r.seed == 2]
    folder = tmp_path.joinpath(*source.relative_to(outputs).parts)
    shutil.copytree(source, folder)
    result = json.loads((folder / "result.json").read_text())
    result["code"]["methods/graphnorm/norms.py"] = "other"
    write_json(folder / "result.json", result)
    assert [r.state for r in collect(tmp_path)] == ["stale"]


def test_settings_tell_runs_of_a_group_apart(tmp_path):
    for fold in (3, 4):
        finish(tmp_path, 0.5, "dataset=mutag", f"dataset.fold={fold}")
    assert sorted(tuple(r.settings.items()) for r in collect(tmp_path)) == [
        (("dataset.fold", "3"),),
        (("dataset.fold", "4"),),
    ]


def test_settings_tell_what_differs_between_methods_on_a_data_set(tmp_path):
    finish(tmp_path, 0.5, "method=graphnorm", "dataset=mutag", "schedule.max_epochs=5")
    finish(tmp_path, 0.5, "method=graphnorm/none", "dataset=mutag", "schedule.max_epochs=7")
    found = {r.method: r.settings for r in collect(tmp_path)}
    assert found["graphnorm"]["schedule.max_epochs"] == "5"
    assert found["graphnorm/none"]["schedule.max_epochs"] == "7"
    assert not any(key.startswith(("method.", "model.")) for settings in found.values() for key in settings)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"metrics": 3}', '{"choices": []}', "\0", "é"])
def test_damaged_results_are_unreadable(tmp_path, content):
    folder = tmp_path / "paper" / "a-b-c" / "id"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(content, encoding="latin-1")
    (found,) = collect(tmp_path)
    assert (found.state, found.folder) == ("unreadable", folder)
    assert found.error


@pytest.mark.parametrize("content", ["epoch,a\n0,x\n", "a/b\n1\n", "é"])
def test_damaged_curves_are_unreadable(outputs, tmp_path, content):
    (found,) = [r for r in collect(outputs) if r.seed == 2]
    found.folder = tmp_path
    (tmp_path / "metrics.csv").write_text(content, encoding="latin-1")
    assert read_curves(found, 10) == []
    assert (found.state, found.error[:22]) == ("unreadable", "metrics.csv is damaged")


def test_curves_are_thinned_without_losing_a_metric_or_the_last_row(outputs, tmp_path):
    (found,) = [r for r in collect(outputs) if r.seed == 2]
    found.folder = tmp_path
    rows = [f"{epoch},{epoch + 0.5},{epoch if epoch % 7 == 3 else ''}" for epoch in range(100)]
    torn = ["100,5,1,2", "100,5"]
    (tmp_path / "metrics.csv").write_text("\n".join(["epoch,train/loss,val/acc", *rows, *torn, ""]))
    thin = read_curves(found, 25)
    assert len(thin) == 25
    assert thin[-1]["train/loss"] == 99.5  # torn lines are left out
    assert [row["val/acc"] for row in thin if "val/acc" in row] == list(range(3, 100, 7))


def test_collecting_needs_no_torch():
    code = "import sys, scripts.report.collect; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["paths.output=x"], "paths.output: unknown"),
        (["paths.outputs=/nowhere"], "no folder /nowhere"),
        (["paths.outputs=.", "out=conf"], "conf is a folder"),
        (["paths.outputs=.", "out=README.md/report.html"], "cannot write README.md/report.html"),
    ],
)
def test_mistakes_end_in_one_message(arguments, message, capsys):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_writes_a_page_without_any_run(tmp_path, capsys):
    main([f"paths.outputs={tmp_path}", f"out={tmp_path / 'new' / 'page.html'}"])
    assert str(tmp_path / "new" / "page.html") in capsys.readouterr().out
    assert "There is no run yet." in (tmp_path / "new" / "page.html").read_text()


def test_a_table_says_what_ails_it():
    cells = {
        ("a", "b"): Cell({"finished": 2, "failed": 1}, 2, 90.04, 1.5, {"value": 91.0, "std": 2.0}),
        ("a", "c"): Cell({"missing": 3}),
        (EVIL, "b"): Cell(reported={"value": 5.0, "mark": "recalled"}),
    }
    html = render(Table("title", "source", ["a", EVIL], ["b", "c"], cells, ["note & more"]), "html")
    text = " ".join(html.replace("<", " <").split())
    assert "90.0" in text
    assert "± 1.5" in text
    assert "reported </span> 91.0 ± 2.0" in text
    assert "\N{MINUS SIGN}1.0" in text
    assert "2/3 runs" in text
    assert "1 failed" in text
    assert "0/3 runs" in text
    assert "5.0?" in text
    assert "note &amp; more" in text
    assert EVIL not in html


# ---- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator:
    playwright = pytest.importorskip("playwright.sync_api")
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        pytest.skip("no Chromium here (Debian: apt-get install chromium-headless-shell)")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def written(outputs) -> Path:
    out = outputs / "report.html"
    records = collect(outputs)
    out.write_text(page(outputs, out, records, list(tables(outputs, records))))
    return out


@pytest.fixture
def reader(browser, written) -> Iterator:
    """Yield the page in a browser, with a list of its errors and of requests for anything but the page."""
    context = browser.new_context(viewport={"width": 1300, "height": 900}, color_scheme="light")
    context.set_default_timeout(5000)
    opened = context.new_page()
    wrong: list[str] = []
    opened.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("request", lambda r: None if r.url.startswith(("data:", written.as_uri())) else wrong.append(r.url))
    opened.goto(written.as_uri())
    yield SimpleNamespace(page=opened, wrong=wrong)
    context.close()
    assert not wrong


def column(reader, name: str) -> list[str]:
    header = reader.page.locator("#list thead th").all_inner_texts()
    rows = reader.page.locator("#list tbody tr").all()
    return [row.locator("td").nth(header.index(name)).inner_text() for row in rows]


def test_a_reader_sees_the_table(reader):
    table = reader.page.get_by_role("table", name="GraphNorm, table 1 (right)")
    row = table.get_by_role("row").filter(has=reader.page.get_by_role("rowheader", name="GIN + GraphNorm"))
    shown = " ".join(row.get_by_role("cell").inner_text().split())
    assert shown == "75.0 ± 4.1 reported 77.7 ± 1.3 \N{MINUS SIGN}2.7 3/10 runs"
    assert table.get_by_role("row", name="GIN (OGB) reported 75.6 ± 1.4").is_visible()


def test_a_reader_sorts_and_searches(reader):
    assert reader.page.locator("#found").inner_text() == "7 of 7 runs"
    reader.page.get_by_role("searchbox").fill("molhiv seed=")
    assert set(column(reader, "test/auc")) == {"0.7", "0.75", "0.8"}
    button = reader.page.locator("#list").get_by_role("button", name="test/auc")
    button.click()
    ascending = column(reader, "test/auc")
    assert ascending == sorted(ascending)
    button.press("Enter")  # the focus stays on the button
    assert column(reader, "test/auc") == ascending[::-1]
    assert reader.page.locator("#list th[aria-sort=descending]").inner_text() == "test/auc"
    reader.page.get_by_role("searchbox").fill("unreadable")
    assert column(reader, "State") == ["unreadable"] * 3
    reader.page.get_by_role("button", name="1 failed").click()
    assert column(reader, "State") == ["failed"]


def test_a_reader_opens_a_run(reader):
    reader.page.get_by_role("searchbox").fill("seed=2")
    reader.page.locator("#list .open").first.press("Enter")
    detail = reader.page.locator("#list .detail")
    assert "test/loss 1" in detail.inner_text()
    assert (Path(reader.page.url.removeprefix("file://")).parent / detail.locator("a").first.inner_text()).is_dir()
    reader.page.locator("#list .open").first.press("Enter")
    assert not detail.is_visible()


def test_a_reader_compares_curves(reader):
    assert reader.page.locator("#plot path").count() > 1
    reader.page.get_by_role("button", name="Untick all").click()
    assert reader.page.locator("#plot path").count() == 0
    boxes = reader.page.locator("#list").get_by_role("checkbox")
    boxes.nth(0).check()
    boxes.nth(1).check()
    reader.page.get_by_label("Metric").select_option("val/auc")
    assert reader.page.locator("#plot path").count() == 2
    reader.page.get_by_label("logarithmic").check()
    reader.page.locator("#plot svg").hover(position={"x": 1000, "y": 100})
    assert " at " in reader.page.locator("#legend output").first.inner_text()
    reader.page.locator("#axis").select_option("seconds")
    assert reader.page.locator("#plot path").count() == 2


def test_a_reader_sees_the_figures(reader):
    images = reader.page.locator(".gallery img")
    assert images.count() == 1  # of the newest run of the group, without its learning curve
    images.first.scroll_into_view_if_needed()
    reader.page.wait_for_function("[...document.querySelectorAll('.gallery img')].every((i) => i.naturalWidth > 0)")
    reader.page.locator(".gallery button").click()
    assert reader.page.locator("dialog img").is_visible()
    reader.page.keyboard.press("Escape")
    assert not reader.page.locator("dialog").is_visible()


def test_a_reader_switches_the_theme(reader):
    def background() -> str:
        return reader.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")

    light = background()
    toggle = reader.page.get_by_role("button", name="Dark theme")
    toggle.click()
    dark = background()
    assert (light, toggle.get_attribute("aria-pressed")) == ("rgb(255, 255, 255)", "true")
    assert dark != light
    reader.page.reload()
    assert background() == dark
    reader.page.get_by_role("button", name="Dark theme").click()
    assert background() == light
    reader.page.evaluate("localStorage.clear()")
    reader.page.emulate_media(color_scheme="dark")
    reader.page.reload()
    assert background() == dark


def test_nothing_from_a_run_is_run(reader):
    assert reader.page.title().startswith("Runs in")
    problems = reader.page.locator("#problems")
    assert EVIL in problems.inner_text()
    assert "half" in problems.inner_text()
    reader.page.get_by_role("searchbox").fill("<script>")
    assert reader.page.locator("#found").inner_text() == "2 of 7 runs"
    assert reader.page.locator("script").count() == 2


def test_a_narrow_window_does_not_scroll_sideways(reader):
    reader.page.set_viewport_size({"width": 380, "height": 800})
    assert reader.page.evaluate("document.documentElement.scrollWidth") == 380


def test_a_table_alone_is_a_page(browser, tmp_path):
    cells = {("a", "b"): Cell({"finished": 3}, 3, 90.04, 1.5, {"value": 91.0})}
    (tmp_path / "table.html").write_text(render(Table("A title", "source", ["a"], ["b"], cells, ["a note"]), "html"))
    opened = browser.new_page()
    opened.goto((tmp_path / "table.html").as_uri())
    shown = opened.get_by_role("table", name="A title")
    assert shown.get_by_role("columnheader", name="b").is_visible()
    assert shown.get_by_role("cell", name="90.0 ± 1.5 reported 91.0 \N{MINUS SIGN}1.0 3 runs").is_visible()
    opened.close()


# ---- what the report composes


def test_only_the_experiments_of_finished_runs_are_composed(outputs, monkeypatch):
    composed = []
    compose = report_tables.compose
    monkeypatch.setattr(report_tables, "compose", lambda overrides: composed.append(overrides[0]) or compose(overrides))
    (shown,) = tables(outputs, collect(outputs))
    assert composed == [f"experiment={EXPERIMENT}"]
    assert (shown.experiment, shown.error) == (EXPERIMENT, "")
    assert shown.table.numerics[0][1] == 3  # the copies of runs are in folders of no address
    assert shown.table.numerics[0][0]["device"] == "cpu"


def test_numerics_are_shown(outputs):
    records = collect(outputs)
    html = page(outputs, outputs / "report.html", records, list(tables(outputs, records)))
    assert "device cpu, cpu " in html
    assert ", cpu capability" in html
    assert "<li>numerics of" in html
