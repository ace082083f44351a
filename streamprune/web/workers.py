"""Threads for what takes time, so that the event loop stays free to hear everybody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

Given = ParamSpec("Given")
Result = TypeVar("Result")

# of one session: a picture, two answers, their being stopped, numbers
_PER_SESSION = 6


class Workers:
    """A pool that is large enough for all sessions at once, and the tasks that use it."""

    def __init__(self, max_sessions: int) -> None:
        self._pool = ThreadPoolExecutor(_PER_SESSION * max_sessions + 2, "streamprune-web")
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(
        self, work: Callable[Given, Result], /, *args: Given.args, **kwargs: Given.kwargs
    ) -> Result:
        """Call ``work`` in a thread and wait for it."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: work(*args, **kwargs))

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Go on with ``work`` beside everything else; held, as the loop itself holds tasks weakly."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def drain(self) -> None:
        """Wait for every task that was started."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def close(self) -> None:
        """Wait for the threads."""
        self._pool.shutdown(wait=True)
