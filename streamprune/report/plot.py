"""Figures of measurements: whether they can be drawn, asked before the work, and writing them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from streamprune.errors import MissingDependencyError, StorageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float = 9, height: float = 6) -> Figure:
    """An empty figure of so many inches; MissingDependencyError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError.extra("matplotlib", "plot", "drawing the plot") from error
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write ``figure`` into ``path``, whose ending says how; StorageError when that cannot be done."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise StorageError(
            f"cannot write the plot {str(path)!r}: {getattr(error, 'strerror', None) or error}"
        ) from error
