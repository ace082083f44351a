"""Lines of JSON that survive a kill and never say the same thing twice.

with Journal.open("answers.jsonl", run=fingerprint(settings)) as journal:
    for job in jobs:
        if (job.id,) not in journal.done:
            journal.add({"id": job.id, "text": answer(job)})
    journal.finish((job.id,) for job in jobs)
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from filelock import FileLock, Timeout

from streamprune.errors import InvalidValueError, StorageError

Key = tuple[Any, ...]
RUN = "run"
_SYNC_SECONDS = 1.0


def fingerprint(settings: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that are the same for the same ``settings``, in whatever order they come.

    What is not JSON counts as the text that it prints as.
    """
    text = json.dumps(settings, sort_keys=True, default=str, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


class Journal:
    """One file with a line for each thing done, open for more; see :meth:`open`.

    Every line is whole before the next begins. A last line that a kill or a full disk cut off is taken away
    when the file is opened again, and whatever it was about is done again.

    Attributes:
        done: the rows that are there, by key.
    """

    def __init__(
        self, path: Path, run: str, key: tuple[str, ...], lock: FileLock, sync_seconds: float
    ) -> None:
        self.path = path
        self.done: dict[Key, dict[str, Any]] = {}
        self._run = run
        self._key = key
        self._lock = lock
        self._file: IO[bytes] | None = None
        self._sync_seconds = sync_seconds
        self._synced = -sync_seconds

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        run: str,
        key: Sequence[str] = ("id",),
        sync_seconds: float = _SYNC_SECONDS,
    ) -> Self:
        """Begin ``path``, or go on with it.

        Args:
            run: what was asked for, see :func:`fingerprint`; it is written into every line.
            key: the entries that make a row the only one of its kind.
            sync_seconds: how much work a power cut may cost; a kill costs none.

        Raises InvalidValueError when the file was written by another run, is being written, says something
        twice or is no such file, and StorageError when it cannot be read or written. It is then as before.
        """
        target = Path(path)
        lock = FileLock(target.with_name(f".{target.name}.lock"), timeout=0)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as error:
            raise InvalidValueError(
                f"{str(target)!r} is being written by another process; wait for it, or name another file"
            ) from error
        except OSError as error:
            raise _unwritable(target, error) from error
        journal = cls(target, run, tuple(key), lock, sync_seconds)
        try:
            journal._begin()
        except BaseException:
            journal.close()
            raise
        return journal

    def add(self, row: Mapping[str, Any]) -> None:
        """Write ``row`` as one line, which outlives this process from then on.

        Raises InvalidValueError for a key that is there already, and StorageError when the disk is full: the
        lines before stay.
        """
        key = self._key_of(row)
        if key in self.done:
            raise InvalidValueError(f"{str(self.path)!r} has a line for {_told(key)} already")
        if self._file is None:
            raise InvalidValueError(f"{str(self.path)!r} was closed; open it again")
        whole = dict(row) | {RUN: self._run}
        before = self._file.tell()
        try:
            self._file.write(_line(whole))
            self._flush_to_disk()
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(before)
            raise _unwritable(self.path, error) from error
        self.done[key] = whole

    def _flush_to_disk(self) -> None:
        """Past this process at every line; past a power cut once in a while, which costs milliseconds."""
        if self._file is None:
            return
        now = time.monotonic()
        if now - self._synced > self._sync_seconds:
            os.fsync(self._file.fileno())
            self._synced = now

    def finish(self, order: Iterable[Key]) -> None:
        """Put the lines into ``order``, whole or not at all; those that it does not name come last."""
        wanted = [key for key in dict.fromkeys(order) if key in self.done]
        rest = self.done.keys() - set(wanted)
        keys = wanted + [key for key in self.done if key in rest]
        if keys == list(self.done):
            return
        self._replace([self.done[key] for key in keys])
        self.done = {key: self.done[key] for key in keys}

    def forget(self, keys: Iterable[Key]) -> None:
        """Take the lines of ``keys`` away, so that they can be written anew."""
        gone = set(keys) & self.done.keys()
        if gone:
            self._replace([row for key, row in self.done.items() if key not in gone])
            self.done = {key: row for key, row in self.done.items() if key not in gone}

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._lock.is_locked:
            # nobody waits for it: whoever finds it held gives up
            with suppress(OSError):
                Path(self._lock.lock_file).unlink()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self) -> None:
        try:
            content = self.path.read_bytes() if self.path.exists() else b""
            whole = content.rfind(b"\n") + 1
            self._read(content[:whole])
            if not whole and content and not _torn(content):
                raise InvalidValueError(f"{str(self.path)!r} holds no lines of JSON; name another file")
            self._file = _append(self.path)
            self._file.truncate(whole)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def _read(self, content: bytes) -> None:
        for number, line in enumerate(content.split(b"\n")[:-1], 1):
            try:
                row = json.loads(line)
                key, run = self._key_of(row), row[RUN]
                hash(key)
            except (ValueError, KeyError, TypeError) as error:
                raise InvalidValueError(
                    f"line {number} of {str(self.path)!r} is none of a journal: it must be a JSON object "
                    f"with {', '.join((*self._key, RUN))}; remove the file or name another"
                ) from error
            if run != self._run:
                raise InvalidValueError(
                    f"{str(self.path)!r} was written by another run ({run}, this one is {self._run}): with "
                    "another model, recipe or settings, or about other jobs; remove it or name another file"
                )
            if key in self.done:
                raise InvalidValueError(
                    f"line {number} of {str(self.path)!r} says {_told(key)} a second time; remove one of them"
                )
            self.done[key] = row

    def _key_of(self, row: Mapping[str, Any]) -> Key:
        return tuple(row[name] for name in self._key)

    def _replace(self, rows: Iterable[Mapping[str, Any]]) -> None:
        unfinished = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            with unfinished.open("wb") as file:
                file.writelines(_line(row) for row in rows)
                file.flush()
                os.fsync(file.fileno())
            if self._file is not None:
                self._file.close()
            unfinished.replace(self.path)
            self._file = _append(self.path)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise _unwritable(self.path, error) from error


def _append(path: Path) -> IO[bytes]:
    return path.open("ab", buffering=0)


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def _torn(content: bytes) -> bool:
    """Whether ``content`` without an end of line may be the beginning of a row."""
    return content.startswith(b"{")


def _told(key: Key) -> str:
    return " / ".join(repr(part) for part in key)


def _unwritable(path: Path, error: OSError) -> StorageError:
    return StorageError(f"cannot write {str(path)!r}: {error.strerror or error}")
