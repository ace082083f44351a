"""Tensors on disk under content keys: written whole or not at all, bounded in bytes, shared by processes.

One safetensors file per entry, whose header says what it is and what its bytes add up to. The entry that was
not used for longest goes first. Whatever is damaged counts as missing and is removed.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open

from streamprune.cache.checksum import checksum
from streamprune.cache.whole_file import leavings, remove_leavings, write_whole
from streamprune.checks import check_count
from streamprune.errors import InvalidValueError, StorageError

logger = logging.getLogger("streamprune.cache")

_SUFFIX = ".safetensors"
_FORMAT = "1"
# what a process that was killed has left behind
_STALE_SECONDS = 3600.0
# evicting can wait for the next entry, an answer cannot wait for other processes
_LOCK_SECONDS = 5.0


@dataclass(frozen=True)
class Entry:
    """What was stored under a key.

    Attributes:
        tensors: by name.
        about: whatever JSON can hold.
    """

    tensors: Mapping[str, torch.Tensor]
    about: Mapping[str, Any]


class FeatureStore:
    """A folder of entries.

    Args:
        folder: made when something is stored.
        max_bytes: of all entry files together; the oldest used go first.
    """

    def __init__(self, folder: str | Path, max_bytes: int) -> None:
        check_count("max_bytes", max_bytes)
        self.folder = Path(folder).expanduser()
        self.max_bytes = max_bytes
        if self.folder.exists() and not self.folder.is_dir():
            raise StorageError(f"the feature store {str(self.folder)!r} is a file; give a folder")

    def get(self, key: str) -> Entry | None:
        """The entry under ``key``, or None: there is none, or it was damaged and is gone now."""
        path = self._path(key)
        try:
            entry = _read(path)
        except FileNotFoundError:
            return None
        except (_DamagedError, SafetensorError, OSError, ValueError, KeyError) as error:
            logger.warning("%s is damaged and is made anew (%s)", path, error)
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            os.utime(path)  # used now
        return entry

    def holds(self, key: str) -> bool:
        """Whether there is an entry under ``key``, damaged or not."""
        return self._path(key).exists()

    def put(self, key: str, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> bool:
        """Store an entry; False, with a warning, when it cannot be written or is too large for the bound.

        A store only saves work: that it cannot be written is no reason to lose what was just computed.
        """
        path = self._path(key)
        held = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
        size = sum(tensor.nbytes for tensor in held.values())
        if size > self.max_bytes:
            logger.warning(
                "%s: %d bytes are more than the store's bound of %d, not stored", key, size, self.max_bytes
            )
            return False
        header = {"format": _FORMAT, "about": json.dumps(about), "sum": str(checksum(held))}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, held, header)
        except (OSError, SafetensorError) as error:
            logger.warning("%s cannot be stored: %s", path, getattr(error, "strerror", None) or error)
            return False
        self._make_room(path)
        return True

    def size_bytes(self) -> int:
        """Of all entry files."""
        return sum(size for _, size, _ in self._entries())

    def clear(self) -> None:
        """Remove every entry. Raises StorageError when one cannot be."""
        for _, _, path in self._entries():
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise StorageError(f"cannot remove {str(path)!r}: {error.strerror or error}") from error

    def _path(self, key: str) -> Path:
        if not key or not all(letter.isascii() and (letter.isalnum() or letter in "-_") for letter in key):
            raise InvalidValueError(f"key must be letters, digits, - and _ only, got {key!r}")
        return self.folder / f"{key}{_SUFFIX}"

    def _entries(self) -> list[tuple[float, int, Path]]:
        """(last use, bytes, path), the longest unused first; other processes may remove some meanwhile."""
        found = []
        for path in self.folder.glob(f"[!.]*{_SUFFIX}"):
            with suppress(OSError):
                stat = path.stat()
                found.append((stat.st_mtime, stat.st_size, path))
        return sorted(found)

    def _make_room(self, newest: Path) -> None:
        """Remove what was not used for longest, never ``newest``, and leavings of killed processes."""
        try:
            with FileLock(self.folder / ".lock", timeout=_LOCK_SECONDS):
                entries = self._entries()
                total = sum(size for _, size, _ in entries)
                for _, size, path in entries:
                    if total <= self.max_bytes:
                        break
                    if path != newest:
                        with suppress(OSError):
                            path.unlink()
                            total -= size
                # other machines may share the folder: only age tells who is not at work any more
                for path in leavings(self.folder):
                    with suppress(OSError):
                        if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                            remove_leavings(path)
        except (Timeout, OSError) as error:
            logger.warning("%s: no room could be made now (%s)", self.folder, error)


class _DamagedError(Exception):
    """An entry whose bytes are not those that were written; never leaves this module."""


def _read(path: Path) -> Entry:
    if not path.exists():
        raise FileNotFoundError(path)
    with safe_open(path, framework="pt") as file:
        header = file.metadata() or {}
        if header.get("format") != _FORMAT:
            raise _DamagedError("written by another version")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    if str(checksum(tensors)) != header.get("sum"):
        raise _DamagedError("its bytes do not add up")
    return Entry(tensors, json.loads(header["about"]))
