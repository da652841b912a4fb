"""Files of published data sets: found under the data folder, else fetched from their official address."""

from __future__ import annotations

import gzip
import hashlib
import logging
import os
import shutil
import stat
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path

from filelock import FileLock

log = logging.getLogger(__name__)

# What reading a damaged archive raises.
UNREADABLE_ZIP = (zipfile.BadZipFile, zlib.error, EOFError)
UNREADABLE_TAR = (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError)


class MissingData(FileNotFoundError):
    """Data that is neither on disk nor to be had over the network; the message says which file goes where."""


class CorruptData(ValueError):
    """A file that is there but is not what it should be; the message names it and the difference."""


def first_existing(*candidates: Path) -> Path | None:
    """The first of the paths that exists."""
    return next((path for path in candidates if path.exists()), None)


def cache_folder(root: Path, below: str) -> Path:
    """Where to keep what is made of data: `below` the data folder where that may be written to, else the user's cache.

    Root, who may always write, leaves a read-only folder alone too.
    """
    writable = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
    if os.access(root, os.W_OK) and root.stat().st_mode & writable:
        return root / below
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "paper-runner" / below


def fetch(url: str, target: Path, sha256: str | None = None, timeout: float = 20.0, *, md5: str | None = None) -> Path:
    """Downloads to a temporary file beside `target`, checks it, renames it; a half download goes on where it stopped.

    Several processes may ask at once: one downloads, the others wait. A file that is there is taken as it is.
    Raises OSError where the network or the server fails, CorruptData where the checksum differs.
    """
    if target.exists():
        return target
    with alone_at(target):
        if target.exists():
            return target
        part = target.with_name(target.name + ".part")
        _download(url, part, timeout)
        for algorithm, expected in {"sha256": sha256, "md5": md5}.items():
            if expected and (found := _digest(part, algorithm)) != expected:
                part.unlink()
                raise CorruptData(
                    f"{url} has {algorithm} {found}, expected {expected}; the download for {target} was thrown away"
                )
        os.replace(part, target)
    return target


@contextmanager
def alone_at(target: Path) -> Iterator[None]:
    """One process at a time may make `target`. Makes its folder; leaves neither a lock nor an empty folder behind."""
    made = [folder for folder in target.parents if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = Path(f"{target}.lock")
    try:
        with FileLock(lock):
            try:
                yield
            finally:
                with suppress(OSError):
                    lock.unlink()  # still held: whoever waits for it sees that it is gone, and makes a new one
    finally:
        with suppress(OSError):
            for folder in made:
                folder.rmdir()


def _download(url: str, part: Path, timeout: float) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":  # whole: it died just before its rename
            return
        part.unlink()  # longer than the file: not the beginning of it
        return _download(url, part, timeout)
    with response:
        expected = response.headers.get("Content-Length")
        log.info("downloading %s (%s bytes)", url, expected or "unknown")
        with open(part, "ab" if response.status == 206 else "wb") as out:
            start = out.tell()
            try:
                shutil.copyfileobj(response, out, 1 << 20)
            except HTTPException as error:
                raise ConnectionError(f"{url} broke off ({error}); ask again to go on") from error
            if expected is not None and out.tell() - start != int(expected):
                raise ConnectionError(f"{url} broke off; ask again to go on")


def check_sum(path: Path, algorithm: str, expected: str) -> None:
    """Raises CorruptData where the file has another checksum; algorithm: `sha256`, `md5`."""
    if (found := _digest(path, algorithm)) != expected:
        raise CorruptData(
            f"{path} has {algorithm} {found}, expected {expected}: "
            "it is damaged or another file; remove it to get it anew"
        )


def _digest(path: Path, algorithm: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def unzip(archive: Path, folder: Path, inner: str = "") -> None:
    """Unpacks into `folder`, which appears whole or not at all; done already where it is there.

    inner: which folder of the archive becomes `folder`, the rest being left out. Default: all of it.
    Raises CorruptData for a damaged archive, and for one with a member outside its folder.
    """

    def extract(temporary: Path) -> None:
        with zipfile.ZipFile(archive) as file:
            for name in file.namelist():
                _check_inside(name, archive, temporary)
            file.extractall(temporary)

    _unpack(archive, folder, inner, extract, "zip", UNREADABLE_ZIP)


def untar(archive: Path, folder: Path, inner: str = "") -> None:
    """As `unzip`, for a tar file, compressed or not. One that holds links or devices is refused too."""

    def extract(temporary: Path) -> None:
        with tarfile.open(archive) as file:
            file.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
            for member in file:
                _check_inside(member.name, archive, temporary)
                if not member.isfile() and not member.isdir():
                    raise CorruptData(f"{archive} has a member that is neither a file nor a folder: {member.name}")
                file.extract(member, temporary)

    _unpack(archive, folder, inner, extract, "tar", UNREADABLE_TAR)


def _check_inside(name: str, archive: Path, folder: Path) -> None:
    if not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise CorruptData(f"{archive} has a member outside its folder: {name}")


def _unpack(
    archive: Path,
    folder: Path,
    inner: str,
    extract: Callable[[Path], None],
    kind: str,
    unreadable: tuple[type[Exception], ...],
) -> None:
    if folder.exists():
        return
    with alone_at(folder):
        if folder.exists():
            return
        temporary = folder.with_name(folder.name + ".part")
        shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
        try:
            extract(temporary)
            if not (temporary / inner).is_dir():
                raise CorruptData(f"{archive} has no folder {inner}" if inner else f"{archive} is empty")
            os.replace(temporary / inner, folder)
        except unreadable as error:
            raise CorruptData(f"{archive} is no whole {kind} file ({error}); remove it to get it anew") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def missing(what: str, wanted: list[Path], url: str | None, root: Path, reason: object = None) -> MissingData:
    """The message for data that is not there."""
    places = "\n".join(f"  {path.absolute()}" for path in wanted)
    tried = f"\nDownloading {url} failed: {reason}" if reason else ""
    source = f" (from {url})" if url else ""
    return MissingData(
        f"{what} is not under the data folder {root.absolute()}.{tried}\nPut it at one of{source}:\n{places}\n"
        "or name another data folder: RUNNER_DATA=<folder>, or paths.data=<folder>"
    )
