"""Whether a result can be written, asked before the work that it takes."""

from __future__ import annotations

import os
from pathlib import Path

from streamprune.errors import StorageError


def check_writable(path: str | Path) -> None:
    """Raise StorageError unless a file can be made or written at ``path``; folders on the way are made."""
    target = Path(path)
    trial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise StorageError(f"cannot write {str(target)!r}: it is a folder; name a file")
        if target.exists() and not os.access(target, os.W_OK):
            raise StorageError(f"cannot write {str(target)!r}: it must not be written to")
        trial.touch()
        trial.unlink()
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"cannot write {str(target)!r}: {error.strerror or error}") from error
