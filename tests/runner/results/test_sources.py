"""Tables read from W&B's public API, with its real client and a server of this test."""

from __future__ import annotations

import csv
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from runner.config.address import Run
from runner.table import main

SETTINGS = ["method.lr=0.01", "method.weight_decay=0.0", "model.learn_eps=false"]  # in all grids of the table
BASE = ["experiment=graphnorm/table1", "dataset=atlas", "method=graphnorm", *SETTINGS]
EXPERIMENT = [*BASE, "dataset.fold=range(6)"]
IDS = [Run.compose([*BASE, f"dataset.fold={fold}"]).id for fold in range(6)]


class Server:
    """Server of a project's runs: W&B's fields of each run, and rows of its history, by id."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.histories: dict[str, list[dict[str, Any]]] = {}
        self.asked: list[dict[str, Any]] = []  # the variables of every query

    def add(self, run: str, state: str, summary: dict[str, Any], history: list[dict[str, Any]] | None = None) -> None:
        self.histories[run] = history or []
        fields = {"name": run, "state": state, "summaryMetrics": json.dumps(summary), "historyLineCount": 3}
        user = {"name": "me", "username": "me"}
        self.runs[run] = {"projectId": "1", "config": "{}", "systemMetrics": "{}", "user": user} | fields

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(variables)
        if "viewer" in query:
            viewer = {"id": "u", "entity": "lab", "username": "me", "email": "", "flags": "{}", "teams": {"edges": []}}
            return {"viewer": viewer}
        if variables["project"] != "papers":
            return {"project": None}
        if "sampledHistory" in query:
            keys = json.loads(variables["specs"][0])["keys"]
            rows = [row for row in self.histories[variables["name"]] if all(key in row for key in keys)]
            return {"project": {"run": {"sampledHistory": [[{key: row[key] for key in keys} for row in rows]]}}}
        wanted = json.loads(variables["filters"])["name"]["$in"]
        edges = [{"node": self.runs[run], "cursor": run} for run in wanted if run in self.runs]
        page = {"endCursor": None, "hasNextPage": False}
        return {"project": {"internalId": "1", "runCount": len(edges), "runs": {"edges": edges, "pageInfo": page}}}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    served = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked = json.loads(body) if self.path == "/graphql" else None
            data = served.answer(asked["query"], asked.get("variables") or {}) if asked else {}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"data": data}).encode())

        def log_message(self, *_: Any) -> None: ...

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{http.server_port}")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    yield served
    http.shutdown()
    http.server_close()


def cells(capsys, *more: str) -> list[dict[str, str]]:
    main([*EXPERIMENT, "source=wandb:lab/papers", "format=csv", *more])
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def test_states_and_final_metrics(server, capsys) -> None:
    figure = {"_type": "image-file", "path": "media/a.png"}
    server.add(IDS[0], "finished", {"test/acc": 0.5, "figures/a": figure, "_runtime": 9})
    server.add(IDS[1], "finished", {"test/acc": 0.75})
    for run, state in zip(IDS[2:5], ("failed", "running", "crashed"), strict=True):
        server.add(run, state, {"test/acc": 0.1})
    server.add("another", "finished", {"test/acc": 0.0})
    (cell,) = cells(capsys, "table.metric=test/acc", "table.reduce=mean_std")
    states = ("finished", "stale", "failed", "running", "interrupted", "missing")
    assert [int(cell[state]) for state in states] == [2, 0, 1, 1, 1, 1]
    assert float(cell["value"]) == 62.5
    assert float(cell["deviation"]) == pytest.approx(12.5 * 2**0.5)
    asked = server.asked[-1]
    assert (asked["entity"], asked["project"]) == ("lab", "papers")
    assert json.loads(asked["filters"]) == {"name": {"$in": IDS}}  # no history was asked for


def test_epochs_come_from_the_history(server, capsys) -> None:
    def rows(*epochs: tuple[int, float]) -> list[dict[str, Any]]:
        values = [{"_step": 2 * i + 1, "epoch": epoch, "val/acc": value} for i, (epoch, value) in enumerate(epochs)]
        return [*values, {"_step": 0, "epoch": 0, "train/acc": 0.9}]

    server.add(IDS[0], "finished", {}, rows((0, 0.5), (1, 0.9), (2, 0.8)))
    repeated = rows((0, 0.5), (1, 0.0), (1, 0.7), (2, 0.6))  # resumed in epoch 1
    server.add(IDS[1], "finished", {}, repeated[::-1])
    server.add(IDS[2], "running", {}, rows((0, 0.0)))
    (cell,) = cells(capsys, "significance=graphnorm")
    assert float(cell["value"]) == pytest.approx(100 * (0.9 + 0.7) / 2)
    assert cell["n"] == "2"
    assert sorted(asked["name"] for asked in server.asked if "specs" in asked) == sorted(IDS[:2])

    server.histories[IDS[0]] = rows((0, 0.5), (2, 0.8))  # thinned out
    with pytest.raises(SystemExit):
        cells(capsys)
    assert f"only 2 epochs of val/acc of run {IDS[0]}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variables", "source", "message"),
    [
        ({"WANDB_API_KEY": "", "NETRC": "/dev/null"}, "wandb:lab/papers", "needs a key: `wandb login`"),
        ({}, "wandb:lab/nothing", "cannot read lab/nothing from W&B"),
        pytest.param(
            {"WANDB_BASE_URL": "http://127.0.0.1:9"}, "wandb:lab/papers", "http://127.0.0.1:9", marks=pytest.mark.slow
        ),  # the client tries for a while
        ({}, "wandb:papers", "choose from outputs, wandb:<entity>/<project>"),
        ({}, "mlflow", "source=mlflow is unknown"),
    ],
)
def test_mistakes_end_in_one_message(variables, source, message, server, monkeypatch, capsys) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as end:
        main([*EXPERIMENT, f"source={source}"])
    assert end.value.code == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert not printed.out
