"""Writing explanations: by the ending of the file, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from streamprune.errors import InvalidValueError
from streamprune.report.writable import check_writable, whole_file

if TYPE_CHECKING:
    from streamprune.report.explain.data import Explanation

ENDINGS = (".html", ".png", ".mp4", ".json")


def save(explanation: Explanation, path: str | Path) -> None:
    """See :meth:`Explanation.save`."""
    target = Path(path)
    write = _writer(target)
    with whole_file(target) as unfinished:
        write(explanation, unfinished)


def check_target(name: str, path: str | Path, ending: str) -> Path:
    """``path`` if a file can be written there, found out before there is anything to write.

    Raises InvalidValueError for another ending, and StorageError for a folder that cannot be written to.
    """
    target = Path(path)
    if target.suffix.lower() != ending:
        raise InvalidValueError(f"{name} must be a file name ending in {ending}, got {str(path)!r}")
    check_writable(target)
    return target


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
