"""How the page is served: where, to whom, and how much it takes in."""

from __future__ import annotations

import ipaddress
import secrets
from dataclasses import dataclass, replace
from typing import Self

from streamprune.checks import check_count, check_number
from streamprune.errors import InvalidTypeError, InvalidValueError

# shorter ones can be guessed by trying
SHORT_TOKEN = 16


@dataclass(frozen=True, kw_only=True)
class WebOptions:
    """Where the page is served, and its bounds.

    Args:
        host: address to listen on; anything but this machine's own loopback asks visitors for a token.
        port: 0 takes any that is free.
        token: what visitors have to show; None: none on loopback, elsewhere `secured` makes one.
        max_upload_bytes: largest picture that is taken in.
        max_sessions: streams at the same time, each with a memory of its own.
        idle_seconds: a session without pictures or questions for so long is closed.
        fps: most pictures a second that pages send.
        max_new_tokens: longest answer.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    max_upload_bytes: int = 2_000_000
    max_sessions: int = 4
    idle_seconds: float = 600.0
    fps: float = 2.0
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        if not isinstance(self.host, str) or not self.host.strip():
            raise InvalidValueError(f"host must be a name or address, e.g. 127.0.0.1, got {self.host!r}")
        check_count("port", self.port, least=0)
        if self.port > 65535:
            raise InvalidValueError(f"port must be in 0..65535, got {self.port}")
        check_count("max_upload_bytes", self.max_upload_bytes)
        check_count("max_sessions", self.max_sessions)
        check_number("idle_seconds", self.idle_seconds, 1, 1e9)
        check_number("fps", self.fps, 0.01, 60)
        check_count("max_new_tokens", self.max_new_tokens)
        if self.token is not None:
            _check_token(self.token)

    @property
    def loopback(self) -> bool:
        """Only this machine can reach it."""
        if self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def secured(self) -> Self:
        """The same with a token wherever one is needed."""
        if self.loopback or self.token is not None:
            return self
        return replace(self, token=secrets.token_urlsafe(24))

    def address(self, port: int) -> str:
        """What to open in a browser when ``port`` is listened on; it carries the token."""
        unnamed = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
        host = unnamed.get(self.host, f"[{self.host}]" if ":" in self.host else self.host)
        return f"http://{host}:{port}/" + (f"?token={self.token}" if self.token else "")


def _check_token(token: object) -> None:
    if not isinstance(token, str):
        raise InvalidTypeError(f"token must be text, got {type(token).__name__}")
    # it travels in an address, a header and a cookie, where other characters would have to be quoted
    if not token or not all(c.isascii() and (c.isalnum() or c in "-._~") for c in token):
        raise InvalidValueError(
            "token must be letters, digits and -._~, at least one; leave it out to have one made"
        )
