"""Encoding the frames of one video in order, with any method inside the vision tower."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch

from streamprune.cache.ledger import Ledger
from streamprune.encoder.base import EncoderMethod, TowerMethod
from streamprune.encoder.stc import STCCacher
from streamprune.errors import InvalidTypeError
from streamprune.models.base import EncodedFrames, VideoFamily
from streamprune.models.tower_stream import TowerStream, check_stream_signals, tower_parts

# pixels, signals and the frame before, as VideoFamily.encode takes them
Encode: TypeAlias = Callable[[torch.Tensor, Sequence[str], torch.Tensor | None], EncodedFrames]

# a video that is encoded at once may remember as much as it needs
_UNBOUNDED = 2**62


def check_inside(family: VideoFamily, method: TowerMethod, signals: Sequence[str] = ()) -> None:
    """Raise UnsupportedModelError, InvalidValueError or SignalError unless ``family`` can run ``method``."""
    if isinstance(method, STCCacher):
        tower_parts(family)
        check_stream_signals(family, signals)
    else:
        family.check_encoder(_reducing(method), signals)


def encode_inside(family: VideoFamily, method: TowerMethod | None) -> Encode:
    """What encodes the frames of one video, call after call, with ``method`` inside the tower or none.

    Each is for one video: a method may remember the frames before.
    """
    if isinstance(method, STCCacher):
        return TowerStream(family, method, Ledger(_UNBOUNDED)).encode
    reducing = None if method is None else _reducing(method)

    def encode(pixels: torch.Tensor, signals: Sequence[str], before: torch.Tensor | None) -> EncodedFrames:
        return family.encode(pixels, signals, reducing, before=before)

    return encode


def _reducing(method: TowerMethod) -> EncoderMethod:
    if not isinstance(method, EncoderMethod):
        raise InvalidTypeError(
            f"{type(method).__name__} must be a subclass of streamprune.encoder.base.EncoderMethod to run "
            "inside a vision tower"
        )
    return method
