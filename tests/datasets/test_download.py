"""Downloads against a real server that breaks off, lies and stalls."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from datasets.download import CorruptData, MissingData, check_sum, fetch, first_existing, missing

CONTENT = bytes(range(256)) * 40_000  # 10 MB: more than one buffer


@dataclass
class Server:
    """Serves CONTENT at every path but /absent. cuts: after how many bytes each of the next answers closes."""

    url: str = ""
    ranges: bool = True
    chunked: bool = False
    wait: float = 0.0
    cuts: list[int] = field(default_factory=list)
    asked: list[str | None] = field(default_factory=list)  # the Range header of every request


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.asked.append(wanted)
            self.close_connection = True
            time.sleep(state.wait)
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and state.ranges else 0
            if self.path == "/absent":
                self.send_error(404)
                return
            if start >= len(CONTENT):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = CONTENT[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
            if state.chunked:
                self.send_header("Transfer-Encoding", "chunked")
            else:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if state.chunked:
                self.wfile.write(b"%x\r\n" % len(body))
            self.wfile.write(body[: state.cuts.pop(0)] if state.cuts else body)
            if state.chunked and not state.cuts:
                self.wfile.write(b"\r\n0\r\n\r\n")

        def log_message(self, *_) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=[0.02])
        thread.start()
        state.url = f"http://127.0.0.1:{http.server_port}/file.zip"
        yield state
        http.shutdown()
        thread.join()


def files(folder: Path) -> set[str]:
    """Everything below the folder, folders included."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_download_leaves_the_file_alone(server, tmp_path):
    target = tmp_path / "sets" / "a" / "file.zip"
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert fetch(server.url, target, sha256=digest) == target
    assert target.read_bytes() == CONTENT
    assert files(tmp_path) == {"sets", "sets/a", "sets/a/file.zip"}


def test_what_is_there_is_not_asked_for(server, tmp_path):
    target = tmp_path / "file.zip"
    target.write_bytes(b"here")
    tmp_path.chmod(0o500)  # and its folder may be read-only
    try:
        assert fetch(server.url, target).read_bytes() == b"here"
    finally:
        tmp_path.chmod(0o700)
    assert server.asked == []


def test_a_broken_download_never_counts_and_goes_on(server, tmp_path):
    target = tmp_path / "file.zip"
    server.cuts = [3_000_000, 2_000_000]
    for _ in range(2):
        with pytest.raises(OSError, match="broke off"):
            fetch(server.url, target)
        assert files(tmp_path) == {"file.zip.part"}
    assert fetch(server.url, target).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=3000000-", "bytes=5000000-"]
    assert files(tmp_path) == {"file.zip"}


def test_a_broken_download_starts_anew_where_the_server_cannot_go_on(server, tmp_path):
    server.ranges, server.cuts = False, [3_000_000]
    with pytest.raises(OSError, match="broke off"):
        fetch(server.url, tmp_path / "file.zip")
    assert fetch(server.url, tmp_path / "file.zip").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=3000000-"]


def test_a_broken_download_of_unknown_length(server, tmp_path):
    server.chunked, server.cuts = True, [3_000_000, 0]
    with pytest.raises(OSError, match="broke off"):
        fetch(server.url, tmp_path / "file.zip")
    assert not (tmp_path / "file.zip").exists()
    server.chunked, server.cuts = False, []
    assert fetch(server.url, tmp_path / "file.zip").read_bytes() == CONTENT


@pytest.mark.parametrize("part", [CONTENT, CONTENT + b"more"], ids=["whole", "longer"])
def test_a_part_as_long_as_the_file(server, tmp_path, part):
    (tmp_path / "file.zip.part").write_bytes(part)
    assert fetch(server.url, tmp_path / "file.zip").read_bytes() == CONTENT
    assert len(server.asked) == (1 if part == CONTENT else 2)


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_a_wrong_checksum_throws_the_download_away(server, tmp_path, algorithm):
    target, found = tmp_path / "sets" / "file.zip", hashlib.new(algorithm, CONTENT).hexdigest()
    with pytest.raises(CorruptData) as error:
        fetch(server.url, target, **{algorithm: "0" * 64})
    for part in (server.url, str(target), f"{algorithm} {found}", "0" * 64):
        assert part in str(error.value)
    assert files(tmp_path) == set()
    assert fetch(server.url, target, **{algorithm: found}).read_bytes() == CONTENT


def test_check_sum(tmp_path):
    path = tmp_path / "file.zip"
    path.write_bytes(b"abc")
    check_sum(path, "md5", "900150983cd24fb0d6963f7d28e17f72")  # RFC 1321
    with pytest.raises(CorruptData, match=r"file\.zip has sha256 ba7816bf.*, expected 00"):
        check_sum(path, "sha256", "00")


def test_without_network_nothing_stays_behind(server, tmp_path):
    for url in ("http://127.0.0.1:9/file.zip", server.url.replace("file.zip", "absent")):
        with pytest.raises(OSError, match=r"refused|404"):
            fetch(url, tmp_path / "sets" / "a" / "file.zip")
        assert files(tmp_path) == set()


def test_a_stalled_server_ends_in_an_error(server, tmp_path):
    server.wait = 1.0
    with pytest.raises(OSError, match="timed out"):
        fetch(server.url, tmp_path / "file.zip", timeout=0.1)
    assert files(tmp_path) == set()


def test_a_server_that_never_answers_costs_the_connect_timeout_alone(server, tmp_path):
    server.wait, started = 2.0, time.monotonic()
    with pytest.raises(OSError, match=r"timed out: no answer within 0\.2 s"):
        fetch(server.url, tmp_path / "file.zip", timeout=60, connect_timeout=0.2)
    assert time.monotonic() - started < 1.5
    assert files(tmp_path) == set()


@pytest.mark.parametrize("value", ["1", "true", "ON"])
def test_offline_nothing_is_asked_for(server, tmp_path, monkeypatch, value):
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    with pytest.raises(OSError, match="HF_HUB_OFFLINE is set"):
        fetch(server.url, tmp_path / "sets" / "file.zip")
    assert server.asked == []
    assert files(tmp_path) == set()
    (tmp_path / "file.zip").write_bytes(b"here")
    assert fetch(server.url, tmp_path / "file.zip").read_bytes() == b"here"
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert fetch(server.url, tmp_path / "other.zip").read_bytes() == CONTENT


def test_of_several_that_ask_one_downloads(server, tmp_path):
    target, found = tmp_path / "sets" / "file.zip", []
    server.wait = 0.3
    threads = [threading.Thread(target=lambda: found.append(fetch(server.url, target).read_bytes())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [CONTENT] * 4
    assert server.asked == [None]
    assert files(tmp_path) == {"sets", "sets/file.zip"}


def test_of_several_that_ask_the_next_tries_after_a_failure(server, tmp_path):
    target, outcomes = tmp_path / "file.zip", []
    server.wait, server.cuts = 0.2, [1_000_000]

    def ask() -> None:
        try:
            outcomes.append(fetch(server.url, target).read_bytes() == CONTENT)
        except OSError as error:
            outcomes.append(type(error))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes, key=str) == [ConnectionError, True, True]
    assert server.asked == [None, "bytes=1000000-"]
    assert files(tmp_path) == {"file.zip"}


def test_missing_says_which_file_goes_where(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = Path("data")
    error = missing("MUTAG", [root / "a.txt", root / "b.txt"], "http://host/a.zip", root, "no route to host")
    assert isinstance(error, MissingData)
    for part in ("MUTAG", f"{tmp_path}/data/a.txt", f"{tmp_path}/data/b.txt", "http://host/a.zip", "no route to host"):
        assert part in str(error)
    assert "RUNNER_DATA" in str(error)


def test_first_existing(tmp_path):
    (tmp_path / "b").touch()
    assert first_existing(tmp_path / "a", tmp_path / "b", tmp_path) == tmp_path / "b"
    assert first_existing(tmp_path / "a") is None
