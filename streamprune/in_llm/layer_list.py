"""A method's option ``layers``: numbers of decoder layers."""

from __future__ import annotations

from collections.abc import Sequence

from streamprune.checks import check_count
from streamprune.errors import InvalidTypeError, InvalidValueError


def check_layers(layers: Sequence[int] | None) -> tuple[int, ...] | None:
    """``layers`` as a tuple (TOML gives lists); refuse anything but ascending numbers from 1."""
    if layers is None:
        return None
    if isinstance(layers, str) or not isinstance(layers, Sequence):
        raise InvalidTypeError(f"layers must be a list of layer numbers from 1, got {layers!r}")
    for layer in layers:
        check_count("layers", layer)
    if not layers or list(layers) != sorted(set(layers)):
        raise InvalidValueError(f"layers must be ascending, each once, at least one, got {tuple(layers)}")
    return tuple(layers)
