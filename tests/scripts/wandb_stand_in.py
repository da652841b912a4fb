"""W&B server for tests: W&B's own client uploads runs to it, and saves reports and workspaces.

It answers the requests of wandb 0.31 and wandb-workspaces 0.4, and stores what it receives.
"""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ME = {"id": "RQ==", "name": "me"}


class WandbStandIn(ThreadingHTTPServer):
    """Server with uploaded `runs` and saved `views` (reports, workspaces) by id; `refuses` holds ids it refuses."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.projects = {"runner"}
        self.runs: dict[str, dict[str, Any]] = {}
        self.views: dict[str, dict[str, Any]] = {}
        self.refuses: set[str] = set()
        self.requests = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_: Any) -> None:
        """Ignore errors: the client leaves connections open when it ends."""

    def environment(self) -> dict[str, str]:
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": 40 * "a", "WANDB_SILENT": "true"}

    def history(self, run: str) -> list[dict[str, Any]]:
        return [json.loads(line) for _, line in sorted(self.runs[run]["files"].get("wandb-history.jsonl", {}).items())]

    def answer(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        """Answer a GraphQL document, recognised by a word of it."""
        kinds: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "viewer {": lambda _: {
                "viewer": ME | {"entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}
            },
            "RunResumeStatus": self.resume_status,
            "upsertBucket": self.upsert_run,
            "createRunFiles": self.upload_places,
            "upsertView": self.upsert_view,
            "ProjectInternalId": self.project_id,
            "SpecificReport": lambda v: {"view": self.views.get(v["reportId"])},
            "allViews": self.views_named,
            "models(": self.all_projects,
        }
        return next((act(given) for word, act in kinds.items() if word in query), {})

    def resume_status(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(given["name"])
        bucket = None
        if run:
            lines = {kind: run["files"].get(f"wandb-{kind}.jsonl", {}) for kind in ("history", "events")}
            tails = {
                f"{kind}Tail": json.dumps([line for _, line in sorted(of.items())][-1:]) for kind, of in lines.items()
            }
            counts = {f"{kind}LineCount": len(of) for kind, of in lines.items()}
            summary = run["files"].get("wandb-summary.json", {}).get(0, "{}")
            bucket = {
                "id": "x",
                "name": given["name"],
                "displayName": "",
                "config": run["config"],
                "tags": [],
                "notes": "",
            }
            bucket |= {"summaryMetrics": summary, "wandbConfig": '{"t": 1}', "logLineCount": 0} | tails | counts
        return {"model": {"id": "m", "name": given["project"], "entity": ME, "bucket": bucket}}

    def upsert_run(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.setdefault(given["name"], {"files": {}, "config": "{}", "group": given["groupName"]})
        run["config"] = given["config"] or run["config"]
        project = {"id": "p", "name": given["project"], "entity": ME}
        bucket = {"id": "x", "name": given["name"], "displayName": "", "description": "", "config": run["config"]}
        return {"upsertBucket": {"bucket": bucket | {"sweepName": None, "project": project}, "inserted": True}}

    def upload_places(self, given: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in given["files"]]
        return {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": files}}

    def upsert_view(self, given: dict[str, Any]) -> dict[str, Any]:
        known = given.get("id") in self.views
        view = {key: given.get(key) for key in ("id", "name", "type", "displayName", "description", "spec")}
        view["id"] = given["id"] if known else f"Vmlldzo{len(self.views)}"
        view |= {"project": {"id": "p", "name": given["projectName"], "entityName": given["entityName"]}}
        self.views[view["id"]] = view
        return {"upsertView": {"view": view, "inserted": not known}}

    def project_id(self, given: dict[str, Any]) -> dict[str, Any]:
        known = given["projectName"] in self.projects
        return {"project": {"id": "p", "internalId": "UHJvag==", "name": given["projectName"]} if known else None}

    def views_named(self, given: dict[str, Any]) -> dict[str, Any]:
        nodes = [{"node": view} for view in self.views.values() if view["name"] == given["viewName"]]
        return {"project": {"allViews": {"edges": nodes}}}

    def all_projects(self, given: dict[str, Any]) -> dict[str, Any]:
        more = {"entityName": "me", "createdAt": "2026-01-01T00:00:00Z", "isBenchmark": False, "user": None}
        nodes = [{"node": {"id": "p", "name": name} | more} for name in self.projects]
        return {"models": {"edges": nodes, "pageInfo": {"endCursor": None, "hasNextPage": False}}}

    def stream(self, run: str, content: dict[str, Any]) -> None:
        for name, chunk in (content.get("files") or {}).items():
            lines = self.runs[run]["files"].setdefault(name, {})
            lines |= {chunk["offset"] + i: line for i, line in enumerate(chunk["content"])}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandbStandIn

    def log_message(self, *_: Any) -> None: ...

    def do_POST(self) -> None:
        self.server.requests += 1
        content = json.loads(self.body())
        if self.path != "/graphql":  # /files/<entity>/<project>/<run>/file_stream
            self.server.stream(self.path.split("/")[-2], content)
            return self.reply({})
        given = content.get("variables") or {}
        if given.get("name") in self.server.refuses:
            return self.reply({"errors": [{"message": "refused"}]}, 400)
        self.reply({"data": self.server.answer(content["query"], given)})

    def do_PUT(self) -> None:
        self.body()
        self.reply({})

    do_HEAD = do_GET = do_PUT

    def body(self) -> bytes:
        content = self.rfile.read(int(self.headers.get("content-length") or 0))
        return gzip.decompress(content) if self.headers.get("content-encoding") == "gzip" else content

    def reply(self, answer: dict[str, Any], status: int = 200) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
