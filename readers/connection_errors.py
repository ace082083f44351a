"""What goes wrong between here and a live source, said to people."""

from __future__ import annotations

import errno
from typing import Any

from streamprune.errors import (
    SourceError,
    SourceFormatError,
    SourceNotFoundError,
    SourcePermissionError,
    SourceTimeoutError,
)

_AT_OPENING: dict[int, tuple[type[SourceError], str]] = {
    errno.EIO: (SourceNotFoundError, "cannot be reached; is the host's name right, and the network up?"),
    errno.EBUSY: (SourceError, "another program is using it"),
    errno.ENODEV: (SourceNotFoundError, "the camera is not plugged in"),
    errno.ENOTTY: (SourceFormatError, "this device gives no pictures; a camera may have a second number"),
}


def explained(error: Exception, name: str, *, opening: bool = False) -> SourceError:
    """What went wrong at ``name``, without anything of FFmpeg's own message that could hold a password."""
    import av

    kinds: tuple[tuple[Any, type[SourceError], str], ...] = (
        (
            (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError),
            SourcePermissionError,
            "the server refuses; give the right user and password, as in rtsp://user:password@host/path",
        ),
        (av.error.HTTPNotFoundError, SourceNotFoundError, "the server has nothing under this path"),
        (
            (av.error.HTTPClientError, av.error.HTTPServerError),
            SourceError,
            "the server answers with an error",
        ),
        (
            ConnectionRefusedError,
            SourceNotFoundError,
            "nothing listens there; is the server running, and the port right?",
        ),
        ((TimeoutError, av.error.ExitError), SourceTimeoutError, "no answer in time"),
        (PermissionError, SourcePermissionError, "no permission to open it"),
        (FileNotFoundError, SourceNotFoundError, "there is no such source"),
        (av.error.InvalidDataError, SourceFormatError, "what comes is no video, or stopped in the middle"),
    )
    for kind, ours, reason in kinds:
        if isinstance(error, kind):
            return ours(f"{name}: {reason}")
    number = getattr(error, "errno", None)
    if opening and number in _AT_OPENING:
        kind_then, why = _AT_OPENING[number]
        return kind_then(f"{name}: {why}")
    told = getattr(error, "strerror", None) or type(error).__name__
    return SourceError(f"{name}: cannot be read ({told})")
