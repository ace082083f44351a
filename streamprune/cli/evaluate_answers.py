"""Where ``streamprune eval`` notes its answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamprune.pipelines.evaluation_outcome import Lines

# work that a power cut may cost, since waiting for the disk costs milliseconds; a kill costs none
_SYNC_SECONDS = 10.0


@contextmanager
def noted_answers(
    answers: Path | None, json_file: Path | None, run: Callable[[], str], key: Sequence[str]
) -> Iterator[Lines]:
    """The file ``answers``; without one a hidden file beside ``json_file``, which goes when all is well.

    Args:
        run: says by what settings a file is told from that of another run.
        key: the entries that make a line the only one of its kind.
    """
    from streamprune.pipelines.evaluation_outcome import Unwritten
    from streamprune.pipelines.journal import Journal

    path = answers
    if path is None and json_file is not None:
        path = json_file.with_name(f".{json_file.name}.answers.jsonl")
    if path is None:
        yield Unwritten(key)
        return
    with Journal.open(path, run=run(), key=key, sync_seconds=_SYNC_SECONDS) as journal:
        yield journal
        if answers is None:
            path.unlink(missing_ok=True)
