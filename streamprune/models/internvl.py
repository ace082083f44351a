"""InternVL: every frame is named, and its tokens stand between tags."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from streamprune.models.base import Checkpoint
from streamprune.models.chat_template import video_prompt_text
from streamprune.models.frames_as_images import FramesAsImages
from streamprune.models.stock_pictures import FrameText
from streamprune.models.tower_layout import TowerLayout
from streamprune.models.vision_layers import VisionLayers, feature_depths


class InternVL(FramesAsImages):
    """A stock ``InternVLForConditionalGeneration``; frames carry no times in this family.

    The tower's summary token gives ``saliency``; methods inside the tower leave it as it is, see
    :mod:`streamprune.models.vision_layers`.
    """

    model_type: ClassVar[str] = "internvl"

    def __init__(self, checkpoint: Checkpoint) -> None:
        config, tokenizer = checkpoint.model.config, checkpoint.tokenizer
        self._start: str = getattr(tokenizer, "start_image_token", None) or "<img>"
        self._end: str = getattr(tokenizer, "end_image_token", None) or "</img>"
        super().__init__(
            checkpoint,
            patch=int(config.vision_config.patch_size[0]),
            merge=round(1 / float(config.downsample_ratio)),
            video_mark=getattr(tokenizer, "video_token", None) or "<video>",
        )

    def tower_layout(self, patches: int) -> TowerLayout:
        """Layers that attend over a whole frame and its summary token."""
        return TowerLayout.of_internvl(self.model.get_encoder("video"), self.model.config, patches)

    def projector(self) -> torch.nn.Module:
        """The model's own."""
        projector: torch.nn.Module = self.model.model.multi_modal_projector
        return projector

    def image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """As the model does it."""
        features: torch.Tensor = self.model.get_image_features(pixels, return_dict=True).pooler_output
        return features

    def vision_layers(self) -> tuple[VisionLayers, int]:
        """The layers below the states that are read."""
        layers = VisionLayers(self.model.get_encoder("video"), self.checkpoint.name)
        return layers, feature_depths(int(self.model.config.vision_feature_layer), layers.depth)[0]

    def behind_layers(self, states: torch.Tensor) -> torch.Tensor:
        """The tower's norm where its very last states are read, the merging of patches, the projector."""
        model, config = self.model.model, self.model.config
        if config.vision_feature_layer == -1:
            states = self.model.get_encoder("video").layernorm(states)
        if config.vision_feature_select_strategy == "default":
            states = states[:, 1:]
        side = self._patches
        merged = model.pixel_shuffle(states.reshape(len(states), side, side, -1), config.downsample_ratio)
        features: torch.Tensor = model.multi_modal_projector(merged.flatten(1, 2))
        return features

    def prompt_text(self, question: str) -> str:
        """By the checkpoint's chat template."""
        return video_prompt_text(self.tokenizer, question)

    def frames_text(self, frames: int, token_mark: str, pts_seconds: Sequence[float] | None) -> str:
        """One frame a line."""
        lines = (f"Frame{number + 1}: {self._start}{token_mark}{self._end}" for number in range(frames))
        return "\n".join(lines)

    def frame_text(self) -> FrameText:
        """Its number."""
        start = re.escape(self._start)
        return FrameText(re.compile(rf"Frame\d+:{start}$"), re.compile(rf"Frame1:{start}$"))

    def visual_rows(self, features: torch.Tensor) -> Any:
        """(1, kept, channels)."""
        return features[None]


FAMILY = InternVL
