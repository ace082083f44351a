"""What a stock processor gives, with fewer visual tokens in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from streamprune.errors import InvalidValueError
from streamprune.kv.view import PROMPT_TEXT, TokenLabels
from streamprune.models.base import VideoFamily
from streamprune.models.prompt_rows import VisualRows
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.reduce import Reducer, run_reducer
from streamprune.tokens import Reduction, VideoGrid

if TYPE_CHECKING:
    from streamprune.encoder.base import EncoderMethod

_PIXELS = "pixel_values_videos"


@dataclass(frozen=True, eq=False)
class ReducedInputs:
    """Arguments for the model in place of those it was called with.

    Attributes:
        given: all of them.
        reductions: what was decided, one a prompt.
        removed: tokens that the longest prompt lost.
    """

    given: dict[str, Any]
    reductions: tuple[Reduction, ...]
    removed: int


@dataclass(frozen=True)
class StockReducer:
    """Encodes and reduces the videos of LLaVA-OneVision inputs, one video a prompt.

    Args:
        method: chooses among the tokens of each video.
        encoder: acts inside the vision tower.
        needs: signals that the method reads.
    """

    family: VideoFamily
    method: Reducer
    encoder: EncoderMethod | None
    needs: tuple[str, ...]

    def __call__(self, given: Mapping[str, Any]) -> ReducedInputs | None:
        """Reduce the videos among the arguments ``given``; None when there is nothing to reduce."""
        pixels = given.get(_PIXELS)
        if pixels is None or given.get("input_ids") is None:
            return None
        _check_given(given)
        ids, grid = given["input_ids"], self.family.grid(pixels.shape[1])
        if self.encoder is None and self._keeps_everything(grid):
            return None
        starts = [_start(row, self._video_id, grid, len(pixels) == len(ids)) for row in ids]
        mask = given.get("attention_mask")
        mask = torch.ones_like(ids) if mask is None else mask
        positions = given.get("position_ids")
        positions = (mask.cumsum(-1) - 1).clamp(min=0) if positions is None else positions
        reductions = tuple(self._reduce(video) for video in pixels)
        columns = [
            _columns(valid, start, reduction)
            for valid, start, reduction in zip(mask.bool(), starts, reductions, strict=True)
        ]
        longest, left = max(map(len, columns)), bool(mask[:, -1].all())
        short = {
            name: torch.stack(
                [_filled(row[kept], longest, left) for row, kept in zip(rows, columns, strict=True)]
            )
            for name, rows in (
                ("input_ids", ids),
                ("attention_mask", mask),
                ("position_ids", positions.expand_as(ids)),
            )
        }
        others = {name: value for name, value in given.items() if name not in (_PIXELS, "image_sizes_videos")}
        changed = {**others, **short, "mm_encoder_outputs": {"video": self._rows(reductions)}}
        return ReducedInputs(changed, reductions, ids.shape[1] - longest)

    @property
    def _video_id(self) -> int:
        return int(self.family.model.config.video_token_id)

    def _keeps_everything(self, grid: VideoGrid) -> bool:
        return isinstance(self.method, PreLLMMethod) and self.method.keeps_everything(grid)

    def _reduce(self, pixels: torch.Tensor) -> Reduction:
        with self.family.lock, torch.no_grad():  # the tower's hooks are for one thread at a time
            encoded = self.family.encode(pixels, self.needs, self.encoder)
            return run_reducer(self.method, encoded.tokens(self.family.signals(encoded.signals)))

    def _rows(self, reductions: Sequence[Reduction]) -> Any:
        """Kept rows of all videos, each with the newline behind it, as the model's features."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        newline = self.family.model.model.image_newline
        rows = [torch.cat([one.features, newline.to(one.features)[None]]) for one in reductions]
        return BaseModelOutputWithPooling(pooler_output=torch.cat(rows)[None])


def visual_rows(
    ids: torch.Tensor, family: VideoFamily, reductions: Sequence[Reduction] | None
) -> list[VisualRows | None]:
    """The visual tokens of each prompt in ``ids`` (batch, rows); a newline behind a video is text.

    Args:
        reductions: what the videos of the prompts were reduced to; None: they are whole. Prompts that were
            repeated for beams follow one another.
    """
    config = family.model.config
    found: list[VisualRows | None] = []
    for number, row in enumerate(ids):
        video = row == config.video_token_id
        if family.model_type == "llava_onevision":
            # the last of every run of placeholders is the newline
            video = video & torch.cat([video[1:], video[:1] & False])
        rows = (video | (row == getattr(config, "image_token_id", -1))).nonzero()[:, 0]
        if len(rows) == 0 or ids.shape[1] == 1:
            found.append(None)
        elif reductions is not None:
            reduction = reductions[number * len(reductions) // len(ids)]
            found.append(VisualRows(rows, reduction.index.clamp(min=0).to(rows.device), reduction.grid))
        else:
            found.append(_whole(rows, family))
    return found


def token_labels(
    ids: torch.Tensor, family: VideoFamily, reductions: Sequence[Reduction] | None
) -> TokenLabels:
    """What each token of the prompts ``ids`` is: text, or of which frame and place.

    Where frames are not known all visual tokens count as of one, and places are left out.
    """
    segments, cells = torch.full_like(ids, PROMPT_TEXT), torch.full_like(ids, -1)
    grids: list[tuple[int, int] | None] = []
    for row, visual in enumerate(visual_rows(ids, family, reductions)):
        if visual is None:
            continue
        if visual.grid is None or visual.places is None:
            grids.append(None)
            segments[row, visual.rows] = 0
            continue
        grids.append((visual.grid.rows, visual.grid.cols))
        per_frame = visual.grid.tokens_per_frame
        segments[row, visual.rows] = visual.places // per_frame
        cells[row, visual.rows] = visual.places % per_frame
    if not grids or None in grids or len(set(grids)) > 1:
        return TokenLabels(segments)
    return TokenLabels(segments, cells, grids[0])


def _whole(rows: torch.Tensor, family: VideoFamily) -> VisualRows:
    """With its grid when the rows are one whole video of a family whose frames are all alike."""
    if family.model_type != "llava_onevision" or int(rows[-1] - rows[0]) != len(rows) - 1:
        return VisualRows(rows)
    frame = family.grid(1)
    if len(rows) % frame.tokens:
        return VisualRows(rows)
    grid = VideoGrid(len(rows) // frame.tokens, frame.rows, frame.cols)
    return VisualRows(rows, torch.arange(len(rows), device=rows.device), grid)


def _check_given(given: Mapping[str, Any]) -> None:
    if given.get("pixel_values") is not None:
        raise InvalidValueError(
            "the encoder and pre_llm stages reduce videos; pictures beside them (pixel_values) cannot go "
            "through"
        )
    if given.get("labels") is not None:
        raise InvalidValueError("labels cannot be given where tokens are dropped: some have no logit")


def _start(row: torch.Tensor, video_id: int, grid: VideoGrid, one_each: bool) -> int:
    """Where the one video of a prompt starts."""
    places = (row == video_id).nonzero()[:, 0]
    whole = len(places) == grid.tokens + 1 and int(places[-1] - places[0]) == grid.tokens
    if not (one_each and whole):
        raise InvalidValueError(
            f"every prompt must hold one video, as {grid.tokens + 1} placeholders one after another for "
            f"{grid.frames} frames, got {len(places)}; put several videos into several prompts"
        )
    return int(places[0])


def _columns(valid: torch.Tensor, start: int, reduction: Reduction) -> torch.Tensor:
    """(left,) ascending columns of a prompt that stay: text, kept tokens, the newline."""
    grid = reduction.grid
    index = reduction.index.to(valid.device)
    # rows that stand for no token have no place of their own: they take the last one
    places = start + torch.where(index < 0, grid.tokens - 1, index)
    columns = torch.arange(len(valid), device=valid.device)
    before = columns[(columns < start) & valid]
    after = columns[(columns >= start + grid.tokens) & valid]
    return torch.cat([before, places, after])


def _filled(values: torch.Tensor, length: int, left: bool) -> torch.Tensor:
    missing = length - len(values)
    return torch.nn.functional.pad(values, (missing, 0) if left else (0, missing))
