"""Write files whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write a file under a temporary name and rename it when it is complete.

    Readers see the old file or the new one, never a part. The file is flushed to disk before it is renamed.

    Args:
        path: final place of the file. Its folder must exist.

    Yields:
        Temporary path in the same folder, with the same suffix. The body of the `with` statement writes this file.
        If the body raises, the temporary file is removed and `path` stays as it was.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
