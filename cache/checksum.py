"""Whether tensors read from disk are those that were written."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import torch


def checksum(tensors: Mapping[str, torch.Tensor], beside: str = "") -> int:
    """A checksum of names, types, shapes and bytes, and of the text that stands ``beside`` them."""
    found = zlib.crc32(beside.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), found)
        found = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, found)
    return found
