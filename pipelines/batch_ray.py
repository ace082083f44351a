"""Batches on Ray Data: every actor of a pool looks after worker processes of its own.

What dies, what is tried once more and what is given up is decided beside the worker, as without Ray, so that
Ray never sees a video kill one of its actors. Rows come back while others are computed; the run that asked
writes them down, and needs no checkpoint of Ray's to go on after a kill.
"""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from types import ModuleType
from typing import Any, Self

from streamprune.errors import InvalidValueError, MissingDependencyError, ModelError, StreampruneError
from streamprune.pipelines.batch_pool import Row, WorkerPool, error_of
from streamprune.pipelines.batch_report import Work
from streamprune.pipelines.batch_settings import BatchSettings, Group

# of one cluster for this run; more than there are, as actors that take all starve Ray's own tasks
_LOGICAL_CPUS = 8
# what an actor takes of them; its worker takes a core or a device, whatever Ray believes
_ACTOR_CPUS = 0.25
_PROBE_SECONDS = 5.0
# number of the frame with which both sides of HTTP/2 begin
_SETTINGS = 4
# rows come back, and work is shared out, by blocks: so many for each worker, and none larger
_BLOCKS_PER_WORKER = 8
_GROUPS_PER_BLOCK = 8


class RayPool:
    """Workers on a Ray cluster, to be used as :class:`~streamprune.pipelines.batch_pool.WorkerPool` is.

    Args:
        settings: how they answer; model, videos and cache must be at the same places on every machine.
        workers: how many; None: one for each GPU of the cluster, else one for two CPUs.
        threads: as in WorkerPool.
        address: of a running cluster, "HOST:PORT", "ray://HOST:PORT" or "auto"; None begins one on this
            machine, which ends with the run.

    Raises MissingDependencyError without Ray, and InvalidValueError without a cluster at ``address``.
    """

    def __init__(
        self, settings: BatchSettings, workers: int | None, threads: int | None, address: str | None
    ) -> None:
        self._ray = _ray()
        self._settings, self._threads = settings, threads
        self._mine = not self._ray.is_initialized()
        if self._mine:
            _connect(self._ray, address)
        found = self._ray.cluster_resources()
        on_gpu = found.get("GPU", 0) >= 1 and (settings.device or "cuda").startswith("cuda")
        self._gpus = 1 if on_gpu else 0
        if workers is None:
            cpus = os.cpu_count() or 1 if self._mine and address is None else found.get("CPU", 1)
            workers = max(1, int(found["GPU"] if on_gpu else cpus / 2))
        self.work = Work(workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._mine:
            self._ray.shutdown()

    def run(self, groups: Sequence[Group]) -> Iterator[Row]:
        """Rows of all questions of ``groups``, as blocks of them are done. Raises as WorkerPool's."""
        workers = self.work.workers = min(self.work.workers, len(groups))
        most = max(1, min(_GROUPS_PER_BLOCK, len(groups) // (workers * _BLOCKS_PER_WORKER)))
        threads = 1 if self._threads is None and workers > 1 else self._threads
        left = {asked.id for group in groups for asked in group.questions}
        started, steady_from = time.monotonic(), 0.0
        if self._mine:
            self._ray.data.DataContext.get_current().enable_progress_bars = False
            logging.getLogger("ray.data").setLevel(logging.ERROR)
        data = self._ray.data.from_items([{"group": json.dumps(one.to_plain())} for one in groups])
        answered = data.repartition(math.ceil(len(groups) / most)).map_batches(
            _Actor,
            fn_constructor_args=(self._settings.to_plain(), threads),
            batch_size=most,
            compute=self._ray.data.ActorPoolStrategy(size=workers),
            num_cpus=_ACTOR_CPUS,
            num_gpus=self._gpus,
        )
        for said in self._said(answered):
            self._note(said["work"], started, steady_from)
            steady_from = steady_from or time.monotonic()
            for row in said["rows"]:
                if row["id"] in left:  # a block that Ray computed twice says nothing new
                    left.remove(row["id"])
                    yield row
        if left:
            raise ModelError(f"Ray ended without an answer to {len(left)} questions; run again to ask them")

    def _said(self, answered: Any) -> Iterator[Mapping[str, Any]]:
        """What actors say; raises what would be wrong with every answer."""
        try:
            for line in answered.iter_rows():
                said = json.loads(line["said"])
                if "fatal" in said:
                    raise error_of(said["fatal"])
                yield said
        except self._ray.exceptions.RayError as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ModelError(f"Ray gave up: {reason}; run again to go on") from error

    def _note(self, told: Mapping[str, Any], started: float, steady_from: float) -> None:
        """Add what an actor did to the work; rates count from the first rows on."""
        work = self.work
        work.videos += told["videos"]
        work.questions += told["questions"]
        work.deaths += told["deaths"]
        if not steady_from:
            work.load_seconds = time.monotonic() - started
            return
        work.steady_videos += told["videos"]
        work.steady_questions += told["questions"]
        work.decode_seconds += told["decode_seconds"]
        work.model_seconds += told["model_seconds"]
        work.steady_seconds = time.monotonic() - steady_from


class _Actor:
    """What Ray keeps alive: one worker, for one block of groups after the other."""

    def __init__(self, settings: Mapping[str, Any], threads: int | None) -> None:
        self._pool = WorkerPool(BatchSettings.from_plain(settings), 1, threads)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[str]]:
        groups = [Group.from_plain(json.loads(str(one))) for one in batch["group"]]
        self._pool.work = Work(1)
        said: dict[str, Any]
        try:
            said = {"rows": list(self._pool.run(groups)), "work": asdict(self._pool.work)}
        except StreampruneError as error:
            said = {"fatal": {"kind": type(error).__name__, "message": str(error)}}
        return {"said": [json.dumps(said)]}


def _ray() -> ModuleType:
    try:
        import_module("ray.data")
        return import_module("ray")
    except ImportError as error:
        raise MissingDependencyError.extra("ray", "ray", 'engine "ray"') from error


def _connect(ray: ModuleType, address: str | None) -> None:
    for name, value in (("RAY_USAGE_STATS_ENABLED", "0"), ("RAY_BACKEND_LOG_LEVEL", "fatal")):
        os.environ.setdefault(name, value)  # nobody is told about this run, and its user nothing about Ray
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        ray.init(num_cpus=_LOGICAL_CPUS, include_dashboard=False, **quiet)
        return
    _check_reachable(address)
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InvalidValueError(f"no Ray cluster at address {address!r}: {error}") from error


def _check_reachable(address: str) -> None:
    """Raise InvalidValueError unless a cluster may be at ``address``; Ray itself would try for minutes."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InvalidValueError(f"address must be HOST:PORT, ray://HOST:PORT or auto, got {address!r}")
    try:
        with socket.create_connection((host, int(port)), timeout=_PROBE_SECONDS) as connection:
            problem = "" if _speaks_http2(connection) else "what listens there is none"
    except OSError as error:
        problem = error.strerror or str(error)
    if problem:
        raise InvalidValueError(
            f"no Ray cluster at address {address!r}: {problem}; start one with 'ray start --head', which "
            "prints its address, or leave the address out"
        )


def _speaks_http2(connection: socket.socket) -> bool:
    """Whether the other side does, as Ray's servers do and its dashboard, for one, does not."""
    if os.environ.get("RAY_USE_TLS") == "1":
        return True  # not to be seen from outside
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, _SETTINGS, 0, 0, 0, 0, 0)))
    head = connection.recv(9)
    return len(head) == 9 and head[3] == _SETTINGS
