"""States of the parts of a stream, as one: tensors by name, and what JSON can hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch

State: TypeAlias = tuple[dict[str, torch.Tensor], dict[str, Any]]


def joined(states: Mapping[str, State]) -> State:
    """States of several parts as one, by their names."""
    tensors = {f"{part}.{name}": one for part, (held, _) in states.items() for name, one in held.items()}
    return tensors, {part: about for part, (_, about) in states.items()}


def part_of(part: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of one ``part`` of what :func:`joined` gave."""
    start = f"{part}."
    return {name.removeprefix(start): one for name, one in tensors.items() if name.startswith(start)}
