"""What stands before every request: right host, right origin, right size, right token; and safe headers.

Nothing of the page is handed out, and no stream is touched, before all of it has passed.
"""

from __future__ import annotations

import hmac
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streamprune.web.options import WebOptions

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SAFE_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "cache-control": "no-store",
}
_LOOPBACK_NAMES = {"localhost", "127.0.0.1", "::1"}
_DEFAULT_PORTS = {"http": 80, "https": 443}
_SECONDS_OF_COOKIE = 30 * 24 * 3600


class Guard:
    """Wraps the application of the page; see the module."""

    def __init__(self, app: ASGIApp, options: WebOptions) -> None:
        self._app = app
        self.options = options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if scope["type"] == "websocket":
            if refusal is None:
                await self._app(scope, receive, send)
            else:
                await _deny(refusal, scope, receive, send)
            return
        await (refusal or self._app)(scope, receive, _with_safe_headers(send))

    def refuse(self, status: int, *reasons: str) -> Response:
        """The answer to a request that must not pass."""
        return _no(status, *reasons)

    def _refusal(self, scope: Scope) -> Response | None:
        """What is wrong with a request; None when it may pass."""
        headers = Headers(scope=scope)
        return (
            self._wrong_host(headers)
            or _wrong_origin(scope, headers)
            or self.too_large(headers)
            or self.wrong_token(scope, headers)
        )

    def _wrong_host(self, headers: Headers) -> Response | None:
        """Without a token, only names of this machine: another site's name may be made to point here."""
        host = _host_of(headers.get("host", ""))
        if self.options.token is not None or host in _LOOPBACK_NAMES | {self.options.host.lower()}:
            return None
        return self.refuse(
            421, f"this server is for this machine only; open it as 127.0.0.1, not as {host[:100]!r}"
        )

    def too_large(self, headers: Headers) -> Response | None:
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) <= self.options.max_upload_bytes:
            return None
        return self.refuse(
            413,
            f"{length[:20]} bytes are more than the {self.options.max_upload_bytes} taken in "
            "(--max-upload-bytes); send smaller pictures",
        )

    def wrong_token(self, scope: Scope, headers: Headers) -> Response | None:
        """Whoever does not show the token stays outside."""
        token = self.options.token
        if token is None:
            return None
        shown = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        if shown and equal(shown[0], token):
            # the token leaves the address at once: it would stay in the browser's history
            return self._welcome(scope, token) if scope["type"] == "http" else None
        if equal(bearer(headers), token) or equal(_cookie(headers, self._cookie_name(scope)), token):
            return None
        return self.refuse(
            401,
            "a wrong token was shown" if shown or headers.get("authorization") else "a token is needed",
            "; open the whole address that `streamprune serve` printed, or send the header "
            "Authorization: Bearer TOKEN",
        )

    def _welcome(self, scope: Scope, token: str) -> Response:
        response = RedirectResponse("/", 303)
        response.set_cookie(
            self._cookie_name(scope), token, max_age=_SECONDS_OF_COOKIE, httponly=True, samesite="strict",
            secure=scope["scheme"] == "https",
        )  # fmt: skip
        return response

    def _cookie_name(self, scope: Scope) -> str:
        """Cookies do not know ports, so that two servers on one machine need two names."""
        server = scope.get("server")
        return f"streamprune_token_{server[1] if server else self.options.port}"


def _no(status: int, *reasons: str) -> Response:
    headers = {"www-authenticate": "Bearer"} if status == 401 else None
    return PlainTextResponse("".join(reasons) + "\n", status, headers)


def _wrong_origin(scope: Scope, headers: Headers) -> Response | None:
    """Browsers tell which page opens a WebSocket; only this server's own may. Programs tell nothing."""
    origin = headers.get("origin")
    if scope["type"] != "websocket" or origin is None:
        return None
    parts = urlsplit("")
    try:
        parts = urlsplit(origin)
        place = (parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme))
        host = urlsplit(f"{parts.scheme}://{headers.get('host', '')}")
        own = (host.hostname, host.port or _DEFAULT_PORTS.get(parts.scheme))
    except ValueError:
        place, own = (None, None), ("", None)
    if parts.scheme in _DEFAULT_PORTS and place == own:
        return None
    return _no(403, f"pages of {origin[:100]} may not use this server; open the server's own page")


def _host_of(header: str) -> str:
    try:
        return (urlsplit(f"//{header}").hostname or "").lower()
    except ValueError:
        return ""


def bearer(headers: Headers) -> str:
    kind, _, value = headers.get("authorization", "").partition(" ")
    return value.strip() if kind.lower() == "bearer" else ""


def _cookie(headers: Headers, name: str) -> str:
    # lenient: what other programs on this machine have set must not hide ours
    return cookie_parser(headers.get("cookie", "")).get(name, "")


def equal(shown: str, token: str) -> bool:
    """Compared in a time that does not tell how much of it was right."""
    return hmac.compare_digest(shown.encode("utf-8", "surrogateescape"), token.encode())


def _with_safe_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(_SAFE_HEADERS)
        await send(message)

    return sending


async def _deny(refusal: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a handshake with a status and a reason where the server can, else close it."""
    if "websocket.http.response" in scope.get("extensions", {}):
        await refusal(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": 1008, "reason": bytes(refusal.body).decode().strip()})
