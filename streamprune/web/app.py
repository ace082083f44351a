"""The application: the page's files, and the one WebSocket that everything else goes through."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

from streamprune.errors import InvalidValueError, StreampruneError
from streamprune.web.guard import Guard
from streamprune.web.options import WebOptions
from streamprune.web.outbox import TRY_LATER, Outbox
from streamprune.web.session import Session
from streamprune.web.sessions import Sessions
from streamprune.web.shared import SharedSource

if TYPE_CHECKING:
    from streamprune.pipelines.live import LiveStream

logger = logging.getLogger("streamprune.web")

_STATIC = Path(__file__).with_name("static")


def create_app(
    open_stream: Callable[[], LiveStream],
    options: WebOptions,
    about: Mapping[str, Any],
    shared: SharedSource | None = None,
) -> Starlette:
    """The page as an ASGI application.

    Args:
        open_stream: makes the stream of a page that brings its own pictures.
        options: who may come, and how much is taken in.
        about: plain values that pages show: "model" and "settings".
        shared: the server's own source, which all pages look at; started and closed with the application.

    Raises InvalidValueError for a host that others can reach, without a token.
    """
    if not options.loopback and options.token is None:
        raise InvalidValueError(
            f"token must be given where others can reach the host, which is {options.host!r}; "
            "WebOptions.secured() makes one"
        )

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        sessions = Sessions(open_stream, shared, options)
        app.state.sessions = sessions
        if shared is not None:
            shared.start()
        tidying = asyncio.create_task(sessions.close_idle())
        try:
            yield
        finally:
            tidying.cancel()
            await sessions.close()

    app = Starlette(
        routes=[
            Route("/", _page),
            Route("/health", _health),
            WebSocketRoute("/live", _live),
            Mount("/static", StaticFiles(directory=_STATIC)),
        ],
        middleware=[Middleware(Guard, options=options)],
        lifespan=lifespan,
    )
    app.state.about = dict(about)
    return app


async def _page(request: Request) -> FileResponse:
    return FileResponse(_STATIC / "index.html")


async def _health(request: Request) -> JSONResponse:
    """That the server is there and lets the asker in; pages look here when a connection fails."""
    return JSONResponse({"ok": True})


async def _live(websocket: WebSocket) -> None:
    await websocket.accept()
    sessions: Sessions = websocket.app.state.sessions
    try:
        session = await sessions.join(websocket.query_params.get("session"))
    except StreampruneError as error:
        await websocket.send_json({"type": "error", "message": str(error)})
        await websocket.close(TRY_LATER, "no stream could be opened")
        return
    outbox = Outbox()
    session.attach(outbox)
    outbox.put(session.greeting(websocket.app.state.about))
    talking = [
        asyncio.create_task(outbox.run(websocket)),
        asyncio.create_task(_listen(websocket, session)),
    ]
    try:
        await asyncio.wait(talking, return_when=asyncio.FIRST_COMPLETED)
    finally:
        session.detach(outbox)
        for task in talking:
            task.cancel()
        for ended in await asyncio.gather(*talking, return_exceptions=True):
            if isinstance(ended, Exception):
                logger.error("a connection failed", exc_info=ended)


async def _listen(websocket: WebSocket, session: Session) -> None:
    """Pass on what the page says until it is gone."""
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            return
        said = message.get("bytes")
        await session.hear(message["text"] if said is None else said)
