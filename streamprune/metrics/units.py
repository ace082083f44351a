"""Speed said in units, so that figures from different machines can be compared.

One unit is what copying a 32 x 14 x 14 x 3584 float32 tensor (90 MB) into fresh memory takes on one thread.
Both are timed in turn in the same process, so that a busy machine slows them alike.

    python -m streamprune.metrics.units fastvid pool --keep-ratio 0.1
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch

from streamprune.errors import InvalidValueError, StreampruneError
from streamprune.metrics.made_clip import made_clip
from streamprune.reduce import reduce_tokens
from streamprune.registry import get_method


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
    with _one_thread():
        fn()
        for _ in range(repeats):
            copies.append(_timed(tensor.clone))
            calls.append(_timed(fn))
    copy_wall, copy_cpu = (statistics.median(column) for column in zip(*copies, strict=True))
    call_wall, call_cpu = (statistics.median(column) for column in zip(*calls, strict=True))
    return UnitTiming(call_wall / copy_wall, call_cpu / copy_cpu, call_wall * 1e3, copy_wall * 1e3)


def _timed(fn: Callable[[], object]) -> tuple[float, float]:
    """Elapsed and processor seconds of one call; what it returns is freed outside the measurement."""
    cpu, wall = time.thread_time(), time.perf_counter()
    result = fn()
    wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
    del result
    return wall, cpu


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def main(arguments: list[str] | None = None) -> int:
    """Print how long pre-LLM methods take, in units."""
    parser = argparse.ArgumentParser(prog="python -m streamprune.metrics.units", description=main.__doc__)
    parser.add_argument("methods", nargs="+", metavar="METHOD")
    parser.add_argument("--keep-ratio", type=float, default=0.1)
    parser.add_argument(
        "--scenes", type=int, nargs="+", default=[8, 32], help="alike runs among the 32 frames"
    )
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", action="store_true", help="one JSON record a line")
    asked = parser.parse_args(arguments)
    try:
        for name in asked.methods:
            get_method("pre_llm", name)
        for scenes in asked.scenes:
            features, signals = made_clip(scenes)
            for name in asked.methods:
                print(_record(name, features, signals, scenes, asked), flush=True)
    except StreampruneError as error:
        parser.error(str(error))
    return 0


def _record(
    name: str,
    features: torch.Tensor,
    signals: Mapping[str, torch.Tensor],
    scenes: int,
    asked: argparse.Namespace,
) -> str:
    kept = 0

    def call() -> None:
        nonlocal kept
        kept = len(reduce_tokens(features, name, keep_ratio=asked.keep_ratio, signals=signals))

    timing = time_in_units(call, features, asked.repeats)
    if asked.json:
        record = {"method": name, "keep_ratio": asked.keep_ratio, "scenes": scenes, "kept_tokens": kept}
        return json.dumps({**record, **asdict(timing)})
    return (
        f"{name:<16} keep {asked.keep_ratio:<5g} scenes {scenes:<3} kept {kept:<6} "
        f"wall {timing.wall_units:6.2f} units  cpu {timing.cpu_units:6.2f} units  "
        f"({timing.wall_milliseconds:.1f} ms, unit {timing.unit_milliseconds:.1f} ms)"
    )


if __name__ == "__main__":
    raise SystemExit(main())
