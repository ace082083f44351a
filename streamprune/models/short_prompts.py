"""Prompts of a batch from which videos have lost tokens, and where the rest of each video stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from streamprune.models.positions import kept_positions
from streamprune.models.prompt_rows import VisualRows
from streamprune.models.stock_inputs import StockVideo
from streamprune.positions import Positions
from streamprune.tokens import Reduction, VideoGrid

# what each prompt of a batch shows: what is left of its videos, in order
Shown = tuple[tuple[VisualRows, ...], ...]


@dataclass(frozen=True, eq=False)
class ShortPrompt:
    """One prompt without padding.

    Attributes:
        columns: (left,) int64, which columns of the full prompt stay, ascending.
        positions: (..., left) int64.
        videos: where in it the tokens of each video stand.
    """

    columns: torch.Tensor
    positions: torch.Tensor
    videos: tuple[VisualRows, ...]

    @classmethod
    def of(
        cls,
        valid: torch.Tensor,
        positions: torch.Tensor,
        videos: Sequence[tuple[StockVideo, Reduction]],
        chosen: Positions,
    ) -> ShortPrompt:
        """What is left of a prompt.

        Args:
            valid: (length,) bool, False for padding.
            positions: (..., length) of the full prompt.
            videos: its videos and what is left of each.
            chosen: the rule for positions.
        """
        visual = torch.zeros_like(valid)
        rows, indices = [], []
        for video, left in videos:
            columns = video.columns.to(valid.device)
            visual[columns] = True
            # rows that stand for no token have no place of their own: they take the last one
            index = torch.where(left.index < 0, left.grid.tokens - 1, left.index).to(valid.device)
            indices.append(index)
            rows.append(columns[index])
        text = (valid & ~visual).nonzero()[:, 0]
        columns, sources = torch.sort(torch.cat([text, *rows]), stable=True)
        stands = torch.empty_like(sources)
        stands[sources] = torch.arange(len(sources), device=sources.device)
        parts = torch.split(stands[len(text) :], [len(part) for part in rows])
        # positions of the padding are nobody's
        numbers = valid.cumsum(0) - 1
        kept = kept_positions(positions[..., valid], visual[valid], numbers[columns], chosen)
        shown = tuple(
            VisualRows(stand, index, video.grid)
            for stand, index, (video, _) in zip(parts, indices, videos, strict=True)
        )
        return cls(columns, kept, shown)


@dataclass(frozen=True, eq=False)
class ShortBatch:
    """Prompts side by side, filled up to the longest.

    Attributes:
        inputs: ``input_ids``, ``attention_mask`` and ``position_ids`` for the model.
        shown: of each prompt its videos, counted with the padding.
    """

    inputs: dict[str, Any]
    shown: Shown

    @classmethod
    def of(cls, ids: torch.Tensor, prompts: Sequence[ShortPrompt], *, left: bool) -> ShortBatch:
        """``prompts`` of the full ``ids`` (batch, length), filled up on the ``left`` or on the right."""
        longest = max(len(prompt.columns) for prompt in prompts)
        short, masks, positions, shown = [], [], [], []
        for row, prompt in zip(ids, prompts, strict=True):
            missing = longest - len(prompt.columns)
            sides = (missing, 0) if left else (0, missing)
            short.append(torch.nn.functional.pad(row[prompt.columns], sides))
            masks.append(torch.nn.functional.pad(torch.ones_like(prompt.columns), sides))
            positions.append(torch.nn.functional.pad(prompt.positions, sides))
            shown.append(tuple(replace(one, rows=one.rows + sides[0]) for one in prompt.videos))
        inputs = {
            "input_ids": torch.stack(short),
            # explicit: without a mask, gaps in the positions read as the start of another packed sequence
            "attention_mask": torch.stack(masks),
            "position_ids": torch.stack(positions, -2),
        }
        return cls(inputs, tuple(shown))


def whole_videos(prompts: int, videos: Sequence[StockVideo]) -> Shown:
    """Of each of so many ``prompts`` its videos, when nothing was dropped."""
    shown: list[list[VisualRows]] = [[] for _ in range(prompts)]
    for video in videos:
        every = torch.arange(video.grid.tokens, device=video.columns.device)
        shown[video.prompt].append(VisualRows(video.columns, every, video.grid))
    return tuple(map(tuple, shown))


def as_one(videos: Sequence[VisualRows]) -> VisualRows | None:
    """The visual tokens of a prompt with these ``videos``; None without any.

    Frames of several videos are counted on where all have the same rows and columns; else there is no grid.
    """
    if len(videos) < 2:
        return videos[0] if videos else None
    rows = torch.cat([video.rows for video in videos])
    places, frames, sides = [], 0, set()
    for video in videos:
        if video.grid is None or video.places is None:
            return VisualRows(rows)
        places.append(frames * video.grid.tokens_per_frame + video.places)
        frames += video.grid.frames
        sides.add((video.grid.rows, video.grid.cols))
    if len(sides) > 1:
        return VisualRows(rows)
    return VisualRows(rows, torch.cat(places), VideoGrid(frames, *sides.pop()))
