"""Videos whose frames come as pictures, each with placeholders of its own (InternVL, SmolVLM)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from streamprune.errors import InvalidValueError
from streamprune.models.stock_inputs import StockInputs, StockVideo
from streamprune.tokens import Reduction

if TYPE_CHECKING:
    from streamprune.models.base import VideoFamily


@dataclass(frozen=True)
class FrameText:
    """What the processor writes before the placeholders of a frame; white space does not count.

    Args:
        frame: matches the end of the text between a frame's placeholders and those before.
        first: found in it where a new video begins.
    """

    frame: re.Pattern[str]
    first: re.Pattern[str]


@dataclass(frozen=True, eq=False)
class _Run:
    """Consecutive placeholders: a frame, or a picture of one tile or more.

    Attributes:
        prompt: row of the batch.
        start, stop: columns.
        pictures: which of the call's pictures they stand for.
        video: number of its video in the prompt, None for a picture.
    """

    prompt: int
    start: int
    stop: int
    pictures: range
    video: int | None


class StockPictures(StockInputs):
    """``pixel_values`` of shape (pictures, 3, rows, cols), or (batch, pictures, 3, rows, cols).

    With a tokenizer the text says which pictures are frames, and of which video. Without one they all count
    as frames of the one video of their prompt.

    Args:
        text: how frames are told from other pictures.
        encode: (pictures, 3, rows, cols) to (pictures, tokens, channels) or the like.
        rows: (rows, channels) of a whole batch as the model's own ``get_image_features`` would return them.
    """

    video_arguments: ClassVar[tuple[str, ...]] = ("pixel_values",)

    def __init__(
        self,
        family: VideoFamily,
        text: FrameText,
        encode: Callable[[torch.Tensor], torch.Tensor],
        rows: Callable[[torch.Tensor], Any],
    ) -> None:
        super().__init__(family)
        self._text, self._encode, self._rows = text, encode, rows

    @property
    def token_id(self) -> int:
        """The one of pictures."""
        return int(self.model.config.image_token_id)

    def videos(self, given: Mapping[str, Any]) -> list[StockVideo]:
        """Runs of frames that belong together."""
        pictures = self._pictures(given)
        if pictures is None:
            return []
        videos: dict[tuple[int, int], list[_Run]] = {}
        for run in self._runs(given["input_ids"], len(pictures)):
            if run.video is not None:
                videos.setdefault((run.prompt, run.video), []).append(run)
        found = []
        for (prompt, _), runs in videos.items():
            numbers = [number for run in runs for number in run.pictures]
            columns = torch.cat([torch.arange(run.start, run.stop) for run in runs])
            found.append(
                StockVideo(
                    prompt,
                    columns.to(given["input_ids"].device),
                    self.family.grid(len(numbers)),
                    partial(pictures.__getitem__, numbers),
                )
            )
        return found

    @torch.no_grad()
    def features(
        self, given: Mapping[str, Any], videos: Sequence[StockVideo], left: Sequence[Reduction]
    ) -> dict[str, Any]:
        """Rows of frames and pictures as they stand in the prompts."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        pictures = self._pictures(given)
        assert pictures is not None  # there are videos
        parts = [
            (video.prompt, int(video.columns[0]), one.features)
            for video, one in zip(videos, left, strict=True)
        ]
        for run in self._runs(given["input_ids"], len(pictures)):
            if run.video is None:
                encoded = self._encode(pictures[list(run.pictures)])
                parts.append((run.prompt, run.start, encoded.reshape(-1, encoded.shape[-1])))
        parts.sort(key=lambda part: part[:2])
        rows = self._rows(torch.cat([part[2] for part in parts]))
        return {"image": BaseModelOutputWithPooling(pooler_output=rows)}

    def _pictures(self, given: Mapping[str, Any]) -> torch.Tensor | None:
        """(pictures, 3, rows, cols) of the whole batch; None when there are none."""
        pixels: torch.Tensor | None = given.get("pixel_values")
        if pixels is None:
            return None
        if pixels.ndim == 5:
            # the stock model takes black ones for padding
            real = (pixels != 0).flatten(2).any(-1)
            mask = given.get("pixel_attention_mask")
            if mask is not None and not bool(mask[real].all()):
                raise InvalidValueError(
                    "pixel_attention_mask must be 1 everywhere: pictures of unequal sizes, padded to one "
                    "size, cannot be accelerated; resize them first"
                )
            pixels = pixels[real]
        size = self.family.transform.size
        if pixels.ndim != 4 or tuple(pixels.shape[2:]) != size:
            raise InvalidValueError(
                f"pixel_values must hold pictures of {size[0]} x {size[1]}, got {tuple(pixels.shape)}"
            )
        return pixels

    def _runs(self, ids: torch.Tensor, pictures: int) -> list[_Run]:
        tokens = self.family.grid(1).tokens
        found: list[_Run] = []
        taken = 0
        for prompt, row in enumerate(ids):
            before, video = 0, -1
            for start, stop in _stretches(row == self.token_id):
                count = (stop - start) // tokens
                if (stop - start) % tokens:
                    raise InvalidValueError(
                        f"every picture must have {tokens} placeholders, prompt {prompt} has "
                        f"{stop - start} in a row; give the processor's outputs as they are"
                    )
                of_video, begins = self._meaning(row[before:start])
                video += of_video and (begins or video < 0)
                found.append(
                    _Run(prompt, start, stop, range(taken, taken + count), video if of_video else None)
                )
                before, taken = stop, taken + count
        if taken != pictures:
            raise InvalidValueError(
                f"the prompts hold placeholders for {taken} pictures and pixel_values holds {pictures}; give "
                "the processor's outputs as they are"
            )
        return found

    def _meaning(self, between: torch.Tensor) -> tuple[bool, bool]:
        """Whether a frame comes after the tokens ``between``, and whether a new video does."""
        if self.family.tokenizer is None:
            return True, False
        said = self.family.tokenizer.decode(between.tolist(), skip_special_tokens=False)
        said = re.sub(r"\s+", "", said)
        return self._text.frame.search(said) is not None, self._text.first.search(said) is not None


def _stretches(marked: torch.Tensor) -> list[tuple[int, int]]:
    """Start and stop of every run of ``marked`` (length,) bool."""
    edges = torch.diff(torch.nn.functional.pad(marked.int(), (1, 1)))
    starts, stops = (edges == 1).nonzero()[:, 0], (edges == -1).nonzero()[:, 0]
    return list(zip(starts.tolist(), stops.tolist(), strict=True))
