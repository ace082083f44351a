"""What families share that see each frame as an image of its own, and merge squares of its patches.

``internvl`` and ``smolvlm`` say what each does otherwise.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from streamprune.encoder.base import EncoderMethod, TowerShape
from streamprune.errors import UnsupportedModelError
from streamprune.models.base import Checkpoint, EncodedFrames, Prompt
from streamprune.models.chat_template import check_placeholders
from streamprune.models.pixel_signals import PIXEL_SIGNALS, Patches
from streamprune.models.preprocessing import FrameTransform
from streamprune.models.stock_pictures import FrameText, StockPictures
from streamprune.models.tower_family import LAST_SIGNALS, TowerFamily, check_outside
from streamprune.models.tower_layout import TowerLayout
from streamprune.models.tower_patches import PooledPatches
from streamprune.models.tower_signals import TowerSignals
from streamprune.models.vision_layers import VisionLayers
from streamprune.models.written_prompt import WrittenPrompt
from streamprune.positions import PositionRule, Positions
from streamprune.tokens import Reduction, VideoGrid


class FramesAsImages(TowerFamily, PooledPatches):
    """A stock model whose prompt has text before every frame of tokens.

    That text and the tags around a frame stay when all its tokens are dropped.

    Signals: those of :class:`TowerSignals`, of which ``encoder_features`` are as wide as the patches of a
    token together; ``image_embeds``, the features themselves; ``frame_features`` (frames, channels), the mean
    of a frame's tokens, since nothing in the tower is trained to stand for a picture; ``pixel_change`` and
    ``pixel_entropy``, see :class:`Patches`. What has rows and columns of patches is averaged over the patches
    of a token.

    Not supported: towers whose pictures are not square; beside a method inside the tower, signals from there.

    Args:
        patch: pixels along a patch.
        merge: patches along a token.
        video_mark: what the chat template writes for a video.
    """

    def __init__(self, checkpoint: Checkpoint, *, patch: int, merge: int, video_mark: str) -> None:
        self._patch, self._merge, self._video_mark = patch, merge, video_mark
        super().__init__(checkpoint)
        layout = self.tower_layout(self._patches**2)
        self._tower = TowerSignals(layout, self.projector(), self._pool)

    @property
    def _token_mark(self) -> str:
        """What stands for one token of a picture."""
        mark: str = self.tokenizer.convert_ids_to_tokens(self.model.config.image_token_id)
        return mark

    @abstractmethod
    def tower_layout(self, patches: int) -> TowerLayout:
        """Where things are in the tower, whose frames have so many ``patches``."""

    @abstractmethod
    def projector(self) -> torch.nn.Module:
        """What turns the patches of each token, side by side, into features."""

    @abstractmethod
    def image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(frames, 3, rows, cols) through tower and projector, to (frames, tokens, channels) or the like."""

    @abstractmethod
    def vision_layers(self) -> tuple[VisionLayers, int]:
        """The tower to be run layer by layer, and how many of its layers stand before what is read."""

    @abstractmethod
    def behind_layers(self, states: torch.Tensor) -> torch.Tensor:
        """What :meth:`image_features` makes of those states, (frames, tokens of the tower, width)."""

    @abstractmethod
    def prompt_text(self, question: str) -> str:
        """The prompt with the mark of the video in it."""

    @abstractmethod
    def frames_text(self, frames: int, token_mark: str, pts_seconds: Sequence[float] | None) -> str:
        """What stands in the mark's stead, with one ``token_mark`` in every frame."""

    @abstractmethod
    def frame_text(self) -> FrameText:
        """How the text before a frame tells it from another picture."""

    @abstractmethod
    def visual_rows(self, features: torch.Tensor) -> Any:
        """(kept, channels) as the model's own ``get_image_features`` would return them."""

    def video_mark(self) -> str:
        """As the family says."""
        return self._video_mark

    def read_transform(self, settings: Mapping[str, Any]) -> FrameTransform:
        """As the settings say, if the tower can take the size."""
        transform = self.stock_transform(settings)
        rows, cols = transform.size
        side = self._patch * self._merge
        if rows != cols or rows % side:
            raise UnsupportedModelError(
                f"the video processor's settings give pictures of {rows} x {cols} pixels; squares whose side "
                f"is a multiple of {side} are supported"
            )
        return transform

    def stock_transform(self, settings: Mapping[str, Any]) -> FrameTransform:
        """As the stock processor reads its settings."""
        return FrameTransform.from_settings(settings, self.default_size())

    def default_size(self) -> tuple[int, int]:
        """The tower's own picture size."""
        size = self.model.config.vision_config.image_size
        rows, cols = size if isinstance(size, (list, tuple)) else (size, size)
        return int(rows), int(cols)

    def grid(self, num_frames: int, size: tuple[int, int] | None = None) -> VideoGrid:
        """Patches merged to squares."""
        side = self._patches // self._merge
        return VideoGrid(num_frames, side, side)

    @property
    def _patches(self) -> int:
        """Patches along a side of a frame."""
        return self.transform.size[0] // self._patch

    def check_encoder(self, encoder: EncoderMethod, signals: Sequence[str] = ()) -> None:
        """Any method, with signals that need nothing from inside the tower."""
        layers, depth = self.vision_layers()
        layers.check(encoder, TowerShape(depth, self._patches, self._patches))
        check_outside(self, signals, (*LAST_SIGNALS, *PIXEL_SIGNALS))

    @torch.no_grad()
    def encode(
        self,
        pixels: torch.Tensor,
        signals: Sequence[str] = (),
        encoder: EncoderMethod | None = None,
        before: torch.Tensor | None = None,
    ) -> EncodedFrames:
        """Run the model's ``get_image_features`` on (frames, 3, rows, cols).

        With an ``encoder`` the same parts are run here: layer by layer, then what stands behind the tower.
        """
        inside = self._read_inside(signals, encoder)
        pixels = pixels.to(self.vision_device())
        if encoder is not None:
            layers, depth = self.vision_layers()
            run = layers.run(pixels.to(self.model.dtype), encoder, (depth,), self._patches)
            encoded = self._encoded(self.behind_layers(run.states[0]), {}, pixels, signals, before)
            return replace(encoded, tower_share=run.share)
        with self._tower.watch(inside) as found:
            rows = self.image_features(pixels)
        return self._encoded(rows, found, pixels, signals, before)

    def _encoded(
        self,
        rows: torch.Tensor,
        found: dict[str, torch.Tensor],
        pixels: torch.Tensor,
        signals: Sequence[str],
        before: torch.Tensor | None,
    ) -> EncodedFrames:
        """What became of ``pixels``, with what was ``found`` in the tower and the rest of the ``signals``."""
        grid = self.grid(len(pixels))
        features = rows.reshape(grid.frames, grid.rows, grid.cols, -1)
        found["image_embeds"] = features
        if "frame_features" in signals:
            found["frame_features"] = features.float().mean((1, 2)).to(features.dtype)
        found |= self._cut.signals(signals, pixels, before, self._pool)
        return EncodedFrames(features, {name: found[name] for name in signals})

    @property
    def _cut(self) -> Patches:
        """How pictures fall into patches."""
        return Patches(self._patches, self._patches, self._patch, self.transform)

    def _pool(self, rows: torch.Tensor) -> torch.Tensor:
        """(frames, patches, channels) to (frames, rows, cols, channels); tokens are only folded."""
        grid, merge = self.grid(len(rows)), self._merge
        if rows.shape[1] == grid.tokens_per_frame:
            return rows.reshape(grid.frames, grid.rows, grid.cols, -1)
        blocks = rows.reshape(grid.frames, grid.rows, merge, grid.cols, merge, rows.shape[-1])
        return blocks.float().mean((2, 4)).to(rows.dtype)

    def stock_inputs(self) -> StockPictures:
        """Frames are pictures among others."""
        return StockPictures(self, self.frame_text(), self.image_features, self.visual_rows)

    def fixed_tokens(self, question: str, frames: int = 1) -> int:
        """Template and question, text and tags of the frames."""
        return len(self._written(question, VideoGrid(frames, 1, 1), None)) - frames

    def prompt(
        self,
        question: str,
        reduction: Reduction,
        *,
        pts_seconds: Sequence[float] | None = None,
        positions: PositionRule | Positions = "keep",
    ) -> Prompt:
        """The stock prompt without the placeholders of dropped tokens."""
        full = self._written(question, reduction.grid, pts_seconds)
        kept = full.keep(reduction, torch.arange(len(full), device=self.device), positions)
        return kept.with_visual(
            "image", self.visual_rows(reduction.features[kept.order.to(reduction.features.device)])
        )

    def _written(self, question: str, grid: VideoGrid, pts_seconds: Sequence[float] | None) -> WrittenPrompt:
        text = self.prompt_text(question)
        check_placeholders(text, self._video_mark, self._token_mark)
        frames = self.frames_text(grid.frames, self._token_mark, pts_seconds)
        return WrittenPrompt.of_text(
            self.tokenizer,
            text.replace(self._video_mark, frames),
            self.model.config.image_token_id,
            grid.tokens_per_frame,
        ).to(self.device)
