"""Files of published data sets: found below the data folder, or fetched from their official address."""

from __future__ import annotations

import errno
import gzip
import hashlib
import logging
import lzma
import os
import shutil
import stat
import struct
import tarfile
import threading
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

from filelock import FileLock

log = logging.getLogger(__name__)

# Exceptions that a damaged, encrypted or unsupported archive raises. zipfile raises RuntimeError for encrypted members
# and NotImplementedError, a RuntimeError, for unknown compression methods.
UNREADABLE_ZIP = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    struct.error,
    RuntimeError,
)
UNREADABLE_TAR = (tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError, struct.error)

# Reasons of an OSError that lie in the disk or its permissions, and not in the archive that is unpacked.
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EMFILE}

CONNECT_SECONDS = 10.0  # longest wait for a server's answer, name lookup included
READ_SECONDS = 20.0  # longest silence in the middle of a download


class MissingData(FileNotFoundError):
    """Data that is neither on disk nor available over the network; the message says which file to put where."""


class CorruptData(ValueError):
    """A file with unexpected content; the message names the file and the difference."""


def first_existing(*candidates: Path) -> Path | None:
    """Return the first of the paths that exists, or None."""
    return next((path for path in candidates if path.exists()), None)


def cache_folder(root: Path, below: str) -> Path:
    """Return the folder for files computed from data: below the data folder if that is writable, else the user's cache.

    A data folder without write permission bits is left alone even by root, who could write to it.

    Args:
        root: data folder.
        below: path of the folder, relative to `root` or to the cache.
    """
    writable = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
    if os.access(root, os.W_OK) and root.stat().st_mode & writable:
        return root / below
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "paper-runner" / below


def is_offline() -> bool:
    """Return whether the environment forbids downloads, by HF_HUB_OFFLINE as in the Hugging Face libraries."""
    return os.environ.get("HF_HUB_OFFLINE", "").strip().upper() in {"1", "ON", "YES", "TRUE"}


def fetch(
    url: str,
    target: Path,
    sha256: str | None = None,
    timeout: float = READ_SECONDS,
    *,
    md5: str | None = None,
    connect_timeout: float = CONNECT_SECONDS,
) -> Path:
    """Download a file unless it exists: to a temporary file beside it, which is checked and renamed.

    There is one attempt. A download that breaks off continues where it stopped when it is asked for again. Several
    processes may ask at once: one downloads, the others wait. A file that exists is not checked.

    Args:
        url: address of the file.
        target: path of the file on disk.
        sha256: expected SHA-256 checksum, or None.
        timeout: longest silence of the server in the middle of the download, in seconds.
        md5: expected MD5 checksum, or None.
        connect_timeout: longest wait until the server answers, in seconds, all of its addresses and the name lookup
            together. A node without network needs no more time than this.

    Returns:
        `target`.

    Raises:
        OSError: the network or the server fails, or HF_HUB_OFFLINE forbids downloads.
        CorruptData: the checksum differs.
    """
    if target.exists():
        return target
    if is_offline():
        raise ConnectionError("HF_HUB_OFFLINE is set, so nothing is downloaded")
    with alone_at(target):
        if target.exists():
            return target
        part = target.with_name(target.name + ".part")
        _download(url, part, timeout, connect_timeout)
        for algorithm, expected in {"sha256": sha256, "md5": md5}.items():
            if expected and (digest := _digest(part, algorithm)) != expected:
                part.unlink()
                raise CorruptData(
                    f"{url} has {algorithm} {digest}, expected {expected}; the download for {target} was thrown away"
                )
        os.replace(part, target)
    return target


@contextmanager
def alone_at(target: Path) -> Iterator[None]:
    """Hold a lock on `target`, so that one process at a time creates it.

    The folder of `target` is created. Neither the lock file nor a folder that stayed empty is left behind.
    """
    created = [folder for folder in target.parents if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = Path(f"{target}.lock")
    try:
        with FileLock(lock):
            try:
                yield
            finally:
                with suppress(OSError):
                    lock.unlink()  # still held: a process that waits for it notices, and creates a new one
    finally:
        with suppress(OSError):
            for folder in created:
                folder.rmdir()


def _download(url: str, part: Path, timeout: float, connect_timeout: float) -> None:
    size = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={size}-"} if size else {})
    try:
        response = connect(request, timeout, connect_timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        if error.headers.get("Content-Range") == f"bytes */{size}":  # complete: killed just before the rename
            return
        part.unlink()  # longer than the file, so not its beginning
        return _download(url, part, timeout, connect_timeout)
    with response:
        expected = response.headers.get("Content-Length")
        log.info("downloading %s (%s bytes)", url, expected or "unknown")
        with open(part, "ab" if response.status == 206 else "wb") as out:
            start = out.tell()
            try:
                shutil.copyfileobj(response, out, 1 << 20)
            except HTTPException as error:
                raise ConnectionError(f"{url} broke off ({error}); run the same command again to continue") from error
            if expected is not None and out.tell() - start != int(expected):
                raise ConnectionError(f"{url} broke off; run the same command again to continue")


def connect(request: urllib.request.Request, timeout: float, connect_timeout: float) -> Any:
    """Open an address in a thread that is given up after `connect_timeout` seconds.

    `urlopen` alone waits for `timeout` at each address of a host, and without limit for the name lookup.

    Args:
        request: request for the address.
        timeout: longest silence of the server, in seconds.
        connect_timeout: longest wait until the server answers, in seconds.

    Returns:
        The response.

    Raises:
        OSError: there is no answer, or the answer is an error.
    """
    outcome: list[Any] = []

    def open_address() -> None:
        try:
            outcome.append(urllib.request.urlopen(request, timeout=timeout))
        except Exception as error:  # raised again below, in the caller's thread
            outcome.append(error)

    thread = threading.Thread(target=open_address, daemon=True)
    thread.start()
    thread.join(connect_timeout)
    if not outcome:
        raise TimeoutError(f"timed out: no answer within {connect_timeout:g} s")
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def check_sum(path: Path, algorithm: str, expected: str) -> None:
    """Raise CorruptData if the file has another checksum.

    Args:
        path: file to check.
        algorithm: name that hashlib knows, such as "sha256" or "md5".
        expected: checksum as hexadecimal digits.
    """
    if (digest := _digest(path, algorithm)) != expected:
        raise CorruptData(
            f"{path} has {algorithm} {digest}, expected {expected}: "
            "it is damaged or another file; remove it to download it again"
        )


def _digest(path: Path, algorithm: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def unzip(archive: Path, folder: Path, inner: str = "") -> None:
    """Unpack a zip file into `folder`, which appears whole or not at all. An existing folder is left as it is.

    Args:
        archive: zip file.
        folder: folder to create.
        inner: folder of the archive that becomes `folder`; the rest is left out. Default: all of the archive.

    Raises:
        CorruptData: the archive is damaged, encrypted or unsupported, or has a member outside its folder.
    """

    def extract(temporary: Path) -> None:
        with zipfile.ZipFile(archive) as file:
            for member in file.infolist():
                _check_inside(member.filename, archive, temporary)
                if member.flag_bits & 1:
                    raise CorruptData(f"{archive} is encrypted: unpack it by hand into {folder}")
            file.extractall(temporary)

    _unpack(archive, folder, inner, extract, "zip", UNREADABLE_ZIP)


def untar(archive: Path, folder: Path, inner: str = "") -> None:
    """Unpack a tar file, compressed or not, into `folder`, which appears whole or not at all.

    Args:
        archive: tar file.
        folder: folder to create; an existing one is left as it is.
        inner: folder of the archive that becomes `folder`; the rest is left out. Default: all of the archive.

    Raises:
        CorruptData: the archive is damaged, has a member outside its folder, or has links or devices.
    """

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
        errors: tuple[type[Exception], ...] = (*unreadable, OSError, ValueError)
        shutil.rmtree(temporary, ignore_errors=True)  # left by a process that was killed
        try:
            extract(temporary)
            if not (temporary / inner).is_dir():
                raise CorruptData(f"{archive} has no folder {inner}" if inner else f"{archive} is empty")
            os.replace(temporary / inner, folder)
        except CorruptData:
            raise
        except errors as error:
            if isinstance(error, OSError) and error.errno in DISK_ERRORS:
                raise
            raise CorruptData(
                f"{archive} is no {kind} file that can be unpacked ({error or type(error).__name__}); "
                "remove it to download it again"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def missing(what: str, wanted: list[Path], url: str | None, root: Path, reason: object = None) -> MissingData:
    """Return the error for data that is not on disk and cannot be downloaded.

    Args:
        what: description of the data, which begins the message.
        wanted: paths where the data is looked for.
        url: official address of the data, or None.
        root: data folder.
        reason: error of the download, or None if there was none.
    """
    places = "\n".join(f"  {path.absolute()}" for path in wanted)
    failure = f"\nDownloading {url} failed: {reason}" if reason else ""
    source = f" (from {url})" if url else ""
    return MissingData(
        f"{what} is not below the data folder {root.absolute()}.{failure}\nPut it at one of{source}:\n{places}\n"
        "or name another data folder: RUNNER_DATA=<folder>, or paths.data=<folder>"
    )
