"""LLaVA-OneVision: SigLIP frames pooled two by two, their tokens row by row, one newline at the very end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch

from streamprune.models.base import Checkpoint, EncodedFrames, Prompt, VideoFamily, place_of_video
from streamprune.models.chat_template import video_prompt_ids
from streamprune.models.positions import PositionRule, positions_1d
from streamprune.models.siglip_head import PoolingHead
from streamprune.models.tower_layout import TowerLayout
from streamprune.models.tower_signals import TowerSignals
from streamprune.tokens import Reduction, VideoGrid

_HEAD_SIGNALS = ("saliency", "frame_features")


class LlavaOnevision(VideoFamily):
    """A stock ``LlavaOnevisionForConditionalGeneration``.

    Signals: those of :class:`TowerSignals`, and ``image_embeds``, the features themselves. When there is a
    pooling head also ``saliency`` (frames, rows, cols), the head's attention pooled to the token grid exactly
    as the features are; ``frame_features`` (frames, tower width), the head's output.
    """

    model_type: ClassVar[str] = "llava_onevision"

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        self._head: PoolingHead | None = None
        if checkpoint.pooling_head is not None:
            head = PoolingHead.from_tensors(checkpoint.pooling_head, self.model.config.vision_config)
            self._head = head.to(self.vision_device())
        layout = TowerLayout.of_llava(self.model.get_encoder("video"), self.model.config)
        self._tower = TowerSignals(layout, self.model.model.multi_modal_projector, self._pool)

    def default_size(self) -> tuple[int, int]:
        """The tower's own picture size."""
        side = int(self.model.config.vision_config.image_size)
        return side, side

    def grid(self, num_frames: int) -> VideoGrid:
        """Patches pooled by two along each side, an odd last one counting as a whole."""
        vision = self.model.config.vision_config
        side = math.ceil(vision.image_size // vision.patch_size / 2)
        return VideoGrid(num_frames, side, side)

    def available_signals(self) -> tuple[str, ...]:
        """The pooling head's, when there is one, and the tower's."""
        return tuple(dict.fromkeys((*self.cheap_signals(), *self._tower.names(), "image_embeds")))

    def cheap_signals(self) -> tuple[str, ...]:
        """The pooling head's."""
        return _HEAD_SIGNALS if self._head is not None else ()

    def explain_missing(self, name: str) -> str:
        """Name ``pooling_head=`` for the signals it would bring."""
        if name not in _HEAD_SIGNALS:
            return super().explain_missing(name)
        return (
            f"the signal {name!r} comes from a SigLIP attention-pooling head, which {self.checkpoint.name!r} "
            "does not hold. Load the model with pooling_head=PATH, a SigLIP checkpoint (folder or "
            ".safetensors file) of the same width as its vision tower."
        )

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor, signals: Sequence[str] = ()) -> EncodedFrames:
        """Run the model's ``get_video_features`` on (frames, 3, rows, cols) and cut off the newline row."""
        self.check_frame_signals(signals)
        head = [name for name in signals if self._head is not None and name in _HEAD_SIGNALS]
        inside = [name for name in signals if name not in (*head, "image_embeds")]
        with self._tower.watch(inside) as found:
            outputs = self.model.get_video_features(pixels.to(self.vision_device())[None], return_dict=True)
        rows = outputs.pooler_output[0, :-1]
        grid = self.grid(len(pixels))
        features = rows.reshape(grid.frames, grid.rows, grid.cols, rows.shape[-1])
        found["image_embeds"] = features
        if head:
            found |= self._head_signals(self._tower_states(outputs.hidden_states))
        return EncodedFrames(features, {name: found[name] for name in signals})

    def _pool(self, patches: torch.Tensor) -> torch.Tensor:
        """(frames, patches, channels) to (frames, rows, cols, channels), as the features are pooled."""
        pooled: torch.Tensor = self.model.model.apply_pooling(patches)
        grid = self.grid(len(pooled))
        return pooled.reshape(grid.frames, grid.rows, grid.cols, -1)

    def _tower_states(self, hidden_states: Sequence[torch.Tensor]) -> torch.Tensor:
        """(frames, patches, width): the states the projector read (the last layer's, of several)."""
        layer = self.model.config.vision_feature_layer
        states = hidden_states[layer if isinstance(layer, int) else layer[-1]]
        return states[:, 1:] if self.model.config.vision_feature_select_strategy == "default" else states

    def _head_signals(self, states: torch.Tensor) -> dict[str, torch.Tensor]:
        assert self._head is not None  # check_signals has passed
        attention, pooled = self._head(states)
        return {"saliency": self._pool(attention[..., None])[..., 0], "frame_features": pooled}

    def fixed_tokens(self, question: str) -> int:
        """Template and question, and the newline in the placeholder's stead."""
        return len(self._prompt_ids(question))

    def prompt(
        self,
        question: str,
        reduction: Reduction,
        *,
        pts_seconds: Sequence[float] | None = None,
        positions: PositionRule = "keep",
    ) -> Prompt:
        """Template, kept rows, newline, question; frames carry no times in this family."""
        ids = self._prompt_ids(question)
        config = self.model.config
        place = place_of_video(ids, self.tokenizer, config.video_token_id, config.image_token_id)
        grid, device = reduction.grid, self.device
        newline = self.model.model.image_newline.to(reduction.features)
        visual = torch.cat([reduction.features, newline[None]])[None]  # (1, kept + 1, channels)
        # rows that stand for no token have no place of their own: they take the last one
        index = torch.where(reduction.index < 0, grid.tokens - 1, reduction.index).to(device)
        kept = torch.cat([index, index.new_tensor([grid.tokens])])
        shortened = [*ids[:place], *[ids[place]] * len(kept), *ids[place + 1 :]]
        after = len(ids) - place - 1
        return Prompt(
            input_ids=torch.tensor([shortened], device=device),
            position_ids=positions_1d(
                kept, before=place, visual=grid.tokens + 1, after=after, rule=positions
            ),
            modality="video",
            visual=visual,
            kept_columns=torch.arange(place, place + len(index), device=device),
            full_tokens=place + grid.tokens + 1 + after,
        )

    def _prompt_ids(self, question: str) -> list[int]:
        return video_prompt_ids(self.tokenizer, question)


FAMILY = LlavaOnevision
