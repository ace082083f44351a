"""LLaVA-NeXT-Video: CLIP frames pooled before the projector, their tokens row by row, nothing between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from streamprune.encoder.base import EncoderMethod
from streamprune.models.base import Checkpoint, EncodedFrames, Prompt
from streamprune.models.chat_template import place_of_video, video_prompt_ids
from streamprune.models.pixel_signals import Patches
from streamprune.models.preprocessing import FrameTransform
from streamprune.models.stock_clips import StockClips
from streamprune.models.tower_family import TowerFamily
from streamprune.models.tower_layout import TowerLayout
from streamprune.models.tower_signals import TowerSignals
from streamprune.models.written_prompt import WrittenPrompt
from streamprune.positions import PositionRule, Positions
from streamprune.tokens import Reduction, VideoGrid


class LlavaNextVideo(TowerFamily):
    """A stock ``LlavaNextVideoForConditionalGeneration``. Frames carry no times.

    Of a picture that is not square the middle is seen, as the stock processor cuts it.

    Signals: those of :class:`TowerSignals`; ``image_embeds``, the features themselves; ``frame_features``
    (frames, tower width), the state of a frame's summary token in the layer the projector reads, or the mean
    of the states of a tower without one; ``pixel_change`` and ``pixel_entropy``, see :class:`Patches`. What
    has rows and columns of patches is averaged over the patches of a token.

    Not supported: methods inside the vision tower.
    """

    model_type: ClassVar[str] = "llava_next_video"

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        config = self.model.config
        self._stride = int(config.spatial_pool_stride)
        layout = TowerLayout.of_llava(self.model.get_encoder("video"), config)
        self._tower = TowerSignals(layout, self.model.model.multi_modal_projector, self._pool)

    def read_transform(self, settings: Mapping[str, Any]) -> FrameTransform:
        """As the settings say."""
        return FrameTransform.covering(settings, self.default_size()[0])

    def default_size(self) -> tuple[int, int]:
        """The tower's own picture size."""
        side = int(self.model.config.vision_config.image_size)
        return side, side

    def grid(self, num_frames: int, size: tuple[int, int] | None = None) -> VideoGrid:
        """Patches pooled along each side; what is left over at the edge belongs to no token."""
        side = self._patches // self._stride
        return VideoGrid(num_frames, side, side)

    @property
    def _patches(self) -> int:
        """Patches along a side of a frame."""
        return self.transform.size[0] // int(self.model.config.vision_config.patch_size)

    @torch.no_grad()
    def encode(
        self,
        pixels: torch.Tensor,
        signals: Sequence[str] = (),
        encoder: EncoderMethod | None = None,
        before: torch.Tensor | None = None,
    ) -> EncodedFrames:
        """Run the model's ``get_video_features`` on (frames, 3, rows, cols)."""
        inside = self._read_inside(signals, encoder)
        pixels = pixels.to(self.vision_device())
        with self._tower.watch(inside) as found:
            outputs = self.model.get_video_features(pixels[None], return_dict=True)
        grid = self.grid(len(pixels))
        features = outputs.pooler_output.reshape(grid.frames, grid.rows, grid.cols, -1)
        found["image_embeds"] = features
        layer = self.model.config.vision_feature_layer
        states = outputs.hidden_states[layer if isinstance(layer, int) else layer[-1]]
        found["frame_features"] = states[:, 0] if self._tower.summary else states.mean(1)
        patch = int(self.model.config.vision_config.patch_size)
        patches = Patches(self._patches, self._patches, patch, self.transform)
        found |= patches.signals(signals, pixels, before, self._pool)
        return EncodedFrames(features, {name: found[name] for name in signals})

    def _pool(self, rows: torch.Tensor) -> torch.Tensor:
        """(frames, patches, channels) to (frames, rows, cols, channels); tokens are only folded."""
        grid, side = self.grid(len(rows)), self._patches
        if rows.shape[1] == grid.tokens_per_frame:
            return rows.reshape(grid.frames, grid.rows, grid.cols, -1)
        spread = rows.reshape(grid.frames, side, side, -1).permute(0, 3, 1, 2)
        return torch.nn.functional.avg_pool2d(spread, self._stride).permute(0, 2, 3, 1)

    def stock_inputs(self) -> StockClips:
        """Clips with nothing between."""
        return StockClips(self)

    def fixed_tokens(self, question: str, frames: int = 1) -> int:
        """Template and question without the placeholder."""
        return len(video_prompt_ids(self.tokenizer, question)) - 1

    def prompt(
        self,
        question: str,
        reduction: Reduction,
        *,
        pts_seconds: Sequence[float] | None = None,
        positions: PositionRule | Positions = "keep",
    ) -> Prompt:
        """The stock prompt without the placeholders of dropped tokens."""
        ids, config = video_prompt_ids(self.tokenizer, question), self.model.config
        place = place_of_video(ids, self.tokenizer, config.video_token_id, config.image_token_id)
        ids[place : place + 1] = [config.video_token_id] * reduction.grid.tokens
        written = torch.tensor(ids, device=self.device)
        full = WrittenPrompt(written, written == config.video_token_id)
        kept = full.keep(reduction, torch.arange(len(full), device=self.device), positions)
        return Prompt(
            input_ids=kept.input_ids,
            position_ids=kept.position_ids,
            modality="video",
            visual=reduction.features[kept.order.to(reduction.features.device)][None],
            kept_columns=kept.kept_columns,
            full_tokens=len(full),
        )


FAMILY = LlavaNextVideo
