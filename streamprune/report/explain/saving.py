"""Writing explanations: by the ending of the file, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from streamprune.errors import InvalidValueError, StorageError

if TYPE_CHECKING:
    from streamprune.report.explain.data import Explanation

ENDINGS = (".html", ".png", ".mp4", ".json")


def save(explanation: Explanation, path: str | Path) -> None:
    """See :meth:`Explanation.save`."""
    target = Path(path)
    write = _writer(target)
    with _whole(target) as unfinished:
        write(explanation, unfinished)


def check_target(name: str, path: str | Path, ending: str) -> Path:
    """``path`` if a file can be written there, found out before there is anything to write.

    Raises InvalidValueError for another ending, and StorageError for a folder that cannot be written to.
    """
    target = Path(path)
    if target.suffix.lower() != ending:
        raise InvalidValueError(f"{name} must be a file name ending in {ending}, got {str(path)!r}")
    if target.is_dir():
        raise StorageError(f"cannot write {str(target)!r}: it is a folder; name a file in it")
    with _whole(target, keep=False):
        pass
    return target


@contextmanager
def _whole(target: Path, *, keep: bool = True) -> Iterator[Path]:
    """A file beside ``target`` that takes its place when the block ends well; StorageError names it."""
    # the ending stays: it tells what to write
    unfinished = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished.touch()
        yield unfinished
        if keep:
            unfinished.replace(target)
    except OSError as error:
        raise StorageError(f"cannot write {str(target)!r}: {error.strerror or error}") from error
    finally:
        if unfinished.parent.is_dir():
            unfinished.unlink(missing_ok=True)


def _writer(target: Path) -> Callable[[Explanation, Path], None]:
    ending = target.suffix.lower()
    if ending == ".html":
        return _write_page
    if ending == ".png":
        return _write_picture
    if ending == ".mp4":
        return _write_film
    if ending == ".json":
        return _write_data
    raise InvalidValueError(
        f"path must end in one of {', '.join(ENDINGS)}, which says what is written, got {str(target)!r}"
    )


def _write_page(explanation: Explanation, target: Path) -> None:
    from streamprune.report.explain.page import page

    target.write_text(page(explanation), encoding="utf-8")


def _write_picture(explanation: Explanation, target: Path) -> None:
    from streamprune.report.explain.picture import overview

    overview(explanation).save(target, "PNG")


def _write_film(explanation: Explanation, target: Path) -> None:
    from streamprune.report.explain.film import write_film

    write_film(explanation, target)


def _write_data(explanation: Explanation, target: Path) -> None:
    from streamprune.report.record import write_record

    write_record(target, explanation.to_dict(pictures=False))
