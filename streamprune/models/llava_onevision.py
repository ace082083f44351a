"""LLaVA-OneVision: SigLIP frames pooled two by two, their tokens row by row, one newline at the very end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch

from streamprune.encoder.base import EncoderMethod, TowerShape
from streamprune.models.base import Checkpoint, EncodedFrames, Prompt, VideoFamily
from streamprune.models.chat_template import place_of_video, video_prompt_ids
from streamprune.models.pixel_signals import PIXEL_SIGNALS, Patches
from streamprune.models.siglip_head import PoolingHead
from streamprune.models.stock_clips import StockClips
from streamprune.models.tower_family import check_outside
from streamprune.models.tower_layout import TowerLayout
from streamprune.models.tower_patches import PooledPatches
from streamprune.models.tower_signals import TowerSignals
from streamprune.models.vision_layers import VisionLayers, feature_depths
from streamprune.models.written_prompt import WrittenPrompt
from streamprune.positions import PositionRule, Positions
from streamprune.tokens import Reduction, VideoGrid

_HEAD_SIGNALS = ("saliency", "frame_features")
# signals that need nothing from inside the tower
_LAST_SIGNALS = ("encoder_features", "image_embeds")


class LlavaOnevision(VideoFamily, PooledPatches):
    """A stock ``LlavaOnevisionForConditionalGeneration``.

    Signals: those of :class:`TowerSignals`; ``image_embeds``, the features themselves; ``pixel_change`` and
    ``pixel_entropy`` (frames, rows, cols), see :class:`Patches`. When there is a pooling head also
    ``saliency`` (frames, rows, cols), the head's attention; ``frame_features`` (frames, tower width), the
    head's output. All that has rows and columns is pooled to the token grid exactly as the features are.
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

    def grid(self, num_frames: int, size: tuple[int, int] | None = None) -> VideoGrid:
        """Patches pooled by two along each side, an odd last one counting as a whole."""
        rows, cols = self._patches
        return VideoGrid(num_frames, math.ceil(rows / 2), math.ceil(cols / 2))

    @property
    def _patches(self) -> tuple[int, int]:
        """Rows and columns of the tower's patches."""
        vision = self.model.config.vision_config
        side = int(vision.image_size) // int(vision.patch_size)
        return side, side

    def available_signals(self) -> tuple[str, ...]:
        """The pooling head's, when there is one, the tower's, and those of the pictures."""
        return tuple(
            dict.fromkeys((*self.cheap_signals(), *self._tower.names(), "image_embeds", *PIXEL_SIGNALS))
        )

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

    def check_encoder(self, encoder: EncoderMethod, signals: Sequence[str] = ()) -> None:
        """Any method, with signals that are read off the tower's last states."""
        layers = VisionLayers(self.model.get_encoder("video"), self.checkpoint.name)
        layers.check(encoder, TowerShape(max(self._depths(layers.depth)), *self._patches))
        check_outside(self, signals, (*self.cheap_signals(), *_LAST_SIGNALS, *PIXEL_SIGNALS))

    @torch.no_grad()
    def encode(
        self,
        pixels: torch.Tensor,
        signals: Sequence[str] = (),
        encoder: EncoderMethod | None = None,
        before: torch.Tensor | None = None,
    ) -> EncodedFrames:
        """Run the model's ``get_video_features`` on (frames, 3, rows, cols) and cut off the newline row.

        With an ``encoder`` the same parts are run here: layers, projector, pooling.
        """
        self.check_frame_signals(signals)
        pixels = pixels.to(self.vision_device())
        of_tower = [name for name in signals if name not in PIXEL_SIGNALS]
        if encoder is not None:
            self.check_encoder(encoder, of_tower)
            encoded = self._encode_with(encoder, pixels, of_tower)
        else:
            encoded = self._encode(pixels, of_tower)
        found = {**encoded.signals, **self._pixel_signals(signals, pixels, before)}
        return replace(encoded, signals={name: found[name] for name in signals})

    def _encode(self, pixels: torch.Tensor, signals: Sequence[str]) -> EncodedFrames:
        head = [name for name in signals if self._head is not None and name in _HEAD_SIGNALS]
        inside = [name for name in signals if name not in (*head, "image_embeds")]
        with self._tower.watch(inside) as found:
            outputs = self.model.get_video_features(pixels[None], return_dict=True)
        rows = outputs.pooler_output[0, :-1]
        grid = self.grid(len(pixels))
        features = rows.reshape(grid.frames, grid.rows, grid.cols, rows.shape[-1])
        found["image_embeds"] = features
        if head:
            found |= self._head_signals(self._tower_states(outputs.hidden_states))
        return EncodedFrames(features, found)

    def _encode_with(
        self, encoder: EncoderMethod, pixels: torch.Tensor, signals: Sequence[str]
    ) -> EncodedFrames:
        layers = VisionLayers(self.model.get_encoder("video"), self.checkpoint.name)
        run = layers.run(pixels, encoder, self._depths(layers.depth), self._patches[1])
        states = run.states[0] if len(run.states) == 1 else torch.cat(run.states, -1)
        features = self._pool(self.model.model.multi_modal_projector(states))
        found = {"image_embeds": features}
        if "encoder_features" in signals:
            found["encoder_features"] = self._pool(states)
        if self._head is not None and any(name in _HEAD_SIGNALS for name in signals):
            found |= self._head_signals(run.states[-1])
        return EncodedFrames(features, found, run.share)

    def _depths(self, layers: int) -> tuple[int, ...]:
        """How many of the tower's ``layers`` stand before each of the states that the projector reads."""
        return feature_depths(self.model.config.vision_feature_layer, layers)

    def _pixel_signals(
        self, signals: Sequence[str], pixels: torch.Tensor, before: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        return self._cut.signals(signals, pixels, before, self._pool)

    @property
    def _cut(self) -> Patches:
        """How pictures fall into patches."""
        return Patches(*self._patches, int(self.model.config.vision_config.patch_size), self.transform)

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

    def stock_inputs(self) -> StockClips:
        """Clips with a newline behind each."""
        return StockClips(self, newline=self.model.model.image_newline)

    def fixed_tokens(self, question: str, frames: int = 1) -> int:
        """Template and question, and the newline in the placeholder's stead."""
        return len(self._prompt_ids(question))

    def prompt(
        self,
        question: str,
        reduction: Reduction,
        *,
        pts_seconds: Sequence[float] | None = None,
        positions: PositionRule | Positions = "keep",
    ) -> Prompt:
        """Template, kept rows, newline, question; frames carry no times in this family."""
        ids = self._prompt_ids(question)
        config = self.model.config
        place = place_of_video(ids, self.tokenizer, config.video_token_id, config.image_token_id)
        tokens = reduction.grid.tokens
        # one placeholder more than there are tokens: the newline, which always stays
        ids[place : place + 1] = [config.video_token_id] * (tokens + 1)
        written = torch.tensor(ids, device=self.device)
        places = torch.arange(len(ids), device=self.device)
        full = WrittenPrompt(written, (places >= place) & (places < place + tokens))
        kept = full.keep(reduction, places, positions)
        rows = reduction.features[kept.order.to(reduction.features.device)]
        newline = self.model.model.image_newline.to(rows)
        # (1, kept + 1, channels)
        return kept.with_visual("video", torch.cat([rows, newline[None]])[None])

    def _prompt_ids(self, question: str) -> list[int]:
        return video_prompt_ids(self.tokenizer, question)


FAMILY = LlavaOnevision
