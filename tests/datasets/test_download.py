"""Downloads and unpacking against a real server that breaks off, lies and stalls."""

from __future__ import annotations

import errno
import hashlib
import io
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from datasets.download import CorruptData, MissingData, check_sum, fetch, first_existing, missing, untar, unzip

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


def make_zip(path: Path, members: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def test_unzip(tmp_path):
    archive = make_zip(tmp_path / "a.zip", {"A/x.txt": "x", "A/b/y.txt": "y"})
    unzip(archive, tmp_path / "out")
    assert files(tmp_path / "out") == {"A", "A/x.txt", "A/b", "A/b/y.txt"}
    assert files(tmp_path) == {"a.zip", "out"} | {f"out/{name}" for name in files(tmp_path / "out")}
    archive.unlink()
    unzip(archive, tmp_path / "out")  # done already


@pytest.mark.parametrize("unpack", [unzip, untar])
@pytest.mark.parametrize("name", ["../evil.txt", "A/../../evil.txt", "/tmp/evil-member.txt"])
def test_members_outside_are_refused(tmp_path, unpack, name):
    make = make_zip if unpack is unzip else make_tar
    archive = make(tmp_path / "archive", {"A/x.txt": "x", name: "evil"})
    with pytest.raises(CorruptData, match="outside its folder") as error:
        unpack(archive, tmp_path / "in" / "out")
    assert str(archive) in str(error.value)
    assert name in str(error.value)
    assert files(tmp_path) == {"archive"}
    assert not Path("/tmp/evil-member.txt").exists()


def damaged(archive: Path) -> bytes:
    """One byte of the compressed content is another."""
    content = bytearray(archive.read_bytes())
    content[60] ^= 0xFF
    return bytes(content)


@pytest.mark.parametrize(
    "damage", [lambda _: b"<html>404</html>", lambda a: a.read_bytes()[:-30], damaged], ids=["html", "cut", "flipped"]
)
def test_unzip_names_a_damaged_archive(tmp_path, damage):
    archive = make_zip(tmp_path / "a.zip", {"x.txt": "some text " * 1000})
    archive.write_bytes(damage(archive))
    with pytest.raises(CorruptData, match=str(archive)):
        unzip(archive, tmp_path / "out")
    assert files(tmp_path) == {"a.zip"}


def patched(archive: Path, offsets: dict[bytes, int], value: int) -> Path:
    """Overwrite a byte of every local and central header of a zip file, at an offset from each header's signature."""
    content = bytearray(archive.read_bytes())
    for signature, offset in offsets.items():
        at = content.find(signature)
        while at >= 0:
            content[at + offset] = value
            at = content.find(signature, at + 1)
    archive.write_bytes(content)
    return archive


FLAGS, METHOD = {b"PK\3\4": 6, b"PK\1\2": 8}, {b"PK\3\4": 8, b"PK\1\2": 10}  # APPNOTE.TXT, sections 4.3.7, 4.3.12


@pytest.mark.parametrize(
    ("offsets", "value", "said"),
    [(FLAGS, 1, "is encrypted: unpack it by hand"), (METHOD, 99, "cannot|can be unpacked")],
)
def test_unzip_names_an_encrypted_archive_and_an_unknown_compression(tmp_path, offsets, value, said):
    archive = patched(make_zip(tmp_path / "a.zip", {"x.txt": "some text " * 100}), offsets, value)
    with pytest.raises(CorruptData, match=said) as error:
        unzip(archive, tmp_path / "out")
    assert str(archive) in str(error.value)
    assert files(tmp_path) == {"a.zip"}


@pytest.mark.parametrize("unpack", [unzip, untar])
@pytest.mark.parametrize("members", [{"A": "a file", "A/x.txt": "x"}, {"A/x.txt": "x", "A/" + "y" * 300: "y"}])
def test_members_that_no_disk_can_hold_are_named(tmp_path, unpack, members):
    make = make_zip if unpack is unzip else make_tar
    archive = make(tmp_path / "archive", members)
    with pytest.raises(CorruptData, match=str(archive)):
        unpack(archive, tmp_path / "out")
    assert files(tmp_path) == {"archive"}


def test_a_full_disk_is_no_damage_of_the_archive(tmp_path, monkeypatch):
    archive = make_zip(tmp_path / "a.zip", {"x.txt": "x"})

    def full(*_) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "extractall", full)
    with pytest.raises(OSError, match="No space left"):
        unzip(archive, tmp_path / "out")


def test_unzip_cleans_up_after_a_killed_process(tmp_path):
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part" / "half.txt").write_text("ha")
    unzip(make_zip(tmp_path / "a.zip", {"x.txt": "x"}), tmp_path / "out")
    assert files(tmp_path) == {"a.zip", "out", "out/x.txt"}


@pytest.mark.parametrize("unpack", [unzip, untar])
def test_one_folder_of_an_archive(tmp_path, unpack):
    make = make_zip if unpack is unzip else make_tar
    archive = make(tmp_path / "a", {"A/b/x.txt": "x", "A/y.txt": "y", "z.txt": "z"})
    unpack(archive, tmp_path / "sets" / "out", inner="A")
    assert files(tmp_path / "sets") == {"out", "out/b", "out/b/x.txt", "out/y.txt"}
    with pytest.raises(CorruptData, match=r"no folder B"):
        unpack(archive, tmp_path / "other", inner="B")
    assert not (tmp_path / "other").exists()
    with pytest.raises(CorruptData, match="is empty"):
        unpack(make(tmp_path / "b", {}), tmp_path / "other")


def make_tar(path: Path, members: dict[str, str | tarfile.TarInfo], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as file:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                file.addfile(content)
                continue
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content.encode()))
    return path


@pytest.mark.parametrize("mode", ["w:gz", "w", "w:bz2"])
def test_untar(tmp_path, mode):
    archive = make_tar(tmp_path / "a.tar", {"A/x.txt": "x", "A/b/y.txt": "y"}, mode)
    untar(archive, tmp_path / "out")
    assert (tmp_path / "out" / "A" / "b" / "y.txt").read_text() == "y"
    assert files(tmp_path) == {"a.tar", "out"} | {f"out/{name}" for name in ("A", "A/x.txt", "A/b", "A/b/y.txt")}
    archive.unlink()
    untar(archive, tmp_path / "out")  # done already


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
@pytest.mark.parametrize("target", ["../../evil", "x.txt"])
def test_untar_refuses_links_and_devices(tmp_path, kind, target):
    member = tarfile.TarInfo("A/link")
    member.type, member.linkname = kind, target
    archive = make_tar(tmp_path / "a.tar.gz", {"A/x.txt": "x", "A/link": member, "A/link/y.txt": "through it"})
    with pytest.raises(CorruptData, match="neither a file nor a folder: A/link"):
        untar(archive, tmp_path / "out")
    assert files(tmp_path) == {"a.tar.gz"}


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize(
    "damage", [lambda _: b"<html>404</html>", lambda a: a.read_bytes()[:-90], damaged], ids=["html", "cut", "flipped"]
)
def test_untar_names_a_damaged_archive(tmp_path, damage, mode):
    archive = make_tar(tmp_path / "a.tar.gz", {"x.txt": "some text " * 1000, "y.txt": "other text " * 1000}, mode)
    archive.write_bytes(damage(archive))
    with pytest.raises(CorruptData, match=str(archive)):
        untar(archive, tmp_path / "out")
    assert files(tmp_path) == {"a.tar.gz"}


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
