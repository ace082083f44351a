"""Endless streams: random access by frame number, rare objects to remember, questions about any past.

A stream is cut into chapters of 32 frames, each a pure function of (split, seed, chapter). Three shapes in
fixed
colours are always about; four other shapes and the ten digits are rare: each is seen once per era, for a
frame or
two, so a question about one of them has one answer as long as the era lasts (or for ever, with one era only).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from streamprune.embedded.world.clips import render_script
from streamprune.embedded.world.draw import CELLS, COLOR_NAMES, DIGITS, SHAPES, cell_coverage
from streamprune.embedded.world.questions import GROUPS
from streamprune.embedded.world.scenes import Role, Scene, Script, Thing, add_brief, add_main, make_scene
from streamprune.embedded.world.seeds import Split, check_count, check_split, generator
from streamprune.embedded.world.wordings import held_out, training
from streamprune.errors import InvalidValueError

CHAPTER_FRAMES = 32
_NUM_AMBIENT = 3
_RARE = len(SHAPES) - _NUM_AMBIENT + len(DIGITS)
MIN_ERA_FRAMES = CHAPTER_FRAMES * _RARE
Age = Literal["now", "recent", "past"]
NOW_FRAMES = 4
RECENT_FRAMES = 64


@dataclass(frozen=True)
class Event:
    """An object seen in frames ``[start, stop)``; ``place`` is its corner if it stands in one."""

    kind: str
    color: str
    role: Role
    start: int
    stop: int
    motion: str
    place: str | None

    @property
    def name(self) -> str:
        """What a question calls it."""
        return f"number {self.kind}" if self.role == "digit" else self.kind


@dataclass(frozen=True)
class StreamQuestion:
    """A question asked after frame ``at_frame - 1``, with the frame intervals that hold its evidence."""

    text: str
    answer: str
    type: str
    at_frame: int
    age: Age
    evidence: tuple[tuple[int, int], ...]

    @property
    def group(self) -> str:
        """Which kind of evidence it needs: ``needle``, ``main`` or ``global``."""
        return GROUPS[self.type]


class _StreamCast:
    """Ambient shapes in turn; the rare object of a chapter when asked for one."""

    def __init__(self, mains: Sequence[tuple[str, str]], rare: tuple[str, str] | None) -> None:
        self.mains = list(mains)
        self.rare = rare

    def next(self, role: Role) -> tuple[str, str]:
        """Return kind and colour of the next object."""
        if role == "main":
            self.mains.append(self.mains.pop(0))
            return self.mains[-1]
        if self.rare is None:
            raise InvalidValueError("this chapter has no rare object; ask for role 'main' only.")
        return self.rare


class Stream:
    """A video without end: ``frame(n)`` is a pure function of (split, seed, n).

    ``era_frames`` (at least 448) is how long rare objects stay unique; with ``repeat`` they come again in
    every era,
    in other colours, without it only in the first. ``static`` is a fixed camera: one background, no cuts,
    no pan.
    """

    def __init__(
        self,
        seed: int,
        split: Split = "eval",
        *,
        fps: float = 1.0,
        era_frames: int = 1800,
        repeat: bool = True,
        static: bool = False,
    ) -> None:
        check_split(split)
        check_count("seed", seed, 0, 2**63 - 1)
        check_count("era_frames", era_frames, MIN_ERA_FRAMES, 2**31)
        if not fps > 0 or fps == float("inf"):
            raise InvalidValueError(f"fps must be positive and finite, got {fps}.")
        self.seed, self.split, self.fps = seed, split, fps
        self.repeat, self.static = repeat, static
        self.era_chapters = era_frames // CHAPTER_FRAMES
        rng = generator(split, "stream", seed)
        shapes = [SHAPES[i] for i in rng.permutation(len(SHAPES))]
        colors = [COLOR_NAMES[i] for i in rng.permutation(len(COLOR_NAMES))]
        self.ambient = tuple(zip(shapes[:_NUM_AMBIENT], colors[:_NUM_AMBIENT], strict=True))
        self._rare_shapes = shapes[_NUM_AMBIENT:]
        self._background = make_scene(rng, 0, CHAPTER_FRAMES, set())
        self._chapter = lru_cache(maxsize=64)(self._make_chapter)
        self._schedule = lru_cache(maxsize=64)(self._make_schedule)

    def _make_schedule(self, era: int) -> dict[int, tuple[str, str]]:
        """Which chapter of an era shows which rare object."""
        if era > 0 and not self.repeat:
            return {}
        rng = generator(self.split, "stream", self.seed, 1, era)
        chapters = rng.permutation(self.era_chapters)[:_RARE]
        kinds = [*self._rare_shapes, *DIGITS]
        colors = rng.permutation(len(COLOR_NAMES))
        return {
            int(chapter): (kind, COLOR_NAMES[colors[i % len(colors)]])
            for i, (chapter, kind) in enumerate(zip(chapters, kinds, strict=True))
        }

    def _make_chapter(self, chapter: int) -> Script:
        """Script of one chapter, frames counted from its start."""
        rng = generator(self.split, "chapter", self.seed, chapter)
        cut = CHAPTER_FRAMES if self.static or rng.random() < 0.4 else int(rng.integers(10, 23))
        bounds = [(0, cut), (cut, CHAPTER_FRAMES)] if cut < CHAPTER_FRAMES else [(0, CHAPTER_FRAMES)]
        taken: set[int] = set()
        scenes = tuple(self._scene(rng, start, stop, taken) for start, stop in bounds)
        rare = self._schedule(chapter // self.era_chapters).get(chapter % self.era_chapters)
        order = [self.ambient[i] for i in rng.permutation(_NUM_AMBIENT)]
        cast, things = _StreamCast(order, rare), list[Thing]()
        for number, span in enumerate(bounds):
            for _ in range(1 + int(rng.random() < 0.35)):
                add_main(rng, cast, things, number, span)
        if rare is not None:
            add_brief(rng, cast, things, bounds, "digit" if rare[0] in DIGITS else "needle")
        gains, offsets = rng.integers(60, 69, CHAPTER_FRAMES), rng.integers(0, 100_000, CHAPTER_FRAMES)
        if self.static:
            gains[:] = 64
        sigma = 2 if self.static else int(rng.integers(2, 9))
        return Script(
            CHAPTER_FRAMES, scenes, tuple(things), sigma, tuple(gains.tolist()), tuple(offsets.tolist())
        )

    def _scene(self, rng: np.random.Generator, start: int, stop: int, taken: set[int]) -> Scene:
        if self.static:
            return Scene(start, stop, self._background.texture, self._background.origin, (0.0, 0.0))
        return make_scene(rng, start, stop, taken)

    def frame(self, number: int) -> NDArray[np.uint8]:
        """Return frame ``number`` (0, 1, 2, ...), uint8 RGB (96, 96, 3)."""
        check_count("number", number, 0, 2**53)
        chapter, local = divmod(number, CHAPTER_FRAMES)
        drawn: NDArray[np.uint8] = render_script(self._chapter(chapter), self.split, [local])[0]
        return drawn

    def frames(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return frames ``[start, stop)``, uint8 RGB (stop - start, 96, 96, 3)."""
        shape = (max(0, stop - start), CELLS * 16, CELLS * 16, 3)
        out = np.empty(shape, np.uint8)
        for row in range(len(out)):
            out[row] = self.frame(start + row)
        return out

    def pts_seconds(self, number: int) -> float:
        """Time of a frame in seconds from the start."""
        return number / self.fps

    def events(self, start: int, stop: int) -> list[Event]:
        """Objects seen in frames ``[start, stop)``, in order of appearance; each with its whole interval."""
        found = []
        for chapter in range(start // CHAPTER_FRAMES, -(-stop // CHAPTER_FRAMES)):
            base = chapter * CHAPTER_FRAMES
            for t in self._chapter(chapter).things:
                if base + t.start < stop and base + t.stop > start:
                    place = t.quadrant(t.start) if t.motion == "still" else None
                    span = base + t.start, base + t.stop
                    found.append(Event(t.kind, t.color, t.role, *span, t.motion, place))
        return sorted(found, key=lambda event: (event.start, event.stop, event.kind))

    def coverage(self, question: StreamQuestion, number: int) -> NDArray[np.float32]:
        """Share of each 16 x 16 cell of frame ``number`` that the question's evidence covers, (6, 6)."""
        grid = np.zeros((CELLS, CELLS), np.float32)
        chapter, local = divmod(number, CHAPTER_FRAMES)
        base = chapter * CHAPTER_FRAMES
        for t in self._chapter(chapter).things:
            seen = (base + t.start, base + t.stop) in question.evidence and t.start <= local < t.stop
            if seen and (t.role != "main" or GROUPS[question.type] == "main"):
                grid = np.maximum(grid, cell_coverage(t.kind, t.half_pixels, t.center(local)))
        return grid

    def questions(
        self, at_frame: int, since: int = 0, ages: Sequence[Age] | None = None
    ) -> list[StreamQuestion]:
        """Every question that frames ``[since, at_frame)`` answer and whose answer is the only one there.

        Rare objects seen more than once in that window are not asked about. ``ages`` selects questions
        about now
        (evidence in the last 4 frames), recent (the last 64) and past. Wordings are those of the stream's
        split.
        """
        check_count("since", since, 0, 2**53)
        check_count("at_frame", at_frame, since, 2**53)
        rng = generator(self.split, "questions", self.seed, at_frame)
        rare = [
            e
            for e in self.events(since, at_frame)
            if e.role != "main" and since <= e.start and e.stop <= at_frame
        ]
        times = {e.name: sum(o.name == e.name for o in rare) for e in rare}
        unique = [event for event in rare if times[event.name] == 1]
        asked = [q for event in unique for q in self._about(event, at_frame, rng)]
        for first, second in ((a, b) for a in unique for b in unique if a.stop <= b.start):
            names = [first.name, second.name] if rng.random() < 0.5 else [second.name, first.name]
            text = self._put("before", rng, names[0], names[1])
            asked.append(self._question("before_needle", text, first.kind, at_frame, [first, second]))
        asked += self._about_now(since, at_frame, rng)
        return [q for q in asked if ages is None or q.age in ages]

    def _about(self, event: Event, at_frame: int, rng: np.random.Generator) -> list[StreamQuestion]:
        """Colour, place and existence of one rare object."""
        digit = event.role == "digit"
        kind = "digit_color" if digit else "color_needle"
        found = [self._question(kind, self._put("color", rng, event.name), event.color, at_frame, [event])]
        if digit:
            return found
        if event.place is not None:
            text = self._put("where", rng, event.name)
            found.append(self._question("where_needle", text, event.place, at_frame, [event]))
        others = [color for color in COLOR_NAMES if color != event.color]
        true = rng.random() < 0.5
        color = event.color if true else others[int(rng.integers(len(others)))]
        text = self._put("exist", rng, color, event.kind)
        found.append(self._question("exist_needle", text, "yes" if true else "no", at_frame, [event]))
        return found

    def _about_now(self, since: int, at_frame: int, rng: np.random.Generator) -> list[StreamQuestion]:
        """Colour and shape of what is on the screen; ambient colours never change, so answers are unique."""
        window = max(since, at_frame - NOW_FRAMES)
        rare_colors = {e.color for e in self.events(since, at_frame) if e.role == "needle"}
        found = []
        for event in (e for e in self.events(window, at_frame) if e.role == "main"):
            text = self._put("color", rng, event.kind)
            found.append(self._question("color_main", text, event.color, at_frame, [event]))
            if event.color not in rare_colors:
                text = self._put("shape", rng, event.color)
                found.append(self._question("shape_main", text, event.kind, at_frame, [event]))
        return found

    def _put(self, family: str, rng: np.random.Generator, a: str, b: str = "") -> str:
        choices = (held_out(family),) if self.split == "eval" else training(family)
        return choices[int(rng.integers(len(choices)))].format(a=a, b=b) + "?"

    def _question(
        self, kind: str, text: str, answer: str, at_frame: int, events: Sequence[Event]
    ) -> StreamQuestion:
        latest = at_frame - min(event.stop for event in events)
        age: Age = "now" if latest < NOW_FRAMES else "recent" if latest < RECENT_FRAMES else "past"
        spans = tuple((event.start, event.stop) for event in events)
        return StreamQuestion(text, answer, kind, at_frame, age, spans)


def stream(
    seed: int,
    split: Split = "eval",
    *,
    fps: float = 1.0,
    era_frames: int = 1800,
    repeat: bool = True,
    static: bool = False,
) -> Stream:
    """Return the endless stream of a seed; see Stream for the options."""
    return Stream(seed, split, fps=fps, era_frames=era_frames, repeat=repeat, static=static)
