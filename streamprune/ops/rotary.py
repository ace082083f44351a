"""Rotary position embedding of queries and keys, from the tables a model has made already."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def rotate(rows: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn ``rows`` (..., width) by the angles whose cosines and sines are given, one for each channel.

    Channel n is paired with channel n + width / 2, as in the models of the Llama kind. Where there are fewer
    angles than channels, the channels behind them stay as they are.
    """
    turned = cos.shape[-1]
    if turned < rows.shape[-1]:
        return torch.cat([rotate(rows[..., :turned], cos, sin), rows[..., turned:]], -1)
    first, second = rows.chunk(2, -1)
    return rows * cos + torch.cat([-second, first], -1) * sin


def turned_further(
    rows: torch.Tensor,
    shift: torch.Tensor,
    frequencies: torch.Tensor,
    axes: torch.Tensor | None = None,
) -> torch.Tensor:
    """Turn rows that are rotated already as if each stood ``shift`` positions further on, or back.

    Rotations add up, so that the result is what the rows would have been at their new positions; a scale that
    a model applies with its rotation stays as it is. Many small turns in half precision add up their
    rounding: turn once, from what was stored first.

    Args:
        rows: (..., width) of any floating dtype, the dtype of the result; computed in float32.
        shift: (...) new position minus old one, may be negative; (axes, ...) with ``axes``.
        frequencies: (width / 2,) or fewer, angle of each pair of channels per position.
        axes: (frequencies,) the axis whose positions turn each pair, see :func:`sectioned_axes` and
            :func:`interleaved_axes`; None where there is one axis.
    """
    turns = shift[..., None] if axes is None else shift.movedim(0, -1)[..., axes.to(shift.device)]
    angles = turns.float() * frequencies.float()
    angles = torch.cat([angles, angles], -1)
    return rotate(rows.float(), angles.cos(), angles.sin()).to(rows.dtype)


def sectioned_axes(sections: Sequence[int]) -> torch.Tensor:
    """(sum of ``sections``,) axis of each pair of channels where every axis has a section (Qwen2-VL)."""
    return torch.arange(len(sections)).repeat_interleave(torch.tensor(sections))


def interleaved_axes(sections: Sequence[int]) -> torch.Tensor:
    """The same where the axes take turns, as long as they have pairs left (Qwen3-VL).

    The first axis has whatever the others leave.
    """
    axes = torch.zeros(sum(sections), dtype=torch.int64)
    for axis in range(1, len(sections)):
        axes[axis : len(sections) * sections[axis] : len(sections)] = axis
    return axes
