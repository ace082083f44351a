"""What a stock model is called with, read once and with fewer visual tokens where a recipe drops some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from streamprune.errors import InvalidValueError
from streamprune.kv.view import PROMPT_TEXT, TokenLabels
from streamprune.models.base import VideoFamily
from streamprune.models.inside_tower import encode_inside
from streamprune.models.prompt_rows import VisualRows
from streamprune.models.short_prompts import ShortBatch, ShortPrompt, Shown, whole_videos
from streamprune.models.stock_inputs import StockInputs, StockPositions, StockVideo, prompt_mask
from streamprune.positions import Positions
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.reduce import Reducer, run_reducer
from streamprune.tokens import Reduction

if TYPE_CHECKING:
    from streamprune.encoder.base import TowerMethod


@dataclass(frozen=True, eq=False)
class ReadInputs:
    """Arguments of one call of a model.

    Attributes:
        given: all of them, as the model gets them.
        changed: whether they are others than those that came.
        shown: the videos of each prompt, none of them () where it has none; None where nobody looked.
        length: tokens of the longest prompt now.
        removed: so many fewer than before.
        later: where the one prompt goes on in a later call: the position of the token behind it; None when
            nothing was dropped, or of several prompts.
    """

    given: dict[str, Any]
    changed: bool = False
    shown: Shown | None = None
    length: int = 0
    removed: int = 0
    later: int | None = None


@dataclass(frozen=True)
class Reducing:
    """What a recipe does before the language model.

    Args:
        method: chooses among the tokens of each video, with a budget for each.
        encoder: acts inside the vision tower.
        needs: signals that the method reads.
        positions: what the rest gets.
    """

    method: Reducer
    encoder: TowerMethod | None
    needs: tuple[str, ...]
    positions: Positions

    @property
    def keeps_all(self) -> bool:
        """Whether nothing is dropped of any video."""
        budget = getattr(self.method, "budget", None)
        return self.encoder is None and budget is not None and bool(budget.keeps_all)


class InputsReader:
    """Finds the videos in a model's arguments and reduces them.

    Args:
        family: the model's.
        stock: how its processor writes videos.
        reducing: what is to be done before the language model; None = nothing.
    """

    def __init__(self, family: VideoFamily, stock: StockInputs, reducing: Reducing | None) -> None:
        self._family, self._stock, self._reducing = family, stock, reducing

    def __call__(self, given: Mapping[str, Any]) -> ReadInputs:
        """Read ``given``; prompts without videos pass as they are."""
        ids: torch.Tensor = given["input_ids"]
        if given.get("mm_encoder_outputs"):
            if self._reducing is None:
                return ReadInputs(dict(given))
            raise InvalidValueError(
                "mm_encoder_outputs hold videos that are encoded already, and the recipe acts before that; "
                "give the processor's outputs instead"
            )
        videos = self._stock.videos(given)
        if self._reducing is None or self._keeps_everything(self._reducing, videos):
            return ReadInputs(dict(given), False, whole_videos(len(ids), videos), ids.shape[1])
        if given.get("labels") is not None:
            raise InvalidValueError("labels cannot be given where tokens are dropped: some have no logit")
        left = [self._reduce(self._reducing, video) for video in videos]
        return self._short(given, videos, left, self._reducing.positions)

    def _keeps_everything(self, reducing: Reducing, videos: Sequence[StockVideo]) -> bool:
        method = reducing.method
        if not videos:
            return True
        return (
            reducing.encoder is None
            and isinstance(method, PreLLMMethod)
            and all(method.keeps_everything(video.grid) for video in videos)
        )

    def _reduce(self, reducing: Reducing, video: StockVideo) -> Reduction:
        family = self._family
        with family.lock, torch.no_grad():  # the tower's hooks are for one thread at a time
            encoded = encode_inside(family, reducing.encoder)(video.pixels(), reducing.needs, None)
            tokens = encoded.tokens(family.signals(encoded.signals), video.pts_seconds)
            return run_reducer(reducing.method, tokens)

    def _short(
        self,
        given: Mapping[str, Any],
        videos: Sequence[StockVideo],
        left: Sequence[Reduction],
        chosen: Positions,
    ) -> ReadInputs:
        ids, mask = given["input_ids"], prompt_mask(given).bool()
        full = self._stock.positions(given)
        pairs = list(zip(videos, left, strict=True))
        prompts = [
            ShortPrompt.of(
                valid, full.values[..., row, :], [pair for pair in pairs if pair[0].prompt == row], chosen
            )
            for row, valid in enumerate(mask)
        ]
        batch = ShortBatch.of(ids, prompts, left=bool(mask[:, -1].all()))
        features = self._stock.features(given, videos, left)
        changed = {**self._stock.arguments_left(given), **batch.inputs, "mm_encoder_outputs": features}
        length = batch.inputs["input_ids"].shape[1]
        later = _later(full, prompts[0], chosen) if len(prompts) == 1 else None
        return ReadInputs(changed, True, batch.shown, length, ids.shape[1] - length, later)


def _later(full: StockPositions, prompt: ShortPrompt, chosen: Positions) -> int:
    """Where the token behind a prompt stands in a later call."""
    if chosen == Positions():
        return int(full.later[0])
    return int(prompt.positions.max()) + 1


def token_labels(ids: torch.Tensor, shown: Sequence[Sequence[VisualRows]]) -> TokenLabels:
    """What each token of the prompts ``ids`` (batch, length) is: text, or of which frame and place.

    Frames of several videos in a prompt are counted on. Places are left out where grids differ.
    """
    segments, cells = torch.full_like(ids, PROMPT_TEXT), torch.full_like(ids, -1)
    grids: set[tuple[int, int] | None] = set()
    for row, videos in enumerate(shown):
        frames = 0
        for video in videos:
            if video.grid is None or video.places is None:
                segments[row, video.rows] = frames
                grids.add(None)
                continue
            per_frame = video.grid.tokens_per_frame
            segments[row, video.rows] = frames + video.places // per_frame
            cells[row, video.rows] = video.places % per_frame
            frames += video.grid.frames
            grids.add((video.grid.rows, video.grid.cols))
    one = grids.pop() if len(grids) == 1 else None
    return TokenLabels(segments) if one is None else TokenLabels(segments, cells, one)
