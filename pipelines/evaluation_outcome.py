"""What comes of an evaluation: lines for answers, videos that could not be read, and where the time went."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from streamprune.benchmarks.item import Item
from streamprune.pipelines.evaluation_contenders import BASELINES, Contender
from streamprune.pipelines.journal import Key


class Lines(Protocol):
    """Where answers are noted: a Journal, or :class:`Unwritten`."""

    done: dict[Key, dict[str, Any]]

    def add(self, row: Mapping[str, Any]) -> None:
        """Note ``row``."""

    def finish(self, order: Iterable[Key]) -> None:
        """Put what was noted into ``order``."""


class Unwritten:
    """Lines that nobody asked to keep."""

    def __init__(self, key: Sequence[str]) -> None:
        self.done: dict[Key, dict[str, Any]] = {}
        self._key = key

    def add(self, row: Mapping[str, Any]) -> None:
        """Note ``row``."""
        self.done[tuple(row[name] for name in self._key)] = dict(row)

    def finish(self, order: Iterable[Key]) -> None:
        """Nobody sees the order."""


@dataclass(frozen=True)
class Unread:
    """A video of which questions could not be asked, and why."""

    video: str
    reason: str
    ids: tuple[str, ...]


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        items: the questions, those of unread videos included.
        contenders: who was asked.
        lines: all answers by key, those of earlier runs included.
        unread: videos that could not be read.
        notes: baselines that are not there, and why.
        asked: answers of this run.
        seconds: wall clock of this run.
        stage_seconds: of them in readers, towers, reducers and the language model.
    """

    items: Sequence[Item]
    contenders: Sequence[Contender]
    lines: Mapping[Key, Mapping[str, Any]] = field(default_factory=dict)
    unread: list[Unread] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    asked: int = 0
    seconds: float = 0.0
    stage_seconds: float = 0.0

    @property
    def baselines(self) -> list[str]:
        """Names of the baselines that there are."""
        return [name for name in BASELINES if name not in self.notes]

    def stand_in(self, name: str, item: Item, tokens: int) -> Mapping[str, Any] | None:
        """The line of a contender that is the baseline ``name`` with so many tokens, if there is one."""
        lines = (self.lines.get(one.key(item.id), {}) for one in self.contenders if one.name == name)
        return next((line for line in lines if line.get("equal_tokens") == tokens), None)

    @property
    def overhead_share(self) -> float | None:
        """Share of the run that went into neither videos nor models; None when nothing was asked."""
        return None if not self.asked else max(0.0, 1 - self.stage_seconds / self.seconds)
