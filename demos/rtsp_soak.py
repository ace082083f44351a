"""Kill an RTSP server again and again while a program reads it: frames come back, none twice, memory stays.

    python demos/rtsp_soak.py [--kills 20] [--down-seconds 5] [--json demos/results/rtsp_soak.json]

Every picture shows the clock of its making, so a frame delivered twice, late or out of order is seen. Part of
``make soak``; takes about three minutes and the packages named in rtsp_server.py.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from rtsp_loopback import INSTALL, RtspServer, clock_now, has_server, read_clock

from streamprune.metrics.memory import resident_bytes
from streamprune.readers import Frame, Gap, Health, LiveSource, open_source
from streamprune.report.record import circumstances, write_record

RETURN_SECONDS = 3.0  # frames must flow again within this after the server's return
GROWTH_BYTES = 30 * 2**20
_WARMED_KILLS = 2  # memory is compared with what it was after so many


@dataclass
class Ride:
    """What was seen in one run.

    Attributes:
        clocks: the milliseconds that each frame shows, in the order they came.
        pts_seconds: their times.
        ages_ms: how old each was when it was read.
        returns_seconds: from the server's return to the first frame read after it, per kill.
        downs_seconds: from the last frame before to the first one after, per kill.
        resident: bytes of the process, before the first kill and after each.
        health: the source's own account at the end.
    """

    clocks: list[int] = field(default_factory=list)
    pts_seconds: list[float] = field(default_factory=list)
    ages_ms: list[int] = field(default_factory=list)
    returns_seconds: list[float] = field(default_factory=list)
    downs_seconds: list[float] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)
    health: Health | None = None

    def note(self, frame: Frame) -> Frame:
        """One more frame was read."""
        shown = read_clock(frame.image)
        self.clocks.append(shown)
        self.pts_seconds.append(frame.pts_seconds)
        self.ages_ms.append(clock_now() - shown)
        return frame

    @property
    def gaps(self) -> Sequence[Gap]:
        """What the source reports."""
        return self.health.gaps if self.health else ()

    def faults(self) -> list[str]:
        """What is wrong whatever the speed of the machine; empty when all is well."""
        rules = {
            "a frame came twice or out of order": _rising(self.clocks),
            "times do not go forward": _rising(self.pts_seconds),
            "not every loss is reported": len(self.gaps) == len(self.downs_seconds),
            "a gap has no reason": all(gap.reason for gap in self.gaps),
            "a gap is reported longer or shorter than it was": all(
                abs(gap.seconds - down) < 1e-6
                for gap, down in zip(self.gaps, self.downs_seconds, strict=False)
            ),
        }
        return [fault for fault, well in rules.items() if not well]

    def slow(self) -> list[str]:
        """Which of the figures to reach were missed."""
        found = [
            f"frames came {s:.1f} s after the return" for s in self.returns_seconds if s > RETURN_SECONDS
        ]
        grown = self.resident[-1] - self.resident[min(_WARMED_KILLS, len(self.resident) - 1)]
        return found + ([f"memory grew by {grown / 2**20:.0f} MB"] if grown > GROWTH_BYTES else [])


def _rising(values: Sequence[float]) -> bool:
    return all(earlier < later for earlier, later in pairwise(values))


def ride(
    kills: int, down_seconds: float, tell: Callable[[str], None] = print, frames_between: int = 25
) -> Ride:
    """Read the clock while its server is killed ``kills`` times, away for ``down_seconds`` each time."""
    seen = Ride()
    with RtspServer() as server, open_source(server.url("/clock"), drop="every") as source:
        frames = iter(source)
        _read_on(frames, frames_between, seen)
        for kill in range(1, kills + 1):
            _kill_once(server, down_seconds, frames, seen)
            _read_on(frames, frames_between, seen)
            tell(
                f"kill {kill}: frames {seen.returns_seconds[-1]:.2f} s after the return, a gap of "
                f"{seen.downs_seconds[-1]:.2f} s, {seen.resident[-1] / 2**20:.0f} MB"
            )
        if isinstance(source, LiveSource):
            seen.health = source.health()
    return seen


def _read_on(frames: Iterator[Frame], count: int, seen: Ride) -> None:
    for _ in range(count):
        seen.note(next(frames))
    seen.resident.append(resident_bytes())


def _kill_once(server: RtspServer, down_seconds: float, frames: Iterator[Frame], seen: Ride) -> None:
    """Kill, read what had arrived, let the server return, and wait for its first frame."""
    returned: list[float] = []

    def start() -> None:
        server.start()
        returned.append(time.monotonic())

    last = seen.note(next(frames))
    server.kill()
    timer = threading.Timer(down_seconds, start)
    timer.start()
    while (frame := seen.note(next(frames))).epoch == last.epoch:
        last = frame
    now = time.monotonic()
    timer.join()
    seen.returns_seconds.append(now - returned[0])
    seen.downs_seconds.append((frame.arrival_seconds or 0.0) - (last.arrival_seconds or 0.0))


def record(seen: Ride, down_seconds: float) -> dict[str, Any]:
    """The figures of a run."""
    before, after = seen.resident[min(_WARMED_KILLS, len(seen.resident) - 1)], seen.resident[-1]
    return {
        "demo": "rtsp_soak",
        **circumstances([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "kills": len(seen.returns_seconds),
        "down_seconds": down_seconds,
        "frames": len(seen.clocks),
        "return_seconds": [round(s, 3) for s in seen.returns_seconds],
        "worst_return_seconds": round(max(seen.returns_seconds, default=0.0), 3),
        "gap_seconds": [round(gap.seconds, 3) for gap in seen.gaps],
        "frames_twice": len(seen.clocks) - len(set(seen.clocks)),
        "median_age_ms": median(seen.ages_ms),
        "worst_age_ms": max(seen.ages_ms),
        "resident_mb": {"before": round(before / 2**20, 1), "after": round(after / 2**20, 1)},
        "faults": seen.faults() + seen.slow(),
    }


def main() -> int:
    """Ride, print, write the record; 1 when something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--down-seconds", type=float, default=5.0)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    if not has_server():
        print(f"rtsp_soak {INSTALL}", file=sys.stderr)
        return 1
    seen = ride(asked.kills, asked.down_seconds)
    found = record(seen, asked.down_seconds)
    print(
        f"{found['kills']} kills: frames again within {found['worst_return_seconds']} s of the return, "
        f"{found['frames_twice']} of {found['frames']} frames twice, {found['resident_mb']['before']} MB "
        f"-> {found['resident_mb']['after']} MB; {'; '.join(found['faults']) or 'all well'}"
    )
    if asked.json is not None:
        write_record(asked.json, found)
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
