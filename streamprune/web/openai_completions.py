"""POST /v1/chat/completions: a bounded queue before one model, and an end for whatever nobody waits for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from streamprune.web.openai_errors import ApiError, invalid, too_large
from streamprune.web.openai_media import MediaDoor
from streamprune.web.openai_options import ApiOptions
from streamprune.web.openai_reply import Reply
from streamprune.web.openai_request import ChatRequest
from streamprune.web.openai_videos import EncodedVideos, Look
from streamprune.web.openai_work import Told, Work

if TYPE_CHECKING:
    from streamprune.pipelines.offline import VideoLLM

Result = TypeVar("Result")

_FAREWELL_SECONDS = 2.0


class _GoneError(Exception):
    """The client has hung up."""


class ChatCompletions:
    """An ASGI application that answers one path.

    At most one request is with the model and ``max_queue`` others wait or are being read or downloaded; a
    further one is sent away with status 503 before its body is read. What a request holds is let go when its
    threads have ended, so that the bound holds for those, too.

    Args:
        vlm: the model.
        name: of it, as clients know it.
        options: bounds.

    Attributes:
        free_places: requests that would be taken now.
        videos: those that are encoded.
    """

    def __init__(self, vlm: VideoLLM, name: str, options: ApiOptions) -> None:
        self._vlm = vlm
        self._name = name
        self._options = options
        self.free_places = options.max_queue + 1
        self._door = MediaDoor(options)
        self.videos = EncodedVideos(vlm, options)
        self._model = ThreadPoolExecutor(1, "streamprune-model")
        self._reading = ThreadPoolExecutor(self.free_places, "streamprune-media")

    def close(self) -> None:
        """Wait for the threads."""
        self._reading.shutdown(wait=True)
        self._model.shutdown(wait=True, cancel_futures=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reply = Reply(self._name, scope, receive, send)
        try:
            with self._place():
                await self._serve(Request(scope, receive), reply)
        except (ClientDisconnect, _GoneError):
            return
        except asyncio.CancelledError:  # the server is being stopped
            await reply.fail(ApiError(503, "the server was stopped", "stopped"))
        except Exception as error:
            await reply.fail(ApiError.of(error))

    @contextmanager
    def _place(self) -> Iterator[None]:
        if not self.free_places:
            raise ApiError(503, "the server is busy; try again later", "queue_full")
        self.free_places -= 1
        try:
            yield
        finally:
            self.free_places += 1

    async def _serve(self, request: Request, reply: Reply) -> None:
        """Read, answer, and tell; all within the time a request may take."""
        deadline = asyncio.get_running_loop().time() + self._options.max_seconds
        try:
            async with asyncio.timeout_at(deadline):
                chat = ChatRequest.read(await self._body(request), self._options)
        except TimeoutError as error:
            raise self._too_slow() from error
        if chat.model != self._name:
            raise ApiError(
                404, f"there is no model {chat.model[:100]!r} here; GET /v1/models lists it",
                "model_not_found", "model",
            )  # fmt: skip
        work = Work(chat, Look.of(chat.overrides, self._options), self._vlm, self.videos)
        working = [asyncio.create_task(self._work(chat, work)), asyncio.create_task(_watch(request, work))]
        try:
            async with asyncio.timeout_at(deadline):
                await _relay(chat, work, reply)
        except _GoneError:
            raise
        except Exception as error:
            # a time-out of a reader has a class of its own
            problem = self._too_slow() if type(error) is TimeoutError else ApiError.of(error)
            # a client that does not read must not hold its place for longer
            with suppress(TimeoutError):
                async with asyncio.timeout(_FAREWELL_SECONDS):
                    await reply.fail(problem)
        finally:
            await self._end(work, working)

    async def _work(self, chat: ChatRequest, work: Work) -> None:
        """Let the videos in, then wait for the model."""
        try:
            media = await self._door.take(chat.said.media, self._in_thread)
        except Exception as error:
            work.tell(error)
            return
        running = self._model.submit(work.answer, media)
        try:
            await asyncio.wrap_future(running)
        except asyncio.CancelledError:
            if not running.cancelled():  # it had begun: its thread has to end first
                await asyncio.wait([asyncio.wrap_future(running)])
            raise

    async def _in_thread(self, call: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._reading, call)

    async def _end(self, work: Work, working: list[asyncio.Task[None]]) -> None:
        """Stop what still goes on, and wait until it has ended: only then is there room for another."""
        await self._in_thread(work.stop)
        for task in working:
            task.cancel()
        await asyncio.wait(working)

    async def _body(self, request: Request) -> object:
        """The JSON of a request, of which no more is read than is taken."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            # other types are what a page of another site may send without asking
            message = f"the body must be of type application/json, got {kind[:50]!r}"
            raise ApiError(415, message, "unsupported_type")
        found = bytearray()
        async for chunk in request.stream():
            found += chunk
            if len(found) > self._options.max_body_bytes:
                raise too_large(f"the body is larger than {self._options.max_body_bytes} bytes")
        try:
            return await self._in_thread(lambda: json.loads(found))
        except (ValueError, RecursionError) as error:
            raise invalid("the body is not JSON", code="invalid_json") from error

    def _too_slow(self) -> ApiError:
        limit = self._options.max_seconds
        return ApiError(503, f"the request took longer than {limit:g} s and was ended", "timeout")


async def _relay(chat: ChatRequest, work: Work, reply: Reply) -> None:
    """Tell the client what is heard of its request, until the end of it."""
    while True:
        event = await work.events.get()
        if isinstance(event, BaseException):
            raise event
        if isinstance(event, Told):
            await reply.finish(chat, event)
            return
        if chat.stream:
            await reply.piece(event)


async def _watch(request: Request, work: Work) -> None:
    """Say when the client hangs up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    work.tell(_GoneError())
