"""EarlyTom: after a few layers alike neighbouring frames become one, so that the others cost less."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch

from streamprune.checks import check_count, check_number
from streamprune.encoder.base import (
    EncoderMethod,
    LayerInput,
    LayerReduction,
    Place,
    TowerShape,
    scaled_layers,
)
from streamprune.encoder.token_map import TokenMap


@dataclass(frozen=True, kw_only=True)
class EarlyTom(EncoderMethod):
    """Merge the middle frames of short still segments, whole frames at a time, in a few layers.

    What leaves an acting layer is cut into segments: a frame joins while it stays like the segment's first
    one. A segment's first and last frame stay; neighbours among the frames between them are averaged where
    they are more alike than first and last are. Likeness is the cosine position by position, averaged. A
    merged frame counts fully for every frame in it: the language model still gets all frames.

    Only frames that go through the tower together can merge, see ``frames_per_batch``.

    Args:
        similarity_threshold: a segment is cut before a frame whose running similarity falls below it, at
            most 2; above 1 nothing merges.
        max_segment: a segment holds fewer frames than this, at least 2.
        momentum: weight of a frame's own similarity in the running one, in [0, 1].
        as_released: the last middle frame is always lost, as in the released code, and its place reads the
            frame that left before it; False: it is merged into the pair or stays.
        layers: see EncoderMethod; None = layers 6, 21 and 23 of 26, at the same share of other depths, and
            below the last.

    Source: arXiv 2605.30010 and its release, the stage inside the tower; the published settings differ by
    benchmark and ratio, these defaults are one of them. Its choice of tokens from the merged frames and the
    merging inside the language model are not this stage.
    """

    similarity_threshold: float = 0.8
    max_segment: int = 6
    momentum: float = 0.9
    as_released: bool = True

    place: ClassVar[Place] = "after"
    causal: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("similarity_threshold", self.similarity_threshold, -1, 2)
        check_count("max_segment", self.max_segment, least=2)
        check_number("momentum", self.momentum, 0, 1)

    def own_layers(self, tower: TowerShape) -> tuple[int, ...]:
        """A quarter up, and twice near the end."""
        scaled = scaled_layers((6, 21, 23), 26, tower.depth)
        return tuple(sorted({min(layer, max(0, tower.depth - 2)) for layer in scaled}))

    def left_over(self, layer: int, tokens: int, tower: TowerShape) -> int:
        """Every token of a frame: only frames become fewer."""
        return tokens

    def changes_nothing(self, tower: TowerShape) -> bool:
        """Whether no segment can hold three frames."""
        return self.similarity_threshold > 1 or self.max_segment <= 3

    def reduce_layer(self, at: LayerInput) -> LayerReduction:
        """Cut the frames into segments and merge within them."""
        if self.changes_nothing(at.tower):
            return LayerReduction()
        alike = FrameLikeness(at.states)
        bounds = segments(alike, self.similarity_threshold, self.max_segment, self.momentum)
        slot: list[int] = []
        weight: list[float] = []
        for first, last in bounds:
            places, shares = merge_segment(range(first, last + 1), alike, self.as_released)
            start = slot[-1] + 1 if slot else 0
            slot += [start + place for place in places]
            weight += shares
        if slot[-1] + 1 == len(at.states):
            return LayerReduction()
        return LayerReduction(TokenMap.merge_frames(slot, weight, at.states))


class FrameLikeness:
    """How alike two frames are: the mean over positions of the cosine of their states."""

    def __init__(self, states: torch.Tensor) -> None:
        self._states = states.float()
        self._length = torch.linalg.vector_norm(self._states, dim=-1)

    def __len__(self) -> int:
        return len(self._states)

    def __call__(self, one: int, other: int) -> float:
        """Of two frames, by number."""
        products = (self._states[one] * self._states[other]).sum(-1)
        lengths = self._length[one] * self._length[other]
        return float(torch.where(lengths > 0, products / lengths, 0.0).mean())


def segments(
    alike: FrameLikeness, threshold: float, max_segment: int, momentum: float
) -> list[tuple[int, int]]:
    """First and last frame of each segment, as the frames come in: see :class:`EarlyTom`."""
    bounds, start, running = [], 0, 1.0
    for frame in range(1, len(alike)):
        running = momentum * alike(start, frame) + (1 - momentum) * running
        if running < threshold or frame - start + 1 >= max_segment:
            bounds.append((start, frame - 1))
            start, running = frame, 1.0
    return [*bounds, (start, len(alike) - 1)]


def merge_segment(
    frames: Sequence[int], alike: FrameLikeness, as_released: bool
) -> tuple[list[int], list[float]]:
    """Which place, from 0, each frame of a segment goes to, and its weight there: the ends stay."""
    if len(frames) <= 2:
        return list(range(len(frames))), [1.0] * len(frames)
    threshold = alike(frames[0], frames[-1])
    middle = frames[1:-1]
    pairs = [alike(one, other) for one, other in pairwise(middle)]
    places, shares = merge_neighbours(pairs, threshold, as_released)
    return [0, *(1 + place for place in places), 2 + places[-1]], [1.0, *shares, 1.0]


def merge_neighbours(
    pairs: Sequence[float], threshold: float, as_released: bool
) -> tuple[list[int], list[float]]:
    """Which place, from 0, each of a row of frames goes to, and its weight there.

    From left to right, a pair more alike than ``threshold`` and than the pair after it is averaged; the more
    alike it is compared with the next pair, the more its first frame weighs.

    Args:
        pairs: how alike each frame is to the next one; one number less than frames.
        threshold: pairs have to exceed it.
        as_released: see :class:`EarlyTom`.
    """
    frames, at = len(pairs) + 1, 0
    places: list[int] = []
    shares: list[float] = []
    while at < frames - 1:
        place = places[-1] + 1 if places else 0
        last = at == frames - 2
        if pairs[at] > threshold and (last or pairs[at] > pairs[at + 1]):
            own = (
                _share(pairs[at], 0.0 if as_released else pairs[at])
                if last
                else _share(pairs[at], pairs[at + 1])
            )
            places += [place, place]
            shares += [own, 1 - own]
            at += 2
        else:
            places.append(place)
            shares.append(1.0)
            at += 1
    if at == frames - 1:
        lost = as_released and frames > 1
        places.append(places[-1] if lost else (places[-1] + 1 if places else 0))
        shares.append(0.0 if lost else 1.0)
    return places, shares


def _share(pair: float, following: float) -> float:
    """Weight of a pair's first frame; similarities below 0 count as 0."""
    pair, following = max(pair, 0.0), max(following, 0.0)
    return pair / (pair + following) if pair > 0 else 0.5
