"""Where the videos are in what a stock processor gives, and how a model takes what is left of them.

Each family has one :class:`StockInputs`; ``stock_clips``, ``stock_patches`` and ``stock_pictures`` are the
three kinds there are. To let a new family's own ``generate`` be accelerated before the language model, return
one from :meth:`VideoFamily.stock_inputs`.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from streamprune.errors import InvalidValueError
from streamprune.tokens import Reduction, VideoGrid

if TYPE_CHECKING:
    from streamprune.models.base import VideoFamily

# what the stock models take for pictures
PICTURES = (
    "pixel_values",
    "image_sizes",
    "image_grid_thw",
    "image_merge_sizes",
    "pixel_attention_mask",
    "batch_num_images",
)


@dataclass(frozen=True, eq=False)
class StockVideo:
    """One video of a call.

    Attributes:
        prompt: row of the batch that it belongs to.
        columns: (tokens,) int64, where in that row each token of the grid stands, ascending.
        grid: its tokens.
        pixels: makes (frames, 3, rows, cols) as :meth:`VideoFamily.encode` takes them; not asked of a video
            that stays whole.
        pts_seconds: time of every frame of tokens, None where the inputs do not say.
    """

    prompt: int
    columns: torch.Tensor
    grid: VideoGrid
    pixels: Callable[[], torch.Tensor] = field(repr=False)
    pts_seconds: tuple[float, ...] | None = None


@dataclass(frozen=True, eq=False)
class StockPositions:
    """Rotary positions of full prompts, as the stock model has them.

    Attributes:
        values: (..., batch, length) int64, one leading axis where a family has several axes.
        later: (batch,) int64, where the stock model goes on in a later call with the same cache.
    """

    values: torch.Tensor
    later: torch.Tensor


class StockInputs(ABC):
    """How a family's processor writes videos into the arguments of a model.

    Args:
        family: whose.
    """

    # arguments that describe videos, the pixels first, all of which are used up when videos are reduced
    video_arguments: ClassVar[tuple[str, ...]] = ("pixel_values_videos", "image_sizes_videos")
    # attributes of the stock model that it sets while it runs
    remembered: ClassVar[tuple[str, ...]] = ()

    def __init__(self, family: VideoFamily) -> None:
        self.family = family
        self.model: Any = family.model

    @property
    def token_id(self) -> int:
        """What stands for a token of a video."""
        return int(self.model.config.video_token_id)

    def placeholders(self, ids: torch.Tensor) -> torch.Tensor:
        """(length,) bool: which tokens of the prompt ``ids`` (length,) stand for a token of a grid."""
        return ids == self.token_id

    @abstractmethod
    def videos(self, given: Mapping[str, Any]) -> list[StockVideo]:
        """The videos among a model's arguments ``given``, in the order of the batch; [] when there are none.

        Raises InvalidValueError for arguments that do not fit together.
        """

    @abstractmethod
    def features(
        self, given: Mapping[str, Any], videos: Sequence[StockVideo], left: Sequence[Reduction]
    ) -> dict[str, Any]:
        """``mm_encoder_outputs`` for prompts in which of each video that is ``left``; pictures are encoded.

        Made afresh for every call: generation may overwrite them.
        """

    def positions(self, given: Mapping[str, Any]) -> StockPositions:
        """Of the full prompts ``given``: those that were given, else what the model itself would count."""
        ids, mask = given["input_ids"], prompt_mask(given)
        counted: torch.Tensor | None = given.get("position_ids")
        if counted is None:
            counted = (mask.cumsum(-1) - 1).clamp(min=0)
        counted = counted.expand_as(ids)
        return StockPositions(counted, 1 + counted.masked_fill(mask == 0, -1).amax(-1))

    def arguments_left(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments ``given`` without those of videos and pictures."""
        gone = {*self.video_arguments, *PICTURES}
        return {name: value for name, value in given.items() if name not in gone}

    def picture_features(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """``mm_encoder_outputs`` of the pictures beside the videos, encoded as the model does it."""
        if given.get("pixel_values") is None:
            return {}
        encode = self.model.base_model.get_image_features
        taken = {name: given[name] for name in inspect.signature(encode).parameters if name in given}
        with torch.no_grad():
            return {"image": encode(**{**taken, "return_dict": True})}


def prompt_mask(given: Mapping[str, Any]) -> torch.Tensor:
    """(batch, length) int64: 1 for tokens, 0 for padding."""
    mask: torch.Tensor | None = given.get("attention_mask")
    if mask is None:
        return torch.ones_like(given["input_ids"])
    if mask.shape != given["input_ids"].shape:
        raise InvalidValueError(
            f"attention_mask must have the shape of input_ids {tuple(given['input_ids'].shape)} where "
            f"videos come in, got {tuple(mask.shape)}; give the whole prompt without past_key_values"
        )
    return mask


def in_turn(ids: torch.Tensor, placeholders: torch.Tensor, counts: Sequence[int]) -> list[torch.Tensor]:
    """Deal out the placeholders of a batch, prompt after prompt, so many to each video.

    Args:
        ids: (batch, length).
        placeholders: of the same shape, bool.
        counts: placeholders of each video.

    Returns:
        For each video (count, 2) int64: row and column of its placeholders. InvalidValueError when they
        cannot be dealt out, every video within one prompt.
    """
    found = placeholders.nonzero()
    each = found[:, 0].bincount(minlength=len(ids)).tolist()
    if len(found) != sum(counts):
        raise InvalidValueError(
            f"the prompts hold {len(found)} placeholders for {sum(counts)} tokens of {len(counts)} videos "
            f"({counts}); give the processor's outputs as they are"
        )
    parts = list(torch.split(found, list(counts)))
    for number, part in enumerate(parts):
        if int(part[0, 0]) != int(part[-1, 0]):
            raise InvalidValueError(
                f"video {number} would be spread over several prompts, which hold {each} placeholders for "
                f"videos of {counts}; give the processor's outputs as they are"
            )
    return parts
