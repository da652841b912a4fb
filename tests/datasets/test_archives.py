"""Unpacking of archives: whole, damaged, encrypted, and with members outside."""

from __future__ import annotations

import errno
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from datasets.download import CorruptData, untar, unzip


def files(folder: Path) -> set[str]:
    """Everything below the folder, folders included."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


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
