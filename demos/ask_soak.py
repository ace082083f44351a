"""Eight threads ask about a stream while frames come at two a second: are frames late, are answers right?

    python demos/ask_soak.py [--seconds 60] [--threads 8] [--fps 2] [--json demos/results/ask_soak.json]

Every answer names the state that it was given from; afterwards the same frames are pushed again with nobody
asking, and each question is asked once more at the same state. Part of ``make soak``; takes two minutes.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

from numpy.typing import NDArray

import streamprune as sp
from streamprune.embedded.world import clip
from streamprune.pipelines.live import LiveStream
from streamprune.pipelines.offline import VideoLLM
from streamprune.readers import Frame
from streamprune.report.record import circumstances, write_record

SETTINGS: dict[str, Any] = {"memory": "tiered", "memory_bytes": "32MB", "gate": False}
LEAST_SHARE = 0.8
LATEST_SECONDS = 2.0
_SCENE_FRAMES = 32


@dataclass
class Ride:
    """What was seen in one run.

    Attributes:
        due: frames that arrived.
        late_seconds: of each frame that was taken in, from its arrival until it was remembered.
        taken: numbers of these frames.
        answers: (frames the answer was given from, question, text, seconds it took).
        differing: answers that were others when nobody else asked.
    """

    due: int = 0
    late_seconds: list[float] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)
    answers: list[tuple[int, str, str, float]] = field(default_factory=list)
    differing: int = 0

    @property
    def share(self) -> float:
        """Of the frames that were taken in."""
        return len(self.taken) / self.due

    def faults(self) -> list[str]:
        """What must not be."""
        found = []
        if self.share < LEAST_SHARE:
            found.append(f"{self.share:.0%} of the frames were taken in, {LEAST_SHARE:.0%} must be")
        if max(self.late_seconds) > LATEST_SECONDS:
            found.append(f"a frame was {max(self.late_seconds):.2f} s late")
        if self.differing:
            found.append(f"{self.differing} answers were others when asked alone")
        return found + ["nobody was answered"] * (not self.answers)

    def summary(self) -> dict[str, Any]:
        """Plain numbers."""
        return {
            "frames": self.due,
            "taken": len(self.taken),
            "share": round(self.share, 4),
            "late_seconds_median": round(median(self.late_seconds), 4),
            "late_seconds_most": round(max(self.late_seconds), 4),
            "answers": len(self.answers),
            "answer_seconds_median": round(median(one[3] for one in self.answers), 4),
            "moments": len({one[0] for one in self.answers}),
            "differing": self.differing,
        }


def ride(vlm: VideoLLM, seconds: float, threads: int, fps: float) -> Ride:
    """Push and ask for so many ``seconds``, then ask again alone."""
    seen, over = Ride(), threading.Event()
    questions = [one.text for one in clip(0, _SCENE_FRAMES, split="eval", questions=8).questions]
    with vlm.open_stream(**SETTINGS) as live:
        live.push(Frame(_picture(0), 0.0, 0))
        askers = [
            threading.Thread(target=_ask, args=(live, questions[place:] + questions[:place], seen, over))
            for place in range(threads)
        ]
        for one in askers:
            one.start()
        for frame in _paced(seconds, fps, seen):
            live.push(frame)
            assert frame.arrival_seconds is not None
            seen.late_seconds.append(time.monotonic() - frame.arrival_seconds)
            seen.taken.append(frame.index)
        over.set()
        for one in askers:
            one.join()
    seen.differing = _differing(vlm, seen, fps)
    return seen


def _picture(number: int) -> NDArray[Any]:
    picture: NDArray[Any] = _scene(number // _SCENE_FRAMES)[number % _SCENE_FRAMES]
    return picture


@lru_cache(maxsize=2)
def _scene(seed: int) -> NDArray[Any]:
    return clip(seed, _SCENE_FRAMES, split="eval").frames


def _paced(seconds: float, fps: float, seen: Ride) -> Iterator[Frame]:
    """Frames as a camera brings them: of those that arrived while the last was taken in, the newest."""
    _picture(0)
    started, number = time.monotonic(), 0
    while (newest := int((time.monotonic() - started) * fps)) < seconds * fps:
        if newest <= number:
            time.sleep(max(0.0, started + (number + 1) / fps - time.monotonic()))
            continue
        number = newest
        seen.due = newest
        yield Frame(_picture(number), number / fps, number, arrival_seconds=started + number / fps)


def _ask(live: LiveStream, questions: Sequence[str], seen: Ride, over: threading.Event) -> None:
    while True:
        for question in questions:
            if over.is_set():
                return
            started = time.monotonic()
            answer = live.ask(question)
            seen.answers.append((answer.stats.frames, question, answer.text, time.monotonic() - started))


def _differing(vlm: VideoLLM, seen: Ride, fps: float) -> int:
    """Answers that are others when the same frames are pushed and nobody else asks."""
    by_moment: dict[int, set[tuple[str, str]]] = {}
    for frames, question, text, _ in seen.answers:
        by_moment.setdefault(frames, set()).add((question, text))
    found = 0
    with vlm.open_stream(**SETTINGS) as live:
        for place, number in enumerate([0, *seen.taken], 1):
            live.push(Frame(_picture(number), number / fps, number))
            found += sum(live.ask(question).text != text for question, text in by_moment.get(place, ()))
    return found


def main() -> int:
    """Ride, print, write the record; 1 when something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--fps", type=float, default=2.0)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    seen = ride(sp.load("embedded"), asked.seconds, asked.threads, asked.fps)
    for name, value in seen.summary().items():
        print(f"{name}: {value}")
    for fault in seen.faults():
        print(fault, file=sys.stderr)
    if asked.json is not None:
        said = circumstances([Path(sys.argv[0]).name, *sys.argv[1:]])
        record = {"demo": "ask_soak", **said, **seen.summary(), "faults": seen.faults()}
        write_record(asked.json, record)
    return 1 if seen.faults() else 0


if __name__ == "__main__":
    sys.exit(main())
