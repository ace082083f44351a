"""Answers in the shape of OpenAI's chat completions: whole, or as server-sent events."""

from __future__ import annotations

import json
import secrets
import time
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from streamprune.web.openai_errors import ApiError
from streamprune.web.openai_request import ChatRequest
from streamprune.web.openai_work import Told

_STAGES = ("decode", "preprocess", "encode", "choose", "reduce", "prefill", "generate")


class Reply:
    """What one client gets.

    Args:
        model: name of the model, as it is told.
    """

    def __init__(self, model: str, scope: Scope, receive: Receive, send: Send) -> None:
        self._model = model
        self._asgi = (scope, receive, send)
        self._send = send
        self._id = f"chatcmpl-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._started = False
        self._answered = False

    async def piece(self, text: str) -> None:
        """Send the next piece of a stream."""
        await self._start()
        await self._event(self._chunk({"content": text}))

    async def finish(self, chat: ChatRequest, told: Told) -> None:
        """Send what is left to say, all of it where nothing was sent yet and nobody asked for a stream."""
        reason = "length" if told.cut_short else "stop"
        if not chat.stream:
            message = {"role": "assistant", "content": told.answer.text, "refusal": None}
            choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
            body = {
                **self._head("chat.completion"), "choices": [choice], "usage": usage(told),
                "streamprune": what_it_took(told),
            }  # fmt: skip
            self._answered = True
            await JSONResponse(body)(*self._asgi)
            return
        await self._start()
        await self._event({**self._chunk({}, reason), "streamprune": what_it_took(told)})
        if chat.include_usage:
            await self._event({**self._chunk({}), "choices": [], "usage": usage(told)})
        await self._done()

    async def fail(self, error: ApiError) -> None:
        """Say what went wrong, as an event where the stream has begun."""
        if self._answered:  # it cannot be taken back
            return
        if not self._started:
            await error.response(*self._asgi)
            return
        await self._event(error.body)
        await self._done()

    async def _start(self) -> None:
        """Begin a stream, when there is something to say: until then a failure has a status of its own."""
        if self._started:
            return
        self._started = True
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-store"),
            # proxies that collect an answer would hold the pieces back
            (b"x-accel-buffering", b"no"),
        ]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._event(self._chunk({"role": "assistant", "content": ""}))

    async def _event(self, data: dict[str, Any]) -> None:
        text = f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"
        await self._send({"type": "http.response.body", "body": text.encode(), "more_body": True})

    async def _done(self) -> None:
        await self._send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}

    def _chunk(self, delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}


def usage(told: Told) -> dict[str, Any]:
    """Tokens that entered the language model, the kept visual ones among them, and that came out."""
    stats = told.answer.stats
    return {
        "prompt_tokens": stats.prompt_tokens,
        "completion_tokens": stats.new_tokens,
        "total_tokens": stats.prompt_tokens + stats.new_tokens,
    }


def what_it_took(told: Told) -> dict[str, Any]:
    """What other servers do not tell: how much of the videos was kept, and milliseconds by stage."""
    answer, stats = told.answer, told.answer.stats
    milliseconds = {"queue": told.queue_ms, **{name: getattr(stats, f"{name}_ms") for name in _STAGES}}
    return {
        "recipe": answer.recipe,
        "frames": stats.frames,
        "tokens_in": stats.tokens_in,
        "tokens_kept": stats.tokens_kept,
        "encoded_before": told.from_cache,
        "ms": {name: round(value, 3) for name, value in milliseconds.items()},
        "warnings": list(answer.warnings),
    }
