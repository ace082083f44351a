"""Encoded videos that are kept in memory: a question about the same video does not encode it again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from streamprune.web.openai_media import Media
from streamprune.web.openai_options import ApiOptions
from streamprune.web.openai_request import Overrides

if TYPE_CHECKING:
    from streamprune.pipelines.encoding import EncodedVideo
    from streamprune.pipelines.offline import VideoLLM
    from streamprune.recipe import Recipe


class StoppedError(Exception):
    """Nobody waits for the answer any more; never leaves the server."""


@dataclass(frozen=True)
class Look:
    """How a request's videos are looked at.

    Attributes:
        recipe: resolved, with its budget.
        num_frames: at most so many frames; None: as the recipe or the model says.
        fps: so many a second, at most ``num_frames``.
    """

    recipe: Recipe
    num_frames: int | None
    fps: float | None

    @classmethod
    def of(cls, asked: Overrides, options: ApiOptions) -> Look:
        """The server's own way with what the request chooses. Raises UsageError."""
        from streamprune.pipelines.request import read_recipe

        recipe = options.recipe if asked.recipe is None else asked.recipe
        # a ratio of the server's belongs to the server's recipe
        ratio = options.keep_ratio if asked.recipe is None and asked.keep_ratio is None else asked.keep_ratio
        frames = options.num_frames if asked.num_frames is None else asked.num_frames
        if asked.fps is not None and asked.num_frames is None:
            frames = options.max_frames
        return cls(read_recipe(recipe, ratio), frames, asked.fps)


class EncodedVideos:
    """Encodes videos, and keeps those that were used last.

    An entry is found by what is in the video, how its frames are chosen, the method inside the tower, the
    signals that came out, and the question where it chooses frames. It goes when newer ones need its bytes;
    one that is larger than all the room is not kept. Threads may share it.

    Args:
        vlm: what encodes.
        options: of the server: how many bytes are kept, and what videos may be like.
    """

    def __init__(self, vlm: VideoLLM, options: ApiOptions) -> None:
        self._vlm = vlm
        self._options = options
        self._kept: OrderedDict[str, EncodedVideo] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def held_bytes(self) -> int:
        """Of everything that is kept."""
        with self._lock:
            return sum(map(num_bytes, self._kept.values()))

    def encoded(self, media: Media, look: Look, question: str, stopped: threading.Event) -> EncodedVideo:
        """``media`` as visual tokens; StoppedError as soon as ``stopped`` is set, ApiError or others else."""
        from streamprune.pipelines.frame_request import FrameRequest
        from streamprune.pipelines.request import AnswerRequest

        look = replace(look, num_frames=self._num_frames(media, look))
        frames = FrameRequest(look.recipe, look.num_frames, look.fps)
        needs = AnswerRequest((), look.recipe).needs()
        asked = question if frames.reads_question else None
        method = frames.method(self._vlm.family.default_num_frames)
        key = repr((media.content, media.part.fps, method, look.recipe.stages.get("encoder"), needs, asked))
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                found = self._kept[key]
                return replace(found, decode_ms=0.0, preprocess_ms=0.0, encode_ms=0.0, choose_ms=0.0,
                               from_cache=True)  # fmt: skip
        encoded = self._encode(media, look, needs, asked, stopped)
        self._keep(key, encoded)
        return encoded

    def _num_frames(self, media: Media, look: Look) -> int | None:
        """As the request says; else all of those that were brought one by one, and never too many."""
        if look.num_frames is not None:
            return look.num_frames
        if media.parts and not media.is_file:
            return len(media.parts)
        most = self._options.max_frames
        return most if self._vlm.family.default_num_frames > most else None

    def _encode(
        self, media: Media, look: Look, needs: Sequence[str], question: str | None, stopped: threading.Event
    ) -> EncodedVideo:
        def check_wanted(stage: str, done: int, total: int) -> None:
            if stopped.is_set():
                raise StoppedError

        with media.opened(self._options) as source:
            return self._vlm.encode(
                source, recipe=look.recipe, num_frames=look.num_frames, fps=look.fps, question=question,
                signals=needs, progress=check_wanted,
            )  # fmt: skip

    def _keep(self, key: str, encoded: EncodedVideo) -> None:
        if num_bytes(encoded) > self._options.cache_bytes:
            return
        with self._lock:
            self._kept[key] = encoded
            while sum(map(num_bytes, self._kept.values())) > self._options.cache_bytes:
                self._kept.popitem(last=False)


def num_bytes(encoded: EncodedVideo) -> int:
    """Of everything that an encoded video holds on to."""
    tokens = encoded.tokens
    held = [tokens.features, *tokens.signals.values(), *([] if tokens.carried is None else [tokens.carried])]
    # two names may stand for one piece of memory
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in held}
    return sum(storages.values())
