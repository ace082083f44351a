"""How ``streamprune stream`` opens its stream, and which files it may write."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamprune.errors import InvalidValueError

if TYPE_CHECKING:
    from streamprune.pipelines.live import LiveStream
    from streamprune.pipelines.offline import VideoLLM
    from streamprune.readers import VideoInfo

_FPS = 2.0
_MEMORY_BYTES = "256MB"
_QUESTION_TOKENS = 192
_PICTURES = 3  # that wait, are decoded and are pushed


@dataclass(frozen=True)
class Opening:
    """How the stream is opened.

    Attributes:
        settings: those of the command line.
        max_new_tokens: longest answer, for which there must be room.
        file: what a saved stream is taken from, instead.
    """

    settings: Mapping[str, Any]
    max_new_tokens: int
    file: Path | None

    def check(self) -> None:
        """Refuse what cannot be meant before anything is opened."""
        if self.file is None:
            from streamprune.pipelines.live_options import StreamOptions

            StreamOptions.read(**self._complete())
        elif self.settings:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in self.settings)
            raise InvalidValueError(f"--load goes on with the settings in {self.file}; leave out {names}")
        elif not self.file.is_file():
            raise InvalidValueError(f"--load {self.file}: no such file; --save writes one")

    def begin(self, vlm: VideoLLM, info: VideoInfo) -> LiveStream:
        """Open it, with room for as many pictures like those of ``info`` as are under way at once."""
        if self.file is None:
            pictures = _PICTURES * info.rows * info.cols * 3
            return vlm.open_stream(**{**self._complete(), "frame_bytes": pictures})
        from streamprune.pipelines.live import LiveStream

        return LiveStream.load(self.file, vlm)

    @property
    def fps(self) -> float | None:
        """At most so many frames a second need to be converted; None: not known before the file is read."""
        return self._complete()["fps"] if self.file is None else None

    def _complete(self) -> dict[str, Any]:
        return {
            "recipe": None,
            "memory": None,
            "memory_bytes": _MEMORY_BYTES,
            "fps": _FPS,
            "answer_tokens": _QUESTION_TOKENS + self.max_new_tokens,
            **self.settings,
        }


def check_target(file: Path) -> None:
    """Refuse now what could not be written after hours."""
    if file.is_dir():
        raise InvalidValueError(f"--save {file}: this is a folder; name a file in it")
    if not file.absolute().parent.is_dir() or not os.access(file.absolute().parent, os.W_OK):
        raise InvalidValueError(f"--save {file}: its folder does not exist or cannot be written to")
