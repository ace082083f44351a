"""Bytes that are really held: storages of a cache, and the most memory a piece of work needed."""

from __future__ import annotations

import re
import resource
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def tensor_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the storages behind ``tensors``, each storage once: a slice holds all of its base."""
    storages = {
        (tensor.device, tensor.untyped_storage().data_ptr()): tensor.untyped_storage().nbytes()
        for tensor in tensors
    }
    return sum(storages.values())


def kv_bytes(cache: Any) -> int:
    """Bytes of a transformers key-value cache: every tensor its layers hold; 0 for no cache."""
    if cache is None:
        return 0
    return tensor_bytes(tensor for layer in cache.layers for tensor in _layer_tensors(layer))


def kv_bytes_by_layer(cache: Any) -> tuple[int, ...]:
    """The same for each layer; a storage that layers share counts in each of them."""
    return tuple(tensor_bytes(_layer_tensors(layer)) for layer in cache.layers)


def _layer_tensors(layer: Any) -> list[torch.Tensor]:
    """What one layer holds: what it says itself, or its attributes and what is in tables of them."""
    if isinstance(said := getattr(layer, "tensors", None), list):
        return said
    held = list(vars(layer).values())
    held += [value for table in held if isinstance(table, dict) for value in table.values()]
    return [value for value in held if isinstance(value, torch.Tensor)]


class PeakMemory:
    """The most bytes a piece of work needed beyond what was there before it.

        peak = PeakMemory(device).start()
        work()
        peak.read()

    On CUDA: torch's peak of allocated bytes on that device, less what was allocated at the start.
    Elsewhere: the high-water mark of the process's resident memory, less what was resident then; all threads
    of the process count, and memory that an earlier piece of work left with the allocator is reused unseen.
    On Linux starting resets the process's high-water mark (VmHWM); where that cannot be done only growth
    beyond every earlier peak shows.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = 0

    def start(self) -> Self:
        """Measure from here on."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)
        else:
            self._before = resident_bytes() if _reset_high_water() else _high_water_bytes()
        return self

    def read(self) -> int:
        """The most bytes needed since :meth:`start`."""
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device)
        else:
            peak = _high_water_bytes()
        return max(0, peak - self._before)


def _reset_high_water() -> bool:
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def resident_bytes() -> int:
    """Bytes of the process that are in memory now; 0 where the system does not tell."""
    return _status_bytes("VmRSS")


def _high_water_bytes() -> int:
    if _STATUS.exists():
        return _status_bytes("VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _status_bytes(field: str) -> int:
    found = re.search(rf"^{field}:\s*(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0
