"""What went wrong, in the shape that clients of OpenAI-style servers read."""

from __future__ import annotations

import logging
from typing import Any

from starlette.responses import JSONResponse

from streamprune.errors import (
    ContextLengthError,
    DeviceError,
    MissingDependencyError,
    ModelError,
    SignalError,
    SourceError,
    UsageError,
)

logger = logging.getLogger("streamprune.web")

_INVALID = "invalid_request_error"
_SERVER = "server_error"
# status of HTTP and what to call it, the first that fits
_KNOWN: tuple[tuple[type[Exception], int, str], ...] = (
    (ContextLengthError, 400, "context_length_exceeded"),
    (DeviceError, 503, "out_of_memory"),
    (SignalError, 400, "unsupported_recipe"),
    (ModelError, 400, "unsupported_recipe"),
    (SourceError, 422, "unreadable_video"),
    (MissingDependencyError, 503, "not_installed"),
    (UsageError, 400, "invalid_value"),
    (TimeoutError, 503, "timeout"),
)


class ApiError(Exception):
    """A request that cannot be served.

    Args:
        status: of HTTP.
        message: for people; names no file of this machine that the client did not name.
        code: for programs.
        param: the field of the request that is at fault.
    """

    def __init__(self, status: int, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.kind = _SERVER if status >= 500 else _INVALID

    @classmethod
    def of(cls, error: BaseException) -> ApiError:
        """What to tell of ``error``; of one that nobody foresaw nothing but that it is in the log."""
        if isinstance(error, ApiError):
            return error
        # a time-out of the reader is a SourceError as well, which comes first
        for kind, status, code in _KNOWN:
            if isinstance(error, kind):
                return cls(status, str(error) or "it took too long", code)
        logger.error("a request failed", exc_info=error)
        return cls(500, "the server failed; its log says why", "internal_error")

    @property
    def body(self) -> dict[str, Any]:
        """What is sent."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    @property
    def response(self) -> JSONResponse:
        """The same as an answer of HTTP."""
        headers = {"www-authenticate": "Bearer"} if self.status == 401 else None
        if self.status == 503:
            headers = {"retry-after": "1"}
        return JSONResponse(self.body, self.status, headers)


def invalid(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """What was asked for cannot be meant, or not done here."""
    return ApiError(400, message, code, param)


def too_large(message: str, param: str | None = None) -> ApiError:
    """More than is taken in."""
    return ApiError(413, message, "too_large", param)
