"""The options of live sources, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, TypeAlias, TypedDict, get_args

from streamprune.errors import InvalidValueError, UnknownNameError
from streamprune.readers.base import check_fps, check_seconds

DropPolicy: TypeAlias = Literal["latest", "every", "block"]
RtspTransport: TypeAlias = Literal["tcp", "udp"]


class LiveSettings(TypedDict, total=False):
    """The fields of LiveOptions that belong to live sources alone, as keywords."""

    drop: DropPolicy | None
    open_timeout_seconds: float
    read_timeout_seconds: float
    reconnect_seconds: float | None
    rtsp_transport: RtspTransport


@dataclass(frozen=True, kw_only=True)
class LiveOptions:
    """How frames that arrive by themselves are taken in.

    Args:
        fps: at most so many frames a second, chosen before they are converted; None takes all.
        drop: what happens to frames that arrive faster than they are read. "latest": only the newest waits;
            "every": all wait in order, and those for which there is no room are lost; "block": nothing is
            lost, and the source has to wait. None: "block" for pipes and downloads, else "latest".
        open_timeout_seconds: longest wait for a connection and its first frame.
        read_timeout_seconds: longest wait for the next frame; after it the connection counts as lost.
        reconnect_seconds: how long to try to come back after a loss; None: for ever, 0: not at all.
        rtsp_transport: how pictures of an RTSP server travel; "udp" where it refuses "tcp", which loses none.
    """

    fps: Fraction | float | None = None
    drop: DropPolicy | None = None
    open_timeout_seconds: float = 10.0
    read_timeout_seconds: float = 10.0
    reconnect_seconds: float | None = None
    rtsp_transport: RtspTransport = "tcp"

    def __post_init__(self) -> None:
        if self.fps is not None:
            check_fps("fps", self.fps)
        if self.drop is not None and self.drop not in get_args(DropPolicy):
            raise UnknownNameError.among("drop policy", self.drop, get_args(DropPolicy))
        if self.rtsp_transport not in get_args(RtspTransport):
            raise UnknownNameError.among("rtsp_transport", self.rtsp_transport, get_args(RtspTransport))
        for name in ("open_timeout_seconds", "read_timeout_seconds"):
            if check_seconds(name, getattr(self, name)) == 0:
                raise InvalidValueError(f"{name} must be above 0, got 0")
        if self.reconnect_seconds is not None:
            check_seconds("reconnect_seconds", self.reconnect_seconds)
