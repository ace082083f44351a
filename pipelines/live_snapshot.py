"""A stream on disk: one safetensors file, written whole or not at all.

Its header holds what is no tensor as JSON, and a checksum of everything.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from streamprune.cache.checksum import checksum
from streamprune.cache.whole_file import leavings, owner_runs, remove_leavings, write_whole
from streamprune.errors import InvalidTypeError, SnapshotError, StorageError

logger = logging.getLogger("streamprune.pipelines")

_KIND = "streamprune stream"
VERSION = 1


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
    try:
        write_whole(target, held, header)
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"cannot save the stream to {str(target)!r}: {getattr(error, 'strerror', None) or error}; what "
            "was there before is untouched"
        ) from error
    # what processes that were killed while they saved have left behind
    for path in leavings(target.parent, target.name):
        if not owner_runs(path):
            remove_leavings(path)


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
