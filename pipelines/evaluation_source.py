"""A source that shows nothing later than a question: what streaming sets are asked from."""

from __future__ import annotations

from collections.abc import Generator, Iterable

from streamprune.errors import RecipeError
from streamprune.readers import Frame, Source


class UpToNow(Source):
    """``source`` as far as ``now_seconds``; whoever wants to see a later frame gets an error and no frame.

    Closing it closes ``source``.

    Attributes:
        latest_seconds: time of the latest frame that was shown, 0 before the first.
    """

    def __init__(self, source: Source, now_seconds: float | None) -> None:
        super().__init__(source.info)
        self.report = source.report
        self.latest_seconds = 0.0
        self._source = source
        self._now = now_seconds

    def sample(self, times_seconds: Iterable[float], *, keep_repeats: bool = False) -> list[Frame]:
        """As :meth:`Source.sample`; RecipeError when one of the frames is later than the question."""
        frames = self._source.sample(times_seconds, keep_repeats=keep_repeats)
        for frame in frames:
            self._see(frame.pts_seconds)
        return frames

    def _see(self, pts_seconds: float) -> None:
        check_not_later([pts_seconds], self._now, self.info.source)
        self.latest_seconds = max(self.latest_seconds, pts_seconds)

    def _frames(self, start_seconds: float, end_seconds: float | None) -> Generator[Frame, None, None]:
        for frame in self._source.read(start_seconds, end_seconds):
            self._see(frame.pts_seconds)
            yield frame

    def _sample(self, times_seconds: list[float]) -> dict[float, Frame]:
        found = self._source.sample(times_seconds, keep_repeats=True)
        return dict(zip(times_seconds, found, strict=True))

    def _keyframes(self) -> list[float]:
        return [time for time in self._source.keyframes() if self._now is None or time <= self._now]

    def _close(self) -> None:
        self._source.close()


def check_not_later(pts_seconds: Iterable[float], now_seconds: float | None, source: str) -> None:
    """Raise RecipeError when a frame is later than the question at ``now_seconds``."""
    late = [time for time in pts_seconds if now_seconds is not None and time > now_seconds]
    if late:
        raise RecipeError(
            f"{source}: a frame at {max(late):g} s was chosen for a question at {now_seconds:g} s; what is "
            "asked in a stream sees nothing later: take a frames method that keeps to its window"
        )
