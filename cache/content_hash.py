"""What is in a file, as a short name; computed from all its bytes once, and looked up while they stay."""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# what a file looked like just after it was written may stay so through one more writing
_SETTLED_NANOSECONDS = 2 * 10**9
# places at which a file is read to see that it is still the same, and bytes of each
_PLACES = 16
_PLACE_BYTES = 4096


@dataclass(frozen=True)
class FileState:
    """A file as the system describes it, and its content at some places."""

    size: int
    mtime_ns: int
    inode: int
    device: int
    glimpse: str

    @classmethod
    def of(cls, path: Path) -> FileState:
        """Look at ``path`` now. Raises OSError."""
        stat = path.stat()
        return cls(stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_dev, _glimpse(path, stat.st_size))


class ContentHashes:
    """Hashes of the content of files, remembered in ``folder`` from one process to the next.

    A file is read whole the first time, and again as soon as its size, time, place on disk or what stands at
    a few places in it have changed. What cannot be remembered is computed again.

    Args:
        folder: made when something is remembered.
        most: so many files are remembered, the latest.
    """

    def __init__(self, folder: str | Path, most: int = 1024) -> None:
        self._path = Path(folder).expanduser() / "contents.json"
        self._most = most

    def of(self, path: str | Path) -> str:
        """A name that files share only if they hold the same bytes. Raises OSError."""
        path = Path(os.path.abspath(path))
        state, known = FileState.of(path), self._known()
        entry = known.get(str(path), {})
        if entry.get("state") == asdict(state) and isinstance(entry.get("hash"), str):
            return str(entry["hash"])
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if FileState.of(path) == state and time.time_ns() - state.mtime_ns > _SETTLED_NANOSECONDS:
            self._remember(str(path), {"state": asdict(state), "hash": found})
        return found

    def _known(self) -> dict[str, Any]:
        try:
            known = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        if not isinstance(known, dict):
            return {}
        return {path: entry for path, entry in known.items() if isinstance(entry, dict)}

    def _remember(self, path: str, entry: dict[str, Any]) -> None:
        """Add an entry; of two processes at once one may forget what the other has added."""
        known = self._known()
        known.pop(path, None)
        latest = dict([*known.items(), (path, entry)][-self._most :])
        unfinished = self._path.with_name(f".{self._path.name}.{os.getpid()}.{time.monotonic_ns()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_text(json.dumps(latest), encoding="utf-8")
            unfinished.replace(self._path)
        except OSError:
            with suppress(OSError):
                unfinished.unlink()


def _glimpse(path: Path, size: int) -> str:
    """Hash of what stands at places spread over a file, its beginning and end among them."""
    found = hashlib.sha256()
    last = max(0, size - _PLACE_BYTES)
    with path.open("rb") as file:
        for place in range(_PLACES):
            file.seek(last * place // (_PLACES - 1))
            found.update(file.read(_PLACE_BYTES))
    return found.hexdigest()
