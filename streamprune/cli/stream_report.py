"""What ``streamprune stream`` prints where nobody watches a screen: plain lines, or JSON lines."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamprune.cli.stream_asking import Exchange
    from streamprune.pipelines.live_stats import LiveStats
    from streamprune.readers import Health

_EVERY_SECONDS = 5.0


@dataclass(frozen=True)
class Opened:
    """What is being watched, and how.

    Attributes:
        source: its name, without passwords.
        size: (rows, cols) of its pictures.
        settings: what ``LiveStream.describe`` says.
    """

    source: str
    size: tuple[int, int]
    settings: Mapping[str, Any]

    def __str__(self) -> str:
        rows, cols = self.size
        settings = self.settings
        return (
            f"{self.source} ({rows}x{cols}) with {settings['model']}, recipe {settings['recipe']}, "
            f"memory {settings['memory']['name']}"
        )


@dataclass(frozen=True)
class Moment:
    """How things are now.

    Attributes:
        stats: of the stream.
        health: of a live source; None for a file.
        draft: the question that is being typed.
    """

    stats: LiveStats
    health: Health | None
    draft: str = ""


class StreamReport(ABC):
    """Tells what happens; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def running(self) -> AbstractContextManager[Any]:
        """Around everything that is told."""
        return nullcontext()

    @abstractmethod
    def opened(self, opened: Opened) -> None:
        """The beginning."""

    @abstractmethod
    def moment(self, moment: Moment) -> None:
        """Called many times a second; what is worth telling is told."""

    @abstractmethod
    def asked(self, exchange: Exchange) -> None:
        """A question was put; its answer grows in ``exchange``."""

    @abstractmethod
    def answered(self, exchange: Exchange) -> None:
        """It is complete."""

    @abstractmethod
    def alert(self, question: str, text: str, seconds: float) -> None:
        """A question that is watched was answered as hoped."""

    @abstractmethod
    def note(self, kind: str, text: str, **about: Any) -> None:
        """Something else happened: the source was lost or is back, a file was written."""

    @abstractmethod
    def closed(self, moment: Moment) -> None:
        """The end."""


class LineReport(StreamReport):
    """Common to plain lines and JSON: statistics come every few seconds, everything else at once."""

    def __init__(self) -> None:
        super().__init__()
        self._due = time.monotonic() + _EVERY_SECONDS

    def moment(self, moment: Moment) -> None:
        """Tell the figures if it is time."""
        if time.monotonic() >= self._due:
            self._due += _EVERY_SECONDS
            self.figures(moment)

    def asked(self, exchange: Exchange) -> None:
        """The answer is told when it is complete."""

    @abstractmethod
    def figures(self, moment: Moment) -> None:
        """Tell how things are."""


class JsonReport(LineReport):
    """One JSON object a line; ``event`` says of what kind it is."""

    def opened(self, opened: Opened) -> None:
        """``opened``."""
        self._print("opened", dataclasses.asdict(opened))

    def figures(self, moment: Moment) -> None:
        """``stats``."""
        self._print("stats", _figures(moment))

    def answered(self, exchange: Exchange) -> None:
        """``answer``."""
        self._print("answer", exchange.to_dict())

    def alert(self, question: str, text: str, seconds: float) -> None:
        """``alert``."""
        self._print("alert", {"question": question, "text": text, "at_seconds": seconds})

    def note(self, kind: str, text: str, **about: Any) -> None:
        """``kind``."""
        self._print(kind, {"text": text, **about})

    def closed(self, moment: Moment) -> None:
        """``end``."""
        self._print("end", _figures(moment))

    def _print(self, event: str, about: Mapping[str, Any]) -> None:
        with self._lock:
            print(json.dumps({"event": event, **about}), flush=True)


class PlainReport(LineReport):
    """Lines to read."""

    def opened(self, opened: Opened) -> None:
        """What is watched."""
        self._print(f"watching {opened}")

    def figures(self, moment: Moment) -> None:
        """One line."""
        self._print(figures_line(moment))

    def answered(self, exchange: Exchange) -> None:
        """Question and answer."""
        said = f"no answer: {exchange.error}" if exchange.error else exchange.text
        self._print(f"[{exchange.at_seconds:.1f} s] {exchange.question}\n  {said}")

    def alert(self, question: str, text: str, seconds: float) -> None:
        """Alarm, question and answer."""
        self._print(f"[{seconds:.1f} s] ALERT {question}\n  {text}")

    def note(self, kind: str, text: str, **about: Any) -> None:
        """The text alone."""
        self._print(text)

    def closed(self, moment: Moment) -> None:
        """The last figures."""
        self._print(figures_line(moment))

    def _print(self, text: str) -> None:
        with self._lock:
            print(text, flush=True)


def figures_line(moment: Moment) -> str:
    """The figures of a moment in one line."""
    stats, frames = moment.stats, moment.stats.frames
    parts = [
        f"{stats.newest_seconds or 0:.1f} s",
        f"{frames.accepted} of {frames.seen} frames looked at",
        f"kept {kept_share(stats):.0%} of the tokens",
        f"{1 - stats.tower_share:.0%} reused",
        f"{sum(held_bytes(stats).values()) / 1e6:.1f} of {stats.memory_bytes / 1e6:.0f} MB",
    ]
    if stats.latency_seconds is not None:
        parts.append(f"{1000 * stats.latency_seconds:.0f} ms late")
    if moment.health is not None and moment.health.gaps:
        parts.append(f"{len(moment.health.gaps)} gaps")
    return ", ".join(parts)


def kept_share(stats: LiveStats) -> float:
    """Share of the visual tokens that the memory was given."""
    return stats.tokens_kept / stats.tokens_in if stats.tokens_in else 1.0


def held_bytes(stats: LiveStats) -> dict[str, int]:
    """Bytes in memory by tier, those that hold some; what is on disk does not count."""
    return {tier: nbytes for tier, nbytes in stats.held.items() if nbytes and tier != "spill"}


def _figures(moment: Moment) -> dict[str, Any]:
    health = None if moment.health is None else dataclasses.asdict(moment.health)
    return {**moment.stats.to_dict(), "health": health}
