"""A server of the page in a thread of this process, and what a page says to it, in Python."""

from __future__ import annotations

import io
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import numpy as np
from PIL import Image
from starlette.types import ASGIApp
from websockets.sync.client import ClientConnection, connect

from streamprune.web.options import WebOptions
from streamprune.web.server import listen, make_server


@dataclass(frozen=True)
class PageServer:
    """Where a server listens."""

    port: int

    def get(self, path: str = "/", **headers: str) -> tuple[HTTPResponse, str]:
        """Answer and text of one request."""
        return self._request("GET", path, None, headers)

    def post(self, path: str, body: bytes) -> tuple[HTTPResponse, str]:
        """The same, sending something."""
        return self._request("POST", path, body, {})

    def _request(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[HTTPResponse, str]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response, response.read().decode()
        finally:
            connection.close()

    def connect(self, query: str = "", name: str = "", **settings: Any) -> ClientConnection:
        """A WebSocket, as a page opens it; ``name`` is what the server is called, instead of its address."""
        there = socket.create_connection(("127.0.0.1", self.port), 10)
        address = f"ws://{name or f'127.0.0.1:{self.port}'}/live{query}"
        page: ClientConnection = connect(address, sock=there, compression=None, **settings)
        return page


@contextmanager
def served(app: ASGIApp, options: WebOptions) -> Iterator[PageServer]:
    """Serve until the end of the block; everything has ended then."""
    with listen(options) as listening:
        server = make_server(app, options)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="page-server")
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.005)
            yield PageServer(listening.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(20)
    assert not thread.is_alive()


def hear(
    page: ClientConnection, kind: str, wanted: Callable[[dict[str, Any]], bool] = lambda message: True
) -> dict[str, Any]:
    """The next message of a type that is ``wanted``; others are passed over, for ten seconds."""
    deadline = time.monotonic() + 10
    passed = []
    while time.monotonic() < deadline:
        heard = page.recv(timeout=10)
        if isinstance(heard, str):
            message: dict[str, Any] = json.loads(heard)
            if message["type"] == kind and wanted(message):
                return message
            passed.append(message)
    raise TimeoutError(f"no such {kind!r} came, but {passed}")


def say(page: ClientConnection, **message: Any) -> None:
    """Send one message."""
    page.send(json.dumps(message))


def jpeg(rows: int = 24, cols: int = 32, level: int = 128) -> bytes:
    """A picture of one colour."""
    out = io.BytesIO()
    Image.fromarray(np.full((rows, cols, 3), level, np.uint8)).save(out, "JPEG")
    return out.getvalue()


def picture(number: int, seconds: float, data: bytes | None = None) -> bytes:
    """A picture message."""
    return struct.pack(">Id", number, seconds) + (jpeg() if data is None else data)
