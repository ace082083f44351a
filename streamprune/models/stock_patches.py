"""Videos as rows of patches of any number, with a table of their sides (Qwen-VL and its like)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from streamprune.errors import InvalidValueError
from streamprune.models.stock_inputs import (
    StockInputs,
    StockPositions,
    StockVideo,
    in_turn,
    prompt_mask,
)
from streamprune.tokens import Reduction, VideoGrid

if TYPE_CHECKING:
    from streamprune.models.base import VideoFamily


class StockPatches(StockInputs):
    """``pixel_values_videos`` of shape (patches of all videos, values), ``video_grid_thw`` in patches.

    The placeholders of a video may have text between them, e.g. the times of its slices.

    Args:
        patch: pixels along a patch.
        merge: patches along a token.
        slice_frames: frames of a slice.
    """

    video_arguments: ClassVar[tuple[str, ...]] = (
        "pixel_values_videos",
        "video_grid_thw",
        "video_merge_sizes",
        "video_compression_mask",
        "second_per_grid_ts",
        "mm_token_type_ids",
    )

    def __init__(self, family: VideoFamily, *, patch: int, merge: int, slice_frames: int) -> None:
        super().__init__(family)
        self._patch, self._merge, self._slice_frames = patch, merge, slice_frames

    def videos(self, given: Mapping[str, Any]) -> list[StockVideo]:
        """One for every row of ``video_grid_thw``."""
        rows, sides = given.get("pixel_values_videos"), given.get("video_grid_thw")
        if rows is None:
            return []
        if sides is None or int(sides.prod(-1).sum()) != len(rows):
            patches = "nothing" if sides is None else f"{int(sides.prod(-1).sum())} patches"
            raise InvalidValueError(
                "video_grid_thw must give slices, rows and columns of the "
                f"{len(rows)} patches in pixel_values_videos, got {patches}"
            )
        self._check_whole(given)
        ids, merge = given["input_ids"], self._merge
        grids = [VideoGrid(t, high // merge, wide // merge) for t, high, wide in sides.tolist()]
        places = in_turn(ids, ids == self.token_id, [grid.tokens for grid in grids])
        parts = rows.split(sides.prod(-1).tolist())
        seconds = given.get("second_per_grid_ts", given.get("video_second_per_grid"))
        steps = [None] * len(grids) if seconds is None else [float(step) for step in seconds]
        return [
            StockVideo(
                int(place[0, 0]), place[:, 1], grid, partial(self._frames, part, grid), _times(grid, step)
            )
            for place, grid, part, step in zip(places, grids, parts, steps, strict=True)
        ]

    def _check_whole(self, given: Mapping[str, Any]) -> None:
        """Every patch has to be there, and tokens of one size."""
        merges, seen = given.get("video_merge_sizes"), given.get("video_compression_mask")
        if merges is not None and bool((merges != self._merge).any()):
            raise InvalidValueError(
                f"video_merge_sizes must be {self._merge} throughout, got {merges.tolist()}"
            )
        if seen is not None and not bool(seen.all()):
            raise InvalidValueError(
                "video_compression_mask drops tokens already; make the inputs with "
                "use_token_compression=False and let the recipe choose what stays"
            )

    def _frames(self, rows: torch.Tensor, grid: VideoGrid) -> torch.Tensor:
        """(frames, 3, rows, cols): the inverse of :func:`patch_rows`."""
        merge, patch, each = self._merge, self._patch, self._slice_frames
        cut = rows.reshape(grid.frames, grid.rows, grid.cols, merge, merge, 3, each, patch, patch)
        # slice, frame, colour | token row, patch row, row | token col, patch col, col
        whole = cut.permute(0, 6, 5, 1, 3, 7, 2, 4, 8)
        side = merge * patch
        return whole.reshape(grid.frames * each, 3, grid.rows * side, grid.cols * side)

    def features(
        self, given: Mapping[str, Any], videos: Sequence[StockVideo], left: Sequence[Reduction]
    ) -> dict[str, Any]:
        """A tensor for every video, and one for every layer that gets rows of its own."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        found = BaseModelOutputWithPooling(pooler_output=tuple(one.features for one in left))
        carried = [one.carried for one in left]
        layers = [
            torch.split(rows, one.features.shape[-1], -1)
            for rows, one in zip(carried, left, strict=True)
            if rows is not None
        ]
        if layers:
            found["deepstack_features"] = list(zip(*layers, strict=True))
        return {**self.picture_features(given), "video": found}


class ThreeAxisPatches(StockPatches):
    """Of a model that has positions on three axes, and a rule of its own for them."""

    remembered: ClassVar[tuple[str, ...]] = ("rope_deltas",)

    def positions(self, given: Mapping[str, Any]) -> StockPositions:
        """On three axes, as the model's own rule for full prompts has them, which differs between releases.

        Without ``mm_token_type_ids`` the tokens themselves say what is visual.
        """
        if given.get("position_ids") is not None:
            return self._given_positions(given)
        mask = prompt_mask(given)
        values, deltas = self.rope_index(given, mask)
        return StockPositions(values, mask.sum(-1) + deltas.to(mask.device).flatten())

    def rope_index(self, given: Mapping[str, Any], mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions of full prompts, and how far later ones are ahead of the number of tokens."""
        ids, kinds = given["input_ids"], given.get("mm_token_type_ids")
        if kinds is None:
            kinds = 2 * (ids == self.token_id).int() + (ids == self.model.config.image_token_id).int()
        found: tuple[torch.Tensor, torch.Tensor] = self.model.base_model.get_rope_index(
            ids,
            mm_token_type_ids=kinds,
            attention_mask=mask,
            **_those_given(given, "image_grid_thw", "video_grid_thw", "second_per_grid_ts"),
        )
        return found

    def _given_positions(self, given: Mapping[str, Any]) -> StockPositions:
        """Of (3, batch, length), or of 4 with those of the text alone first."""
        values, mask = given["position_ids"], prompt_mask(given)
        if values.ndim != 3:
            raise InvalidValueError(
                "position_ids must be (3, batch, length) or (4, batch, length) for this family, got "
                f"{tuple(values.shape)}; leave them out"
            )
        values = values[-3:].expand(-1, len(mask), -1)
        return StockPositions(values, 1 + values.masked_fill(mask == 0, -1).amax((0, -1)))


class SilentPatches(ThreeAxisPatches):
    """Of a model that also hears: videos whose sound is not listened to."""

    video_arguments: ClassVar[tuple[str, ...]] = (
        *ThreeAxisPatches.video_arguments,
        "video_second_per_grid",
        "use_audio_in_video",
    )

    def rope_index(self, given: Mapping[str, Any], mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As the model has them for prompts without sound; InvalidValueError for one with it."""
        if given.get("input_features") is not None:
            raise InvalidValueError(
                "input_features hold sound, beside which no video can be shortened; leave it out "
                "(use_audio_in_video=False), or use a recipe with an in_llm or kv stage alone"
            )
        found: tuple[torch.Tensor, torch.Tensor] = self.model.base_model.get_rope_index(
            given["input_ids"],
            attention_mask=mask,
            second_per_grids=given.get("video_second_per_grid"),
            **_those_given(given, "image_grid_thw", "video_grid_thw"),
        )
        return found


def _those_given(given: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: given[name] for name in names if given.get(name) is not None}


def _times(grid: VideoGrid, step: float | None) -> tuple[float, ...] | None:
    return None if step is None else tuple(step * number for number in range(grid.frames))
