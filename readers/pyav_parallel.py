"""Far-apart targets in one file, decoded side by side.

Decoding one long group of pictures hardly gains from a decoder's own threads, while separate groups do not
depend on each other at all: several containers with one thread each need the same processor time and less of
the user's.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from contextlib import closing, suppress
from itertools import chain, groupby, pairwise
from threading import Event, Thread

from streamprune.errors import SourceFormatError
from streamprune.readers.base import Frame
from streamprune.readers.options import ReadOptions
from streamprune.readers.pyav_delivery import DamageMetError
from streamprune.readers.pyav_probe import VideoFacts
from streamprune.readers.pyav_targets import BLIND_SEEK_SECONDS, TargetReader
from streamprune.readers.report import ReadReport

# Opening a container for less decoding than this (about 40 frames of 720p) costs more than it gains.
MIN_PARALLEL_PIXELS = 40_000_000
# Each decoder holds about twenty pictures of 1.5 bytes a pixel.
DECODER_BYTES_PER_PIXEL = 30
MAX_DECODER_BYTES = 512 * 2**20
RUNS_PER_WORKER = 4


def fetch(
    facts: VideoFacts, options: ReadOptions, times_seconds: list[float], report: ReadReport
) -> dict[float, Frame]:
    """Return the frame shown at each of the ascending times, decoding in parallel where it pays.

    What decoders make of damage depends on their threads, so a damaged part is read again by one alone.
    """
    if options.num_threads > 1:
        trial = ReadReport()
        with suppress(DamageMetError, SourceFormatError):
            frames = _fetch_with_threads(facts, options, times_seconds, trial)
            if not trial.damaged:
                report.merge(trial)
                return frames
    with closing(TargetReader(facts, options, report, 1, Event())) as reader:
        return reader.fetch(times_seconds)


def _fetch_with_threads(
    facts: VideoFacts, options: ReadOptions, times_seconds: list[float], report: ReadReport
) -> dict[float, Frame]:
    """Fetch from an intact file; `DamageMetError` if it is not."""
    groups = split_into_groups(facts.keyframe_hints, times_seconds)
    num_workers = _num_workers(facts, options, groups)
    if num_workers == 1:
        threads = options.num_threads
        with closing(TargetReader(facts, options, report, threads, Event(), stop_at_damage=True)) as reader:
            return reader.fetch(times_seconds)
    crew = _Crew(facts, options, merge_groups(groups, RUNS_PER_WORKER * num_workers))
    return crew.work(num_workers, report)


def split_into_groups(keyframe_hints: list[float] | None, times_seconds: list[float]) -> list[list[float]]:
    """Group ascending times that share a keyframe; without an index, times that are close to each other."""
    if keyframe_hints is not None:
        hints = keyframe_hints
        return [
            list(group) for _, group in groupby(times_seconds, key=lambda time: bisect_right(hints, time))
        ]
    groups: list[list[float]] = []
    for time in times_seconds:
        if groups and time - groups[-1][-1] <= BLIND_SEEK_SECONDS:
            groups[-1].append(time)
        else:
            groups.append([time])
    return groups


def merge_groups(groups: list[list[float]], num_runs: int) -> list[list[float]]:
    """Join neighbouring groups into at most ``num_runs`` runs of about equally many groups."""
    num_runs = min(num_runs, len(groups))
    cuts = [run * len(groups) // num_runs for run in range(num_runs + 1)]
    return [list(chain.from_iterable(groups[first:end])) for first, end in pairwise(cuts)]


def _num_workers(facts: VideoFacts, options: ReadOptions, groups: list[list[float]]) -> int:
    pixels = facts.own_size[0] * facts.own_size[1]
    seconds = 0.0
    for group in groups:
        hints = facts.keyframe_hints or [max(0.0, group[0] - BLIND_SEEK_SECONDS)]
        seconds += group[-1] - hints[max(0, bisect_right(hints, group[0]) - 1)]
    if seconds / facts.frame_seconds * pixels < MIN_PARALLEL_PIXELS:
        return 1
    affordable = max(1, MAX_DECODER_BYTES // (DECODER_BYTES_PER_PIXEL * pixels))
    return min(options.num_threads, len(groups), affordable)


class _Crew:
    """Workers that take runs of targets from one list until it is empty."""

    def __init__(self, facts: VideoFacts, options: ReadOptions, runs: list[list[float]]) -> None:
        self._facts = facts
        self._options = options
        self._runs = deque(runs)  # popleft is atomic
        self._stop = Event()
        self._frames: dict[float, Frame] = {}
        self._failures: list[BaseException] = []

    def work(self, num_workers: int, report: ReadReport) -> dict[float, Frame]:
        reports = [ReadReport() for _ in range(num_workers)]
        threads = [Thread(target=self._worker, args=(mine,), name="streamprune-decode") for mine in reports]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except BaseException:  # Ctrl-C while waiting: the workers must not go on alone
            self._stop.set()
            for thread in threads:
                if thread.is_alive():
                    thread.join()
            raise
        for mine in reports:
            report.merge(mine)
        if self._failures:
            raise self._failures[0]
        return self._frames

    def _worker(self, report: ReadReport) -> None:
        try:
            with closing(
                TargetReader(self._facts, self._options, report, 1, self._stop, stop_at_damage=True)
            ) as reader:
                while self._runs and not self._stop.is_set():
                    try:
                        run = self._runs.popleft()
                    except IndexError:  # another worker took the last one
                        return
                    self._frames.update(reader.fetch(run))
        except BaseException as error:  # raised again by the caller's thread
            self._failures.append(error)
            self._stop.set()
