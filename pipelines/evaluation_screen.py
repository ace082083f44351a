"""One part of one video, encoded once for everybody who sees the same of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from streamprune.benchmarks.item import Item
from streamprune.encoder.base import TowerMethod
from streamprune.frames import FrameMethod, Uniform
from streamprune.models.base import VideoFamily
from streamprune.models.preprocessing import Clip
from streamprune.pipelines.encoding import EncodedVideo, Encoding, encode_video
from streamprune.pipelines.evaluation_contenders import (
    FEWER_FRAMES,
    FULL,
    LOWER_RESOLUTION,
    Contender,
    Smaller,
    in_size,
    one_size,
)
from streamprune.pipelines.evaluation_source import UpToNow, check_not_later
from streamprune.pipelines.frame_request import FrameRequest
from streamprune.pipelines.request import read_encoder
from streamprune.recipe import Recipe
from streamprune.tokens import VideoGrid


@dataclass(frozen=True)
class Looks:
    """Which frames are shown to everybody who does not choose their own.

    Args:
        num_frames: so many, evenly spread; with ``fps`` at most so many. Default: what suits the model.
        fps: so many a second.
    """

    num_frames: int | None = None
    fps: float | None = None

    def request(self, recipe: Recipe, item: Item | None = None) -> FrameRequest:
        """What ``recipe`` sees of the part of the video that ``item`` is about."""
        own = "frames" in recipe.stages
        window = (None, None) if item is None else (item.start_seconds, item.end_seconds)
        return FrameRequest(recipe, None if own else self.num_frames, None if own else self.fps, *window)


@dataclass(frozen=True)
class View:
    """What is seen of a video.

    Attributes:
        frames: which frames.
        encoder: the method inside the vision tower.
        size: pixels (rows, cols) of every frame; None leaves it to the family.
    """

    frames: FrameMethod
    encoder: TowerMethod | None = None
    size: tuple[int, int] | None = None


@dataclass
class Screen:
    """What is shown of one part of one video.

    Args:
        family: the model.
        source: the video, open.
        looks: which frames.
        item: says which part; the same for all its questions.
        signals: what any contender that sees what the full model sees will read.
        now_seconds: nothing later is shown; see :class:`UpToNow`.

    Attributes:
        seconds: what decoding and encoding took so far.
    """

    family: VideoFamily
    source: UpToNow
    looks: Looks
    item: Item
    signals: Sequence[str]
    now_seconds: float | None = None
    seconds: float = 0.0

    @cached_property
    def main(self) -> EncodedVideo:
        """What the full model sees; the other :class:`View` s are made when asked for, and not held."""
        return self._encode(self._main_view, self.signals, None)

    @property
    def grid(self) -> VideoGrid:
        """Of what the full model sees."""
        return self.main.tokens.grid

    @cached_property
    def _main_view(self) -> View:
        return self._chosen(Recipe.named("none"))

    def view(self, who: Contender) -> View | str:
        """What ``who`` sees, or why as many tokens cannot be had that way."""
        if who.keep_tokens is not None and who.name == LOWER_RESOLUTION:
            return self._lower(who.keep_tokens)
        if who.keep_tokens is not None and who.name == FEWER_FRAMES:
            return self._fewer(who.keep_tokens)
        return self._main_view if who.name == FULL else self._chosen(who.recipe)

    def encode(self, view: View, signals: Sequence[str], question: str | None = None) -> EncodedVideo:
        """The video as ``view`` shows it, with what methods will read of it."""
        if view == self._main_view and question is None:
            return self.main
        return self._encode(view, signals, question)

    def _chosen(self, recipe: Recipe) -> View:
        request = self.looks.request(recipe, self.item)
        return View(request.method(self.family.default_num_frames), read_encoder(recipe))

    def _encode(self, view: View, signals: Sequence[str], question: str | None) -> EncodedVideo:
        how = Encoding("pyav", self.family.frames_per_batch, None, view.encoder)
        shown_by = in_size(self.family, view.size)
        began = time.perf_counter()
        video = encode_video(shown_by, self.source, view.frames, signals, how, question=question)
        self.seconds += time.perf_counter() - began
        check_not_later(video.pts_seconds, self.now_seconds, video.source)
        return video

    @property
    def _smaller(self) -> Smaller:
        info = self.source.info
        frames = self.grid.frames * self.family.frames_per_slice
        return Smaller(self.family, Clip(frames, info.rows, info.cols))

    def _fewer(self, tokens: int) -> View | str:
        frames, made = self._smaller.frames(tokens)
        if abs(made.tokens - tokens) > made.tokens_per_frame:
            return (
                f"{frames} frames have {made.tokens} tokens, not {tokens}: the model shows fewer ones larger"
            )
        window = {"start_seconds": self.item.start_seconds or 0.0, "end_seconds": self.item.end_seconds}
        return View(Uniform(num_frames=frames, **window))  # type: ignore[arg-type]

    def _lower(self, tokens: int) -> View | str:
        size = self._smaller.size(tokens)
        return one_size(self.family) if size is None else replace(self._main_view, size=size)


def missing_baselines(family: VideoFamily) -> dict[str, str]:
    """Baselines that ``family`` cannot have, and why."""
    some = Clip(4 * family.frames_per_slice, 480, 640)
    return {} if Smaller(family, some).size(1) is not None else {LOWER_RESOLUTION: one_size(family)}
