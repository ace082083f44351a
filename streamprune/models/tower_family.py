"""What families share whose signals come from inside the tower, what leaves it, and the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from streamprune.encoder.base import EncoderMethod
from streamprune.models.base import VideoFamily
from streamprune.models.pixel_signals import PIXEL_SIGNALS

_LAST_SIGNALS = ("image_embeds", "frame_features")


class TowerFamily(VideoFamily):
    """A family that reads signals with a ``_tower`` of its own while the stock model encodes."""

    _tower: Any

    def available_signals(self) -> tuple[str, ...]:
        """The tower's, those of what leaves it, and those of the pictures."""
        return (*self._tower.names(), *_LAST_SIGNALS, *PIXEL_SIGNALS)

    def cheap_signals(self) -> tuple[str, ...]:
        """What is known about a frame once it is encoded."""
        return ("frame_features",)

    def _read_inside(self, signals: Sequence[str], encoder: EncoderMethod | None) -> list[str]:
        """Those of ``signals`` that the tower is watched for, after checking that all can be given."""
        self.check_frame_signals(signals)
        if encoder is not None:
            self.check_encoder(encoder, signals)
        return [name for name in signals if name not in (*_LAST_SIGNALS, *PIXEL_SIGNALS)]
