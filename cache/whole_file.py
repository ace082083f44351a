"""Files of tensors that are there whole or not at all, whoever is killed while they are written."""

from __future__ import annotations

import glob
import os
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

_UNFINISHED = ".part"


def write_whole(target: Path, tensors: Mapping[str, torch.Tensor], header: Mapping[str, str]) -> None:
    """Write ``target`` as safetensors; what stood there is replaced when all is on the disk, not before.

    Args:
        tensors: by name; contiguous, on the CPU, none sharing its storage with another.

    Raises OSError or SafetensorError, after which the old file is as it was and nothing is left behind.
    """
    who = f"{os.getpid()}.{threading.get_ident()}.{time.monotonic_ns()}"
    # a folder of its own: the library that writes puts files of its own beside the one it was asked for
    unfinished = target.with_name(f".{target.name}.{who}{_UNFINISHED}")
    try:
        unfinished.mkdir()
        file = unfinished / "whole"
        save_file(dict(tensors), file, metadata=dict(header))
        _to_disk(file)
        file.replace(target)
        _to_disk(target.parent)
    finally:
        remove_leavings(unfinished)


def leavings(folder: Path, name: str | None = None) -> list[Path]:
    """What was begun in ``folder`` for the file ``name``, or any, by those at work or by killed processes."""
    return sorted(folder.glob(f".{'*' if name is None else glob.escape(name)}.*.*.*{_UNFINISHED}"))


def owner_runs(path: Path) -> bool:
    """Whether the process that began ``path``, one of the :func:`leavings`, is at work on this machine."""
    owner = path.name.removesuffix(_UNFINISHED).rsplit(".", 3)[-3]
    if not owner.isdigit():
        return True
    try:
        os.kill(int(owner), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def remove_leavings(path: Path) -> None:
    """Remove one of the :func:`leavings` as far as that is possible."""
    shutil.rmtree(path, ignore_errors=True)


def _to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are there after a power cut too."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
