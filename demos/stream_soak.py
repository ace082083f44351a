"""Watch a stream for a day and measure on the way: the process, the ledger, and what a question takes.

    python demos/stream_soak.py [--frames 100000] [--memory tiered] [--memory-bytes 32MB] [--json FILE]

Frames of the embedded world, one a second of the stream's own time, as fast as they can be read: 100,000 of
them, a little more than a day, take about half an hour. Part of ``make soak``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

import streamprune as sp
from streamprune.cache.block import storage_bytes
from streamprune.embedded.evaluate.stream_questions import needle_stream
from streamprune.metrics.memory import resident_bytes
from streamprune.pipelines.live import LiveStream
from streamprune.report.record import circumstances, write_record

QUESTION = "what color is the circle?"
GROWTH_BYTES = 30 * 2**20
# memory is compared between these frames, or the like shares of a shorter run
FROM_FRAME, TO_FRAME, OF_FRAMES = 5_000, 50_000, 100_000
# a tier counts as full when it holds so much of the most it ever holds
_FULL = 0.9


@dataclass(frozen=True)
class Moment:
    """What was found after so many frames.

    Attributes:
        frames: pushed so far.
        resident: bytes of the process.
        held: bytes by tier, as the ledger has them.
        counted: bytes of all tensors that the stream holds, each storage once.
        ask_ms: median processor time of the question, which other work on the machine does not change.
        remembers_from_seconds: oldest moment that is still represented.
    """

    frames: int
    resident: int
    held: Mapping[str, int]
    counted: int
    ask_ms: float
    remembers_from_seconds: float | None

    @property
    def total(self) -> int:
        """Bytes of all tiers."""
        return sum(self.held.values())


def soak(
    live: LiveStream,
    show: Callable[[int], NDArray[np.uint8]],
    frames: int,
    every: int,
    asks: int = 20,
    tell: Callable[[str], None] = print,
) -> list[Moment]:
    """Push ``frames`` pictures; look around, and ask ``asks`` times, after every so many of them."""
    found = []
    for number in range(frames):
        live.push(show(number), pts_seconds=float(number))
        if (number + 1) % every == 0:
            found.append(look_around(live, number + 1, asks))
            tell(told(found[-1]))
    return found


def look_around(live: LiveStream, frames: int, asks: int) -> Moment:
    """Measure now."""
    spent = []
    for _ in range(asks):
        began = time.process_time()
        live.ask(QUESTION, max_new_tokens=8)
        spent.append(1000 * (time.process_time() - began))
    stats = live.stats()
    counted = storage_bytes(list(live.tensors()))
    return Moment(frames, resident_bytes(), stats.held, counted, median(spent), stats.remembers_from_seconds)


def told(moment: Moment) -> str:
    """One line."""
    tiers = ", ".join(f"{tier} {nbytes / 1e6:.2f}" for tier, nbytes in moment.held.items() if nbytes)
    return (
        f"{moment.frames:>7,} frames: {moment.resident / 2**20:.1f} MiB resident, "
        f"{moment.total / 1e6:.2f} MB held ({tiers}), {moment.ask_ms:.1f} ms an answer, "
        f"knows from {moment.remembers_from_seconds:.0f} s"
    )


def at(moments: Sequence[Moment], frames: int) -> Moment:
    """The last moment up to so many frames, or to the like share of a shorter run."""
    share = min(1.0, moments[-1].frames / OF_FRAMES)
    return next((one for one in reversed(moments) if one.frames <= share * frames), moments[0])


def first_full(moments: Sequence[Moment]) -> Moment:
    """The first moment by which every tier has held about as much as it ever will."""
    most = {tier: max(one.held[tier] for one in moments) for tier in moments[0].held}
    waiting = set(most)
    for one in moments:
        waiting = {tier for tier in waiting if one.held[tier] < _FULL * most[tier]}
        if not waiting:
            return one
    return moments[-1]


def figures(moments: Sequence[Moment]) -> dict[str, Any]:
    """What the run comes to."""
    before, after, full = at(moments, FROM_FRAME), at(moments, TO_FRAME), first_full(moments)
    return {
        "frames": moments[-1].frames,
        "compared_frames": [before.frames, after.frames],
        "grown_mib": round((after.resident - before.resident) / 2**20, 2),
        "full_at_frame": full.frames,
        "most_held_bytes": max(moment.total for moment in moments),
    }


def faults(moments: Sequence[Moment], memory_bytes: int) -> list[str]:
    """What is wrong whatever the speed of the machine; empty when all is well."""
    found = figures(moments)
    wrong = [
        f"frame {one.frames}: {one.total} bytes held of {memory_bytes}"
        for one in moments
        if one.total > memory_bytes
    ]
    wrong += [
        f"frame {one.frames}: the ledger has {one.total} bytes, tensors {one.counted}"
        for one in moments
        if one.total != one.counted
    ]
    if found["grown_mib"] * 2**20 > GROWTH_BYTES:
        wrong.append(f"the process grew by {found['grown_mib']} MiB")
    return wrong


def record(moments: Sequence[Moment], memory: str, memory_bytes: int) -> dict[str, Any]:
    """The run for JSON."""
    found = figures(moments)
    wrong = faults(moments, memory_bytes)
    return {
        "demo": "stream_soak",
        **circumstances([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "memory": memory,
        "memory_bytes": memory_bytes,
        **found,
        "faults": wrong,
        "moments": [
            {
                "frames": one.frames,
                "resident_mib": round(one.resident / 2**20, 1),
                "held": {tier: nbytes for tier, nbytes in one.held.items() if nbytes},
                "ask_ms": round(one.ask_ms, 2),
                "remembers_from_seconds": one.remembers_from_seconds,
            }
            for one in moments
        ],
    }


def main() -> int:
    """Soak, print, write the record; 1 when something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--frames", type=int, default=OF_FRAMES)
    parser.add_argument("--every", type=int, default=500, help="frames from one measurement to the next")
    parser.add_argument("--memory", default="tiered")
    parser.add_argument("--memory-bytes", default="32MB")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    vlm = sp.load("embedded", device="cpu")
    video = needle_stream(0, asked.frames)
    with vlm.open_stream(memory=asked.memory, memory_bytes=asked.memory_bytes, context_tokens=576) as live:
        moments = soak(live, video.frame, asked.frames, min(asked.every, asked.frames))
        memory_bytes = live.stats().memory_bytes
    found = record(moments, asked.memory, memory_bytes)
    print(
        f"{found['grown_mib']} MiB more from frame {found['compared_frames'][0]:,} to "
        f"{found['compared_frames'][1]:,}; all tiers had been full by frame {found['full_at_frame']:,}; "
        f"{'; '.join(found['faults']) or 'all well'}"
    )
    if asked.json is not None:
        write_record(asked.json, found)
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
