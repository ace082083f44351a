"""Blocks of every kind taken apart for a file, and put together again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, fields
from typing import Any, ClassVar, Protocol, TypeVar

import torch


class _Record(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


_R = TypeVar("_R", bound=_Record)


def parts_of(record: _Record) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors of a dataclass by name, and its other fields, which JSON can hold."""
    every = {field.name: getattr(record, field.name) for field in fields(record)}
    tensors = {name: value for name, value in every.items() if isinstance(value, torch.Tensor)}
    return tensors, {name: value for name, value in every.items() if name not in tensors}


def rebuilt(
    kind: type[_R], tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any], device: torch.device
) -> _R:
    """What :func:`parts_of` took apart, with tensors in storage of their own on ``device``."""
    own = {name: tensor.to(device, copy=True).contiguous() for name, tensor in tensors.items()}
    # JSON knows no tuples
    told = {name: tuple(value) if isinstance(value, list) else value for name, value in about.items()}
    return kind(**told, **own)
