"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

from runner.errors import UserError


def write_whole(path: Path, text: str) -> None:
    """Readers see the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    write_whole(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """The file's content, or None where there is no whole JSON object. Raises UserError where it may not be read."""
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    return content if isinstance(content, dict) else None


def is_whole_checkpoint(path: Path) -> bool:
    """Is there a checkpoint that was written to its end? (Its table of contents stands at the end.)"""
    return zipfile.is_zipfile(path)


def disk_is_full(error: BaseException, folder: Path) -> bool:
    """Is that why a file could not be written? torch's own error does not say so."""
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return (isinstance(error, OSError) and error.errno in numbers) or shutil.disk_usage(folder).free < 2**20
