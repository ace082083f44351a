"""What each stage decided about one question, as an explanation holds it."""

from __future__ import annotations

from typing import Any

import torch

from streamprune.cache.kept import KeptCache
from streamprune.in_llm.base import InLLMMethod
from streamprune.in_llm.steps import StepMethod
from streamprune.models.tower_witness import Climb, TowerWitness
from streamprune.ops.segments import cut_transitions
from streamprune.ops.temporal import previous_cosine
from streamprune.pipelines.asking import Answered
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.reduce import Reducer
from streamprune.report.explain.data import (
    CacheHeld,
    InLLM,
    Kept,
    LayerHeld,
    Segments,
    TowerFates,
    TowerReuse,
)
from streamprune.tokens import Reduction, VideoGrid, VisualTokens


def kept_tokens(name: str, reduction: Reduction) -> Kept:
    """What the method ``name`` kept before the language model."""
    grid, index = reduction.grid, reduction.index
    standing = index[index >= 0]
    per_frame = torch.bincount(standing // grid.tokens_per_frame, minlength=grid.frames)
    return Kept(
        method=name,
        index=tuple(index.tolist()),
        source=tuple(reduction.source.tolist()),
        size=tuple(reduction.size.tolist()),
        per_frame=tuple(per_frame.tolist()),
        merges=reduction.entries is not None,
    )


def tower_work(
    name: str, seen: TowerWitness, grid: VideoGrid, pictures: int
) -> TowerFates | TowerReuse | str | None:
    """What the method ``name`` did inside the vision tower; text where no place can be shown.

    Candidates that a frames method looked at first were seen too: what is shown came last.
    """
    if not name:
        return None
    if seen.recomputed:
        frames = torch.stack(seen.recomputed[-grid.frames :])
        if frames.shape[0] == grid.frames and frames.shape[2:] == (grid.rows, grid.cols):
            return TowerReuse(
                method=name, recomputed=tuple(_marks(layer) for layer in frames.transpose(0, 1))
            )
    climbs: list[Climb] = []
    frames_seen = 0
    for climb in reversed(seen.climbs):
        if frames_seen < pictures:
            climbs.insert(0, climb)
            frames_seen += climb.frames
    if not climbs or frames_seen != pictures or len({climb.shape for climb in climbs}) > 1:
        return (
            f"{name} worked inside the vision tower on other tiles than the pictures shown here; the share "
            "of the tower's tokens that it left is in the table of costs, the places are not shown."
        )
    shape, layers = climbs[0].shape, sorted({layer for climb in climbs for layer in climb.layers})
    left_at: list[int] = []
    into: list[int] = []
    merged = ""
    for climb in climbs:
        places = torch.tensor([layers.index(layer) for layer in climb.layers] + [-1])
        into += (climb.into + len(left_at)).tolist()
        left_at += places[climb.left_at].tolist()
        merged += _marks(climb.merged)
    return TowerFates(
        method=name,
        rows=shape.rows,
        cols=shape.cols,
        layers=tuple(layers),
        left_at=tuple(left_at),
        into=tuple(into),
        merged=merged,
        tokens=tuple(sum(counts) for counts in zip(*(climb.tokens for climb in climbs), strict=True)),
    )


class PromptPlaces:
    """Which kept row each row of a prompt is, and which rows each layer took.

    Args:
        answered: an answer from the kept rows of one video.
    """

    def __init__(self, answered: Answered) -> None:
        columns = answered.prompt.kept_columns.cpu()
        self.kept = len(columns)
        self._length = len(answered.prompt)
        self._row = torch.full((self._length,), -1)
        self._row[columns] = torch.arange(self.kept)
        self._above = answered.layers.above

    def rows(self, layer: int) -> torch.Tensor:
        """(rows,) int64 rows of the prompt that entered ``layer``."""
        if layer not in self._above:
            return torch.arange(self._length)
        rows = self._above[layer][0].cpu()
        return rows[(rows >= 0) & (rows < self._length)]

    def of(self, rows: torch.Tensor) -> torch.Tensor:
        """The kept row that each of ``rows`` is, -1 = text."""
        return self._row[rows.cpu()]

    def present(self, layer: int) -> torch.Tensor:
        """(kept,) bool: which entered ``layer``."""
        found = self.of(self.rows(layer))
        marks = torch.zeros(self.kept, dtype=torch.bool)
        marks[found[found >= 0]] = True
        return marks


def inside_llm(name: str, method: InLLMMethod | None, answered: Answered, depth: int) -> InLLM | str | None:
    """Which kept rows ``method`` let into each layer; text where it chooses at every step of the answer."""
    if method is None:
        return None
    if isinstance(method, StepMethod):
        return (
            f"{name} drops nothing from the prompt: it chooses anew for every word of the answer what the "
            f"layers from {method.checked_cuts(depth)[0]} on attend to; those choices are not recorded."
        )
    places = PromptPlaces(answered)
    merged: list[tuple[int, int, int]] = []
    for layer, made in sorted(answered.layers.merged.items()):
        to, row, weight = (part.cpu() for part in made.entries)
        rows, kept = made.rows.cpu(), made.kept.cpu()
        gone = ~torch.isin(row, kept) & (weight != 0)
        # a row that went into several is told by the one that took most of it, which is written last
        lightest_first = weight[gone].abs().argsort(stable=True)
        pairs = torch.stack([places.of(rows[row[gone]]), places.of(rows[kept[to[gone]]])], 1)
        into = dict(_pair(pair) for pair in pairs[lightest_first].tolist() if min(pair) >= 0)
        merged += [(layer, one, other) for one, other in sorted(into.items())]
    return InLLM(
        method=name,
        cuts=tuple(method.checked_cuts(depth)),
        present=tuple(_marks(places.present(layer)) for layer in range(depth)),
        merged=tuple(merged),
    )


def held_in_cache(name: str, answered: Answered) -> CacheHeld | None:
    """Which kept rows the policy ``name`` left in each layer; None without one that drops entries."""
    cache = answered.cache
    if not isinstance(cache, KeptCache) or cache.policy.keeps_all:
        return None
    places, layers, heads = PromptPlaces(answered), [], 1
    for number, layer in cache.kept_layers():
        rows = places.rows(number)
        # (heads, held) numbers of tokens as this layer counted them; -1 = padding
        tokens = layer.entries["tokens"][0].long().cpu()
        heads = len(tokens)
        own = tokens[(tokens >= 0) & (tokens < len(rows))]
        found = places.of(rows[own])
        held = torch.bincount(found[found >= 0], minlength=places.kept)
        layers.append(LayerHeld(layer=number, held=tuple(held.tolist()), entries=int(tokens.shape[1])))
    return CacheHeld(method=name, heads=heads, layers=tuple(layers))


def cache_notes(name: str, cache: Any) -> list[str]:
    """What cannot be seen of the cache that the methods ``name`` keep small."""
    notes = []
    if isinstance(cache, KeptCache) and cache.policy.merges:
        notes.append(
            f"{name} also merges entries of the cache into others; which one each went into is not recorded, "
            "so they are shown as not held."
        )
    if isinstance(cache, KeptCache) and cache.policy.keeps_all:
        notes.append(
            f"{name} drops no entry of the cache here"
            + ("; it holds them in less room." if cache.stores else ": it was given no budget of its own.")
        )
    return notes


def layer_tokens(answered: Answered, depth: int) -> tuple[int, ...]:
    """Visual tokens that entered each layer of the language model."""
    places = PromptPlaces(answered)
    return tuple(int(places.present(layer).sum()) for layer in range(depth))


def similarity_of(tokens: VisualTokens) -> torch.Tensor:
    """(frames - 1,) mean over places of the cosine between neighbouring frames' features."""
    if tokens.grid.frames == 1:
        return torch.zeros(0)
    return previous_cosine(tokens.frames).float().mean(1).cpu()


def segments_of(
    name: str, method: Reducer, reduction: Reduction, tokens: VisualTokens, similarity: torch.Tensor
) -> Segments:
    """The method's own segments; of one that has none, ours, drawn only for the eye."""
    if isinstance(method, PreLLMMethod) and not reduction.is_identity:
        own = method.clip_segments(tokens)
        if own is not None:
            return Segments(edges=tuple(map(_pair, own)), said=f"those that {name} decided in")
    if len(similarity) < 2:
        return Segments(edges=((0, tokens.grid.frames),), said="one, the clip being short")
    limit = float(similarity.mean() - similarity.std())
    edges = cut_transitions(similarity, threshold=limit)
    return Segments(
        edges=tuple(map(_pair, edges)),
        said=f"for the eye only, the method uses none: cut where frames are less alike than {limit:.3f}, "
        "the mean less one standard deviation",
    )


def _pair(values: Any) -> tuple[int, int]:
    first, second = values
    return int(first), int(second)


def _marks(mask: torch.Tensor) -> str:
    """A bool tensor as a text of 0 and 1."""
    return bytes((mask.flatten().to(torch.uint8) + ord("0")).tolist()).decode("ascii")
