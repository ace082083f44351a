"""LLaVA-NeXT-Video: CLIP frames pooled before the projector, their tokens row by row, nothing between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from streamprune.encoder.base import EncoderMethod, TowerShape
from streamprune.models.base import Checkpoint, EncodedFrames, Prompt
from streamprune.models.chat_template import place_of_video, video_prompt_ids
from streamprune.models.pixel_signals import PIXEL_SIGNALS, Patches
from streamprune.models.preprocessing import FrameTransform
from streamprune.models.stock_clips import StockClips
from streamprune.models.tower_family import LAST_SIGNALS, TowerFamily, check_outside
from streamprune.models.tower_layout import TowerLayout
from streamprune.models.tower_patches import PooledPatches
from streamprune.models.tower_signals import TowerSignals
from streamprune.models.vision_layers import VisionLayers, feature_depths
from streamprune.models.written_prompt import WrittenPrompt
from streamprune.positions import PositionRule, Positions
from streamprune.tokens import Reduction, VideoGrid


class LlavaNextVideo(TowerFamily, PooledPatches):
    """A stock ``LlavaNextVideoForConditionalGeneration``. Frames carry no times.

    Of a picture that is not square the middle is seen, as the stock processor cuts it.

    Signals: those of :class:`TowerSignals`; ``image_embeds``, the features themselves; ``frame_features``
    (frames, tower width), the state of a frame's summary token in the layer the projector reads, or the mean
    of the states of a tower without one; ``pixel_change`` and ``pixel_entropy``, see :class:`Patches`. What
    has rows and columns of patches is averaged over the patches of a token.

    Beside a method inside the tower the signals from inside it are missing. Its summary token stays, see
    :mod:`streamprune.models.vision_layers`.
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

    def check_encoder(self, encoder: EncoderMethod, signals: Sequence[str] = ()) -> None:
        """Any method, with signals that need nothing from inside the tower."""
        layers = self._layers()
        layers.check(encoder, TowerShape(max(self._depths(layers)), self._patches, self._patches))
        check_outside(self, signals, (*LAST_SIGNALS, *PIXEL_SIGNALS))

    @torch.no_grad()
    def encode(
        self,
        pixels: torch.Tensor,
        signals: Sequence[str] = (),
        encoder: EncoderMethod | None = None,
        before: torch.Tensor | None = None,
    ) -> EncodedFrames:
        """Run the model's ``get_video_features`` on (frames, 3, rows, cols).

        With an ``encoder`` the same parts are run here: layers, pooling, projector.
        """
        inside = self._read_inside(signals, encoder)
        pixels, share = pixels.to(self.vision_device()), 1.0
        if encoder is not None:
            layers, found = self._layers(), {}
            run = layers.run(pixels, encoder, self._depths(layers), self._patches)
            rows, states, share = self._behind_tower(run.states), run.states[-1], run.share
        else:
            with self._tower.watch(inside) as found:
                outputs = self.model.get_video_features(pixels[None], return_dict=True)
            layer = self.model.config.vision_feature_layer
            rows = outputs.pooler_output
            states = outputs.hidden_states[layer if isinstance(layer, int) else layer[-1]]
        grid = self.grid(len(pixels))
        features = rows.reshape(grid.frames, grid.rows, grid.cols, -1)
        found["image_embeds"] = features
        found["frame_features"] = states[:, 0] if self._tower.summary else states.mean(1)
        found |= self._cut.signals(signals, pixels, before, self._pool)
        return EncodedFrames(features, {name: found[name] for name in signals}, share)

    @property
    def _cut(self) -> Patches:
        """How pictures fall into patches."""
        patch = int(self.model.config.vision_config.patch_size)
        return Patches(self._patches, self._patches, patch, self.transform)

    def _layers(self) -> VisionLayers:
        return VisionLayers(self.model.get_encoder("video"), self.checkpoint.name)

    def _depths(self, layers: VisionLayers) -> tuple[int, ...]:
        return feature_depths(self.model.config.vision_feature_layer, layers.depth)

    def _behind_tower(self, reached: Sequence[torch.Tensor]) -> torch.Tensor:
        """Features of each frame from the states that the projector reads."""
        model, states = self.model.model, torch.cat(list(reached), -1)
        if self._tower.summary:
            states = states[:, 1:]
        features: torch.Tensor = model.multi_modal_projector(model.vision_resampler(states))
        return features

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
        return kept.with_visual("video", reduction.features[kept.order.to(reduction.features.device)][None])


FAMILY = LlavaNextVideo
