"""Which frames a question is answered from. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from fractions import Fraction
from typing import Any

from streamprune.errors import InvalidTypeError, InvalidValueError
from streamprune.frames import Fps, FrameMethod, Uniform
from streamprune.recipe import Choice, Recipe
from streamprune.registry import build_method, get_method


@dataclass(frozen=True)
class FrameRequest:
    """Which frames to look at.

    Args:
        recipe: its frames stage is used where neither ``frames`` nor ``fps`` is given.
        num_frames: so many, evenly spread unless a frames method is named; with ``fps``: at most so many.
        fps: so many a second.
        start_seconds: look at nothing before this; None is the beginning.
        end_seconds: look at nothing from this on; None is the end.
        frames: a frames method or the name of one, in place of the recipe's; ``num_frames`` and the window
            replace its own where they are given.
    """

    recipe: Recipe
    num_frames: int | None = None
    fps: float | Fraction | None = None
    start_seconds: float | None = None
    end_seconds: float | None = None
    frames: str | FrameMethod | None = None

    def __post_init__(self) -> None:
        if self.frames is not None and not isinstance(self.frames, str | FrameMethod):
            raise InvalidTypeError(
                f"frames must be a frames method or the name of one, got {self.frames!r}; "
                "num_frames= says how many"
            )
        self.method(1)
        if self.frames is not None and self.fps is not None:
            raise InvalidValueError(
                f"frames={self.frames!r} and fps={self.fps!r} both say where to look; give one, and "
                "num_frames if you like"
            )

    @property
    def reads_question(self) -> bool:
        """Whether each question looks at frames of its own."""
        return "relevance" in self.method(1).needs

    @property
    def given(self) -> dict[str, Any]:
        """The same as arguments of ``encode`` and ``ask``."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @property
    def says_something(self) -> bool:
        """Whether the user chose anything about frames, apart from the recipe."""
        chosen = (self.num_frames, self.fps, self.start_seconds, self.end_seconds, self.frames)
        return any(value is not None for value in chosen)

    def method(self, default_num_frames: int) -> FrameMethod:
        """The frames method; ``default_num_frames`` where it must be told a number and was told none."""
        window: dict[str, Any] = {
            name: value
            for name, value in (("start_seconds", self.start_seconds), ("end_seconds", self.end_seconds))
            if value is not None
        }
        if self.fps is not None:
            return Fps(fps=self.fps, max_frames=self.num_frames, **window)
        if isinstance(self.frames, FrameMethod):
            return replace(self.frames, **window, **_count(type(self.frames), self.num_frames))
        count = default_num_frames if self.num_frames is None else self.num_frames
        choice = self.recipe.stages.get("frames") if self.frames is None else Choice(self.frames)
        if choice is None:
            return Uniform(num_frames=count, **window)
        cls = get_method("frames", choice.method).load()
        takes_number = "num_frames" in _options(cls)
        if self.frames is None and self.num_frames is not None and not takes_number:
            return Uniform(num_frames=count, **window)
        told = count if takes_number and "num_frames" not in choice.options else self.num_frames
        options = {**choice.options, **window, **_count(cls, told)}
        built = build_method("frames", choice.method, options)
        if not isinstance(built, FrameMethod):
            raise InvalidTypeError(
                f"the frames method {choice.method!r} must be a subclass of "
                f"streamprune.frames.FrameMethod, got {type(built).__name__}"
            )
        return built


def _options(cls: type) -> set[str]:
    return {option.name for option in fields(cls)} if is_dataclass(cls) else set()


def _count(cls: type, count: int | None) -> dict[str, int]:
    """``count`` as the option by which a frames method takes it."""
    if count is None:
        return {}
    option = next((name for name in ("num_frames", "max_frames") if name in _options(cls)), None)
    if option is None:
        raise InvalidValueError(f"{cls.__name__} takes no number of frames; leave out num_frames={count!r}")
    return {option: count}
