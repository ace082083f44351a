"""Connections that do what a test's script says, in place of a network."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from streamprune.errors import SourceError
from streamprune.readers.connection import Connection, Picture
from streamprune.readers.intake import Intake
from streamprune.readers.live import LiveSource
from streamprune.readers.live_options import LiveOptions
from streamprune.readers.options import ReadOptions
from streamprune.readers.scaling import resize
from streamprune.readers.source import Source
from tests.readers.media import number_of, picture


def shown(number: int, pts: float | None, *, corrupt: bool = False, rows: int = 96) -> Picture:
    """Frame ``number`` of the made-up clips as it arrives."""
    image = picture(number, rows)
    return Picture(
        pts, (rows, image.shape[1]), lambda size: resize(image, size), key=number == 0, corrupt=corrupt
    )


class Script(Connection):
    """Gives pictures one by one; an exception in the list is raised, None is a packet that is lost."""

    def __init__(
        self,
        steps: Sequence[Picture | Exception | None],
        *,
        finite: bool = False,
        continues: bool = False,
    ) -> None:
        self._steps = steps
        self.finite, self.continues = finite, continues
        self.closed = False

    def pictures(self) -> Iterator[Picture | None]:
        for step in self._steps:
            if isinstance(step, Exception):
                raise step
            yield step

    def close(self) -> None:
        self.closed = True


def scripted(
    scripts: Sequence[Script | SourceError],
    *,
    live: LiveOptions | None = None,
    options: ReadOptions | None = None,
    returns: bool = True,
    patience: list[float] | None = None,
) -> LiveSource:
    """A live source whose every new connection is the next of ``scripts``; then the source is closed.

    ``patience`` is told how many seconds each connection was given.
    """
    stopped = threading.Event()
    coming = iter(scripts)

    def connect(seconds: float) -> Connection:
        if patience is not None:
            patience.append(seconds)
        script = next(coming, None)
        if script is None:
            stopped.set()
            raise SourceError("no more scripts")
        if isinstance(script, SourceError):
            raise script
        return script

    how = live or LiveOptions(drop="block", reconnect_seconds=30)
    intake = Intake(
        "script", connect, how, options or ReadOptions(), drop=how.drop, returns=returns, stopped=stopped
    )
    return LiveSource(intake, 10.0)


def until_ended(source: Source) -> list[tuple[int, int, int]]:
    """(number, pts in milliseconds, epoch) of every frame that comes."""
    return [(number_of(frame.image), round(1000 * frame.pts_seconds), frame.epoch) for frame in source]
