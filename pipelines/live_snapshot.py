"""A stream on disk: one safetensors file, written whole or not at all.

Its header holds what is no tensor as JSON, and a checksum of everything.
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
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from streamprune.cache.checksum import checksum
from streamprune.errors import InvalidTypeError, SnapshotError, StorageError

logger = logging.getLogger("streamprune.pipelines")

_KIND = "streamprune stream"
VERSION = 1
_UNFINISHED = ".part"


@dataclass(frozen=True)
class Snapshot:
    """What a stream is made again from.

    Attributes:
        tensors: by name.
        about: what JSON can hold.
    """

    tensors: Mapping[str, torch.Tensor]
    about: Mapping[str, Any]

    def part(self, prefix: str) -> dict[str, torch.Tensor]:
        """Tensors whose names begin with ``prefix`` and a dot, by the rest of their names."""
        start = f"{prefix}."
        return {name[len(start) :]: one for name, one in self.tensors.items() if name.startswith(start)}


def write_snapshot(path: str | Path, snapshot: Snapshot) -> None:
    """Write ``path``; what stood there is replaced when everything is on the disk, and not before.

    Raises StorageError, after which the old file is as it was, and InvalidTypeError for no path.
    """
    target = _path(path)
    held: dict[str, torch.Tensor] = {}
    storages: set[int] = set()
    for name, tensor in snapshot.tensors.items():
        plain = tensor.detach().cpu().contiguous()
        # the format has no two names for one storage
        shared = plain.untyped_storage().data_ptr() in storages
        held[name] = plain.clone() if shared else plain
        storages.add(held[name].untyped_storage().data_ptr())
    about = json.dumps(snapshot.about)
    header = {"kind": _KIND, "version": str(VERSION), "about": about, "sum": str(checksum(held, about))}
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.{time.monotonic_ns()}{_UNFINISHED}")
    try:
        save_file(held, unfinished, metadata=header)
        _to_disk(unfinished)
        unfinished.replace(target)
        _to_disk(target.parent)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            unfinished.unlink()
        raise StorageError(
            f"cannot save the stream to {str(target)!r}: {getattr(error, 'strerror', None) or error}; what "
            "was there before is untouched"
        ) from error
    _clear_up(target)


def read_snapshot(path: str | Path) -> Snapshot:
    """Read what :func:`write_snapshot` wrote; SnapshotError says why it cannot be."""
    target = _path(path)
    if not target.is_file():
        raise SnapshotError(f"{str(target)!r}: no such file; give the path that save() was given")
    try:
        with safe_open(target, framework="pt") as file:
            header = file.metadata() or {}
            _check_header(target, header)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        if isinstance(error, SnapshotError):
            raise
        raise SnapshotError(
            f"{str(target)!r} is damaged or cut short ({error}); take an older snapshot"
        ) from error
    if str(checksum(tensors, header.get("about", ""))) != header.get("sum"):
        raise SnapshotError(f"{str(target)!r} is damaged: its bytes do not add up; take an older snapshot")
    return Snapshot(tensors, json.loads(header["about"]))


def _check_header(target: Path, header: Mapping[str, str]) -> None:
    if header.get("kind") != _KIND:
        raise SnapshotError(f"{str(target)!r} is no saved stream; give the path that save() was given")
    version = header.get("version", "")
    if version != str(VERSION):
        newer = version.isdigit() and int(version) > VERSION
        raise SnapshotError(
            f"{str(target)!r} has version {version!r} of the format, this program reads {VERSION}; "
            f"{'update streamprune' if newer else 'save it anew'}"
        )


def _path(path: object) -> Path:
    if not isinstance(path, (str, Path)) or not str(path):
        raise InvalidTypeError(f"path must be the path of a file, got {path!r}")
    return Path(path).expanduser()


def _to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are there after a power cut too."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _clear_up(target: Path) -> None:
    """Remove what processes that were killed while they saved have left behind."""
    for path in target.parent.glob(f".{target.name}.*{_UNFINISHED}"):
        owner = path.name.removesuffix(_UNFINISHED).rsplit(".", 2)[-2]
        if owner.isdigit() and int(owner) != os.getpid() and not _runs(int(owner)):
            with suppress(OSError):
                path.unlink()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
