"""The process that runs decord: ``python -m streamprune.readers.decord_child FILE THREADS PARENT``.

decord can loop for ever in native code while holding the interpreter lock, so it is never loaded into the
user's process. Requests come on stdin, one frame number a line. Each answer on stdout is one line of JSON,
followed by as many bytes of picture as it says.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from importlib import import_module
from typing import Any, BinaryIO

SET_PARENT_DEATH_SIGNAL = 1  # prctl option of Linux


def main(path: str, num_threads: int, parent_id: int) -> None:
    """Answer requests until stdin ends."""
    _die_with_parent(parent_id)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever the libraries print must not mix with the answers
    try:
        reader: Any = import_module("decord").VideoReader(path, num_threads=num_threads)
    except Exception as error:
        _answer(answers, {"error": _first_line(error), "missing": isinstance(error, ImportError)})
        return
    _answer(answers, {"num_frames": len(reader)})
    for line in sys.stdin:
        try:
            picture = reader.get_batch([int(line)]).asnumpy()[0]  # (rows, cols, 3)
        except Exception as error:
            _answer(answers, {"error": _first_line(error)})
            continue
        _answer(answers, {"rows": picture.shape[0], "cols": picture.shape[1]}, picture.tobytes())


def _answer(answers: BinaryIO, head: dict[str, object], body: bytes = b"") -> None:
    answers.write(json.dumps({**head, "num_bytes": len(body)}).encode() + b"\n" + body)
    answers.flush()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _die_with_parent(parent_id: int) -> None:
    """Ask the kernel to kill this process with its parent, which a stuck decoder would outlive."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent_id:  # interrupted while starting us: the kernel would never tell
            sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
