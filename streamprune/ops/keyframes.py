"""Choosing frames that fit the question and do not repeat each other."""

from __future__ import annotations

import itertools

import torch

from streamprune.ops.selection import highest
from streamprune.ops.similarity import unit_rows


def differential_keyframes(
    frame_features: torch.Tensor,
    relevance: torch.Tensor,
    count: int,
    *,
    similarity_threshold: float,
    relevance_threshold: float = -1.0,
) -> list[int]:
    """Take frames from the most relevant on, leaving out those like a frame taken before.

    Args:
        frame_features: (frames, channels).
        relevance: (frames,) of each frame to the question.
        count: at most so many are taken.
        similarity_threshold: frames with a cosine above it to one taken are left out.
        relevance_threshold: frames less relevant are not taken.

    Returns:
        The frames, ascending.

    Source: the keyframe selection of arXiv 2504.02438.
    """
    unit = unit_rows(frame_features)
    left = relevance >= relevance_threshold
    chosen: list[int] = []
    for frame in highest(relevance, len(relevance)).tolist():
        if len(chosen) >= count:
            break
        if bool(left[frame]):
            chosen.append(frame)
            # rounding makes no frame more than equal to another
            left &= (unit * unit[frame]).sum(-1).clamp(max=1) <= similarity_threshold
    return sorted(chosen)


def spread_over_gaps(chosen: list[int], frames: int, count: int) -> list[int]:
    """Add frames in the gaps between those chosen, as evenly as one spacing allows, up to ``count`` in all.

    The smallest spacing is taken at which the frames it adds are not too many: a gap of ``n`` frames gets
    ``ceil(n / spacing) - 1`` of them at equal steps. What is left over is filled from the end of the clip.

    Args:
        chosen: frames, ascending.
        frames: of the clip.
        count: wanted; no more than ``frames``.

    Returns:
        The frames, ascending: ``count`` of them, or ``chosen`` when these are more.

    Source: the released code of arXiv 2504.02438. Difference: frames that fall on the same place at the end
    of a gap are made up for, too.
    """
    edges = itertools.pairwise([-1, *chosen, frames])
    gaps = [(before + 1, after) for before, after in edges if after - before > 1]
    spare = max(0, count - len(chosen))

    def added(spacing: int) -> list[int]:
        return [-(-(stop - start) // spacing) - 1 for start, stop in gaps]

    low, high = 1, frames
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if sum(added(middle)) <= spare else (middle + 1, high)
    wanted = set(chosen)
    for (start, stop), number in zip(gaps, added(low), strict=True):
        step = -(-(stop - start) // (number + 1))
        wanted.update(min(start + step * i, stop - 1) for i in range(1, number + 1))
    rest = (frame for frame in range(frames - 1, -1, -1) if frame not in wanted)
    filled = list(itertools.islice(rest, max(0, count - len(wanted))))
    return sorted([*wanted, *filled])
