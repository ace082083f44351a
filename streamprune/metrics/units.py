"""Speed said in units, so that figures from different machines can be compared.

One unit is what copying a 32 x 14 x 14 x 3584 float32 tensor (90 MB) into fresh memory takes on one thread.
Both are timed in turn in the same process, so that a busy machine slows them alike. ``streamprune bench``
shows them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from streamprune.errors import InvalidValueError


@dataclass(frozen=True)
class UnitTiming:
    """Medians of a measurement, on one thread.

    Attributes:
        wall_units: elapsed time of the call over that of the copy.
        cpu_units: the same in processor time of the calling thread, which other programs disturb less.
        wall_milliseconds: of one call.
        unit_milliseconds: elapsed time of one copy.
    """

    wall_units: float
    cpu_units: float
    wall_milliseconds: float
    unit_milliseconds: float


def units(fn: Callable[[], object], tensor: torch.Tensor, repeats: int = 9) -> float:
    """Elapsed time of ``fn()`` in units of ``tensor.clone()``: see :func:`time_in_units`."""
    return time_in_units(fn, tensor, repeats).wall_units


def time_in_units(fn: Callable[[], object], tensor: torch.Tensor, repeats: int = 9) -> UnitTiming:
    """Time ``fn()`` and ``tensor.clone()`` in turn, ``repeats`` times each after one call to warm up.

    Torch runs on one thread meanwhile.
    """
    if repeats < 1:
        raise InvalidValueError(f"repeats must be at least 1, got {repeats!r}")
    copies, calls = [], []
    with one_thread():
        fn()
        for _ in range(repeats):
            copies.append(timed(tensor.clone))
            calls.append(timed(fn))
    copy_wall, copy_cpu = (statistics.median(column) for column in zip(*copies, strict=True))
    call_wall, call_cpu = (statistics.median(column) for column in zip(*calls, strict=True))
    return UnitTiming(call_wall / copy_wall, call_cpu / copy_cpu, call_wall * 1e3, copy_wall * 1e3)


def timed(fn: Callable[[], object]) -> tuple[float, float]:
    """Elapsed and processor seconds of one call; what it returns is freed outside the measurement."""
    cpu, wall = time.thread_time(), time.perf_counter()
    result = fn()
    wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
    del result
    return wall, cpu


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch run on one thread meanwhile."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
