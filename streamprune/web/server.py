"""Listening: a port that is ours before anything heavy is loaded, and a server that ends cleanly."""

from __future__ import annotations

import errno
import socket

import uvicorn
from starlette.types import ASGIApp

from streamprune.errors import InvalidValueError
from streamprune.web.options import WebOptions

_BACKLOG = 64
_GOODBYE_SECONDS = 3
# beyond the largest picture: up to here what is too large is refused with a message, above by hanging up
_ROOM_BYTES = 16_000_000


def listen(options: WebOptions) -> socket.socket:
    """Take the port. InvalidValueError when another program has it, or the host is none of this machine."""
    where = f"{options.host}:{options.port}"
    try:
        found = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise InvalidValueError(f"host {options.host!r} is no name or address that is known here") from error
    family, kind, protocol, _, address = found[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise InvalidValueError(f"cannot listen on {where}: {_reason(error)}") from error
    return listening


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the port is in use; stop the program that has it, or choose another with --port (0: any free)"
    if error.errno == errno.EACCES:
        return "no permission; choose a port from 1024 on with --port"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine does not have that address; use one of its own, or 0.0.0.0 for all of them"
    return error.strerror or str(error)


def make_server(app: ASGIApp, options: WebOptions) -> uvicorn.Server:
    """A server for ``app``; ``run(sockets=[listen(options)])`` serves until Ctrl-C or ``should_exit``."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http="h11",
            ws="websockets-sansio",
            ws_max_size=options.max_upload_bytes + _ROOM_BYTES,
            ws_per_message_deflate=False,
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="on",
            timeout_graceful_shutdown=_GOODBYE_SECONDS,
        )
    )
