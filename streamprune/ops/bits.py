"""Small integers side by side in bytes."""

from __future__ import annotations

import torch
from torch.nn.functional import pad


def pack_bits(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """(..., bytes) uint8 that hold ``codes`` along the last axis, the first ones in the lowest bits.

    Args:
        codes: (..., count) integers or bools in [0, 2**bits - 1].
        bits: of each code: 1, 2, 4 or 8. What is missing to a whole byte is zero.
    """
    each = 8 // bits
    codes = pad(codes.to(torch.uint8), (0, -codes.shape[-1] % each))
    parts = codes.reshape(*codes.shape[:-1], -1, each) << _shifts(bits, codes.device)
    return parts.sum(-1, dtype=torch.uint8)


def unpack_bits(packed: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """(..., count) uint8 codes out of what :func:`pack_bits` made."""
    codes: torch.Tensor = (packed[..., None] >> _shifts(bits, packed.device)) & (2**bits - 1)
    return codes.flatten(-2)[..., :count]


def _shifts(bits: int, device: torch.device) -> torch.Tensor:
    return torch.arange(0, 8, bits, dtype=torch.uint8, device=device)
