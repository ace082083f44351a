"""SmolVLM: the video introduced in words, every frame after its time, square pictures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar

import torch

from streamprune.models.base import Checkpoint
from streamprune.models.chat_template import video_prompt_text
from streamprune.models.frames_as_images import FramesAsImages
from streamprune.models.preprocessing import FrameTransform
from streamprune.models.stock_pictures import FrameText
from streamprune.models.tower_layout import TowerLayout
from streamprune.models.vision_layers import VisionLayers

# what the stock processor takes for a video that does not say how fast it is
_UNKNOWN_FPS = 24
# the words the models were trained with
_INTRODUCTION = "You are provided the following series of {frames} frames from a {length} [H:MM:SS] video.\n"
_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


class SmolVLM(FramesAsImages):
    """A stock ``SmolVLMForConditionalGeneration``.

    The prompt says how long the video is: up to its last frame, which is what the stock processor says of a
    video whose length it does not know. It follows the processor's own template for videos, not the one of
    the checkpoint, as the processor does. Pictures that have the tower's size already are taken as they are;
    the stock processor enlarges and shrinks them once more. ``saliency`` is the attention of a frame's mean
    query, since the tower has no summary token.
    """

    model_type: ClassVar[str] = "smolvlm"

    def __init__(self, checkpoint: Checkpoint) -> None:
        config, tokenizer = checkpoint.model.config, checkpoint.tokenizer
        self._around: str = getattr(tokenizer, "fake_image_token", None) or "<fake_token_around_image>"
        self._whole: str = getattr(tokenizer, "global_image_token", None) or "<global-img>"
        super().__init__(
            checkpoint,
            patch=int(config.vision_config.patch_size),
            merge=int(config.scale_factor),
            video_mark=getattr(tokenizer, "video_token", None) or "<video>",
        )

    def stock_transform(self, settings: Mapping[str, Any]) -> FrameTransform:
        """Resized twice; where the settings are silent, colours run from -1 to 1."""
        half = [0.5] * 3
        named = {"image_mean": half, "image_std": half, **settings}
        return FrameTransform.stretching(named, self.default_size()[0])

    def tower_layout(self, patches: int) -> TowerLayout:
        """Layers that attend over a whole frame."""
        return TowerLayout.of_smolvlm(self.model.get_encoder("video"), patches)

    def projector(self) -> torch.nn.Module:
        """The part of the connector that comes after the merging."""
        projector: torch.nn.Module = self.model.model.connector.modality_projection
        return projector

    def image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """As the model does it for one prompt with so many images."""
        found = self.model.get_image_features(pixels[None], return_dict=True).pooler_output
        features: torch.Tensor = found[0]
        return features

    def turn_template(self) -> str:
        """The processor's template for videos."""
        from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

        return str(DEFAULT_CHAT_TEMPLATE)

    def vision_layers(self) -> tuple[VisionLayers, int]:
        """All layers."""
        tower, side = self.model.get_encoder("video"), self._patches

        def embed(pixels: torch.Tensor) -> torch.Tensor:
            seen = torch.ones(len(pixels), side, side, dtype=torch.bool, device=pixels.device)
            embedded: torch.Tensor = tower.embeddings(pixels, seen)
            return embedded

        layers = VisionLayers(tower, self.checkpoint.name, embed)
        return layers, layers.depth

    def behind_layers(self, states: torch.Tensor) -> torch.Tensor:
        """The tower's norm and the connector."""
        normed = self.model.get_encoder("video").post_layernorm(states)
        features: torch.Tensor = self.model.model.connector(normed)
        return features

    def prompt_text(self, question: str) -> str:
        """By the same template."""
        return video_prompt_text(self.tokenizer, question, self.turn_template())

    def frames_text(self, frames: int, token_mark: str, pts_seconds: Sequence[float] | None) -> str:
        """The introduction, and every frame after the minute and second it is from."""
        times = pts_seconds or [number / _UNKNOWN_FPS for number in range(frames)]
        length = str(timedelta(seconds=int(times[-1])))
        text = _INTRODUCTION.format(frames=in_words(frames), length=length)
        picture = f"{self._around}{self._whole}{token_mark}{self._around}"
        for seconds in times:
            text += f"\nFrame from {int(seconds // 60):02d}:{int(seconds % 60):02d}:{picture}"
        return text + "\n\n"

    def frame_text(self) -> FrameText:
        """Its time; before the first one the introduction."""
        picture = re.escape(self._around + self._whole)
        return FrameText(
            re.compile(rf"Framefrom[\d:]+:{picture}$"), re.compile("providedthefollowingseriesof")
        )

    def visual_rows(self, features: torch.Tensor) -> Any:
        """One tensor for the one prompt."""
        return [features]


def in_words(number: int) -> str:
    """``number``, from 0 to 999999, as it is said: "one hundred and five"."""
    if number < 20:
        return _ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _TENS[tens - 2] + (f"-{_ONES[ones]}" if ones else "")
    if number < 1000:
        hundreds, rest = divmod(number, 100)
        return f"{_ONES[hundreds]} hundred" + (f" and {in_words(rest)}" if rest else "")
    thousands, rest = divmod(number, 1000)
    joint = " and " if rest < 100 else ", "
    return f"{in_words(thousands)} thousand" + (f"{joint}{in_words(rest)}" if rest else "")


FAMILY = SmolVLM
