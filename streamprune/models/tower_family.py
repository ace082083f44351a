"""What families share whose signals come from inside the tower, what leaves it, and the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from streamprune.encoder.base import EncoderMethod
from streamprune.errors import SignalError
from streamprune.models.base import VideoFamily
from streamprune.models.pixel_signals import PIXEL_SIGNALS
from streamprune.tokens import QUESTION_SIGNALS

# what leaves the tower, and nothing from inside it
LAST_SIGNALS = ("image_embeds", "frame_features")


class TowerFamily(VideoFamily):
    """A family that reads signals with a ``_tower`` of its own while the stock model encodes."""

    _tower: Any

    def available_signals(self) -> tuple[str, ...]:
        """The tower's, those of what leaves it, and those of the pictures."""
        return (*self._tower.names(), *LAST_SIGNALS, *PIXEL_SIGNALS)

    def cheap_signals(self) -> tuple[str, ...]:
        """What is known about a frame once it is encoded."""
        return ("frame_features",)

    def _read_inside(self, signals: Sequence[str], encoder: EncoderMethod | None) -> list[str]:
        """Those of ``signals`` that the tower is watched for, after checking that all can be given."""
        self.check_frame_signals(signals)
        if encoder is not None:
            self.check_encoder(encoder, signals)
        return [name for name in signals if name not in (*LAST_SIGNALS, *PIXEL_SIGNALS)]


def check_outside(family: VideoFamily, signals: Sequence[str], left: Sequence[str]) -> None:
    """Raise SignalError for any of ``signals`` that is read inside a tower where a method drops tokens.

    ``left`` are those that are not.
    """
    for name in signals:
        if name not in left:
            raise SignalError(
                f"the signal {name!r} is read inside the vision tower and needs all tokens there; use a "
                "method that does not need it, or leave out the encoder stage. "
                + family.methods_that_work((*left, *QUESTION_SIGNALS))
            )
