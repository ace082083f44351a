"""Results in files: whether they can be written, asked before the work, and writing them whole or not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A file beside ``target`` that takes its place when the block ends well; StorageError names it."""
    # the ending stays: it tells what to write
    unfinished = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished.touch()
        yield unfinished
        unfinished.replace(target)
    except OSError as error:
        raise StorageError(f"cannot write {str(target)!r}: {error.strerror or error}") from error
    finally:
        if unfinished.parent.is_dir():
            unfinished.unlink(missing_ok=True)
