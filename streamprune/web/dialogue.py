"""The questions of one session: answered side by side, told piece by piece, and kept to be read again."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from streamprune.errors import InvalidValueError, StreampruneError
from streamprune.web.messages import Ask
from streamprune.web.workers import Workers

if TYPE_CHECKING:
    from streamprune.pipelines.answers import AnswerStream

logger = logging.getLogger("streamprune.web")

_REMEMBERED = 100
_AT_ONCE = 2


@dataclass
class Exchange:
    """A question and what came of it; ``seconds`` is the moment of the stream it was asked at."""

    id: str
    question: str
    seconds: float | None
    text: str = ""
    state: Literal["answering", "done", "cancelled", "failed"] = "answering"
    error: str = ""
    ms: float | None = None


class Dialogue:
    """Asks a stream, and publishes ``piece`` and ``answered`` messages."""

    def __init__(
        self,
        ask: Callable[[str], AnswerStream],
        workers: Workers,
        publish: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self._ask = ask
        self._workers = workers
        self._publish = publish
        self._running: dict[str, AnswerStream | None] = {}
        self._exchanges: deque[Exchange] = deque(maxlen=_REMEMBERED)

    def history(self) -> list[dict[str, Any]]:
        """Every remembered exchange, oldest first."""
        return [asdict(exchange) for exchange in self._exchanges]

    def ask(self, asked: Ask, seconds: float | None) -> None:
        """Begin to answer; InvalidValueError when too much is being answered already."""
        if len(self._running) >= _AT_ONCE:
            raise InvalidValueError(f"{_AT_ONCE} questions are being answered; wait for one of them")
        if any(exchange.id == asked.id for exchange in self._exchanges):
            raise InvalidValueError(f"id {asked.id!r} was used by another question")
        exchange = Exchange(asked.id, asked.question, seconds)
        self._exchanges.append(exchange)
        self._running[asked.id] = None
        self._publish({"type": "asked", **asdict(exchange)})
        self._workers.start(self._answer(exchange))

    async def cancel(self, id: str) -> None:
        """Stop an answer; one that is over, or never was, stays as it is."""
        if id not in self._running:
            return
        exchange = next(exchange for exchange in self._exchanges if exchange.id == id)
        exchange.state = "cancelled"
        pieces = self._running[id]
        if pieces is not None:
            await self._workers.run(pieces.close)

    async def close(self) -> None:
        """Stop every answer."""
        for id in list(self._running):
            await self.cancel(id)

    def clear(self) -> None:
        """Forget what was said, but for what is being answered."""
        kept = [exchange for exchange in self._exchanges if exchange.id in self._running]
        self._exchanges.clear()
        self._exchanges.extend(kept)

    async def _answer(self, exchange: Exchange) -> None:
        began = time.monotonic()
        try:
            await self._tell(exchange)
            if exchange.state == "answering":
                exchange.state = "done"
        except StreampruneError as error:
            exchange.state, exchange.error = "failed", str(error)
        except Exception:
            logger.exception("a question failed")
            exchange.state, exchange.error = "failed", "something went wrong; the server's log says what"
        finally:
            self._running.pop(exchange.id, None)
        exchange.ms = (time.monotonic() - began) * 1000
        self._publish({"type": "answered", **asdict(exchange)})

    async def _tell(self, exchange: Exchange) -> None:
        pieces = await self._workers.run(self._ask, exchange.question)
        self._running[exchange.id] = pieces
        try:
            while exchange.state == "answering":
                piece = await self._workers.run(next, pieces, None)
                if piece is None:
                    return
                exchange.text += piece
                self._publish({"type": "piece", "id": exchange.id, "text": piece})
        finally:
            await self._workers.run(pieces.close)
