"""Ask a stream of many hours, and itself when its memory had just filled up, in turn: what takes longer?

    python demos/latency_soak.py [--frames 50000] [--memory tiered] [--memory-bytes 8MB] [--json FILE]

The stream is saved at the first moment at which every tier has held as much as it will, goes on to the last
frame, and is then asked the same question in turn with the saved one, so that other work on the machine
slows both. Frames come from behind the vision tower, where the embedded world was recorded. Part of
``make soak``; takes about five minutes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import streamprune as sp
from streamprune.embedded.evaluate.recorded import Recorded
from streamprune.embedded.evaluate.stream_questions import needle_stream
from streamprune.pipelines.live import LiveStream
from streamprune.pipelines.offline import VideoLLM
from streamprune.report.record import circumstances, write_record

QUESTION = "what color is the circle?"
ASKS = 20
LARGEST_RATIO = 1.1
# recorded frames, shown again and again
ROUND = 1024
EVERY = 250


def main() -> int:
    """Soak, print, write the record; 1 when an answer takes longer than it may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--frames", type=int, default=50_000)
    parser.add_argument("--memory", default="tiered")
    parser.add_argument("--memory-bytes", default="8MB")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = compare(asked.frames, asked.memory, asked.memory_bytes, Path(folder) / "full.safetensors")
    faults = [] if found["latency_ratio"] <= LARGEST_RATIO else ["answers take longer"]
    print(
        f"an answer takes {found['early_ms']} ms at frame {found['full_at_frame']:,} and "
        f"{found['late_ms']} at {found['frames']:,}: {found['latency_ratio']} times; "
        f"{', '.join(faults) or 'all well'}"
    )
    if asked.json is not None:
        about = circumstances([Path(sys.argv[0]).name, *sys.argv[1:]])
        write_record(asked.json, {"demo": "latency_soak", **about, **found, "faults": faults})
    return 1 if faults else 0


def compare(frames: int, memory: str, memory_bytes: str, path: Path) -> dict[str, Any]:
    """Median processor time of the question, early and late."""
    vlm = sp.load("embedded", device="cpu")
    recorded = Recorded(vlm.family, needle_stream(0, ROUND), ROUND)
    played, blank = VideoLLM(recorded.family), np.zeros((96, 96, 3), np.uint8)
    full_at, most = 0, 0
    options: dict[str, Any] = {"memory": memory, "memory_bytes": memory_bytes, "gate": False}
    with played.open_stream(**options) as live:
        for number in range(frames):
            recorded.number = number % ROUND
            live.push(blank, pts_seconds=float(number))
            if not full_at and (number + 1) % EVERY == 0:
                held = sum(live.stats().held.values())
                # once merging or dropping begins, no more is held than before
                if held <= most:
                    full_at = number + 1
                    live.save(path)
                most = max(most, held)
        with LiveStream.load(path, played) as early:
            spent = _asked_in_turn(early, live)
    return {
        "memory": memory,
        "memory_bytes": memory_bytes,
        "frames": frames,
        "full_at_frame": full_at,
        "early_ms": round(median(spent[0]), 2),
        "late_ms": round(median(spent[1]), 2),
        "latency_ratio": round(median(spent[1]) / median(spent[0]), 3),
    }


def _asked_in_turn(*streams: LiveStream) -> list[list[float]]:
    """Milliseconds of processor time, for each stream."""
    spent: list[list[float]] = [[] for _ in streams]
    for _ in range(ASKS):
        for one, times in zip(streams, spent, strict=True):
            began = time.process_time()
            one.ask(QUESTION, max_new_tokens=8)
            times.append(1000 * (time.process_time() - began))
    return spent


if __name__ == "__main__":
    sys.exit(main())
