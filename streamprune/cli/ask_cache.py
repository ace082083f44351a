"""The cache of encoded videos as ``streamprune ask`` uses it: on by default, and never a reason to fail."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from streamprune.errors import StorageError

if TYPE_CHECKING:
    from streamprune.pipelines.stored_encoding import EncodingCache

logger = logging.getLogger("streamprune.cache")


def read_cache(folder: Path | None, max_bytes: str) -> EncodingCache | None:
    """The cache in ``folder``, or in the user's own, which is done without where it cannot be had.

    Raises InvalidValueError for bytes that are none, and StorageError for a named folder that is a file.
    """
    from streamprune.pipelines.stored_encoding import EncodingCache

    try:
        return EncodingCache.at(folder, max_bytes)
    except StorageError as error:
        if folder is not None:
            raise
        logger.warning("%s; nothing is cached", error)
        return None


@contextmanager
def told_warnings(name: str) -> Iterator[None]:
    """Print what is logged under ``name`` as warnings on stderr."""
    handler, told = _Telling(logging.WARNING), logging.getLogger(name)
    told.addHandler(handler)
    try:
        yield
    finally:
        told.removeHandler(handler)


class _Telling(logging.Handler):
    """One line of stderr for each record."""

    def emit(self, record: logging.LogRecord) -> None:
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        console.print(Text(f"Warning: {record.getMessage()}", style="yellow"))
