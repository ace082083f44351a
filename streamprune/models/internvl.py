"""InternVL: every frame an image of its own between tags, squares of patches merged to tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from streamprune.encoder.base import EncoderMethod
from streamprune.errors import InvalidValueError, UnsupportedModelError
from streamprune.models.base import Checkpoint, EncodedFrames, Prompt, VideoFamily
from streamprune.models.chat_template import text_ids, video_prompt_text
from streamprune.models.pixel_signals import PIXEL_SIGNALS, Patches
from streamprune.models.positions import PositionRule
from streamprune.models.preprocessing import FrameTransform
from streamprune.models.tower_layout import TowerLayout
from streamprune.models.tower_signals import TowerSignals
from streamprune.models.written_prompt import WrittenPrompt
from streamprune.tokens import Reduction, VideoGrid

# signals that need nothing from inside the tower
_LAST_SIGNALS = ("image_embeds", "frame_features")


class InternVL(VideoFamily):
    """A stock ``InternVLForConditionalGeneration``.

    The prompt names every frame ("Frame1: ") before its tokens; that text and the tags around a frame stay
    when all its tokens are dropped. Frames carry no times.

    Signals: those of :class:`TowerSignals`, of which ``encoder_features`` are as wide as the patches of a
    token together; ``image_embeds``, the features themselves; ``frame_features`` (frames, channels), the mean
    of a frame's tokens, since the tower's summary token is not trained to stand for a picture;
    ``pixel_change`` and ``pixel_entropy``, see :class:`Patches`. What has rows and columns of patches is
    averaged over the patches of a token.

    Not supported: methods inside the vision tower, towers whose pictures are not square.
    """

    model_type: ClassVar[str] = "internvl"

    def __init__(self, checkpoint: Checkpoint) -> None:
        config = checkpoint.model.config
        self._patch = int(config.vision_config.patch_size[0])
        self._merge = round(1 / float(config.downsample_ratio))
        super().__init__(checkpoint)
        tower = self.model.get_encoder("video")
        layout = TowerLayout.of_internvl(tower, config, self._patches**2)
        self._tower = TowerSignals(layout, self.model.model.multi_modal_projector, self._pool)
        tokenizer = self.tokenizer
        self._video_token: str = getattr(tokenizer, "video_token", None) or "<video>"
        self._start: str = getattr(tokenizer, "start_image_token", None) or "<img>"
        self._end: str = getattr(tokenizer, "end_image_token", None) or "</img>"
        self._context: str = tokenizer.convert_ids_to_tokens(config.image_token_id)

    def read_transform(self, settings: Mapping[str, Any]) -> FrameTransform:
        """As the settings say, if the tower can take the size."""
        transform = super().read_transform(settings)
        rows, cols = transform.size
        side = self._patch * self._merge
        if rows != cols or rows % side:
            raise UnsupportedModelError(
                f"the video processor's settings give pictures of {rows} x {cols} pixels; squares whose side "
                f"is a multiple of {side} are supported"
            )
        return transform

    def default_size(self) -> tuple[int, int]:
        """The tower's own picture size."""
        rows, cols = self.model.config.vision_config.image_size
        return int(rows), int(cols)

    def grid(self, num_frames: int, size: tuple[int, int] | None = None) -> VideoGrid:
        """Patches merged to squares."""
        side = self._patches // self._merge
        return VideoGrid(num_frames, side, side)

    @property
    def _patches(self) -> int:
        """Patches along a side of a frame."""
        return self.transform.size[0] // self._patch

    def available_signals(self) -> tuple[str, ...]:
        """The tower's, those of what leaves it, and those of the pictures."""
        return (*self._tower.names(), *_LAST_SIGNALS, *PIXEL_SIGNALS)

    def cheap_signals(self) -> tuple[str, ...]:
        """A mean over the features."""
        return ("frame_features",)

    @torch.no_grad()
    def encode(
        self,
        pixels: torch.Tensor,
        signals: Sequence[str] = (),
        encoder: EncoderMethod | None = None,
        before: torch.Tensor | None = None,
    ) -> EncodedFrames:
        """Run the model's ``get_image_features`` on (frames, 3, rows, cols)."""
        self.check_frame_signals(signals)
        if encoder is not None:
            self.check_encoder(encoder, signals)
        pixels = pixels.to(self.vision_device())
        inside = [name for name in signals if name not in (*_LAST_SIGNALS, *PIXEL_SIGNALS)]
        with self._tower.watch(inside) as found:
            outputs = self.model.get_image_features(pixels, return_dict=True)
        grid = self.grid(len(pixels))
        features = outputs.pooler_output.reshape(grid.frames, grid.rows, grid.cols, -1)
        found["image_embeds"] = features
        if "frame_features" in signals:
            found["frame_features"] = features.float().mean((1, 2)).to(features.dtype)
        patches = Patches(self._patches, self._patches, self._patch, self.transform)
        found |= patches.signals(signals, pixels, before, self._pool)
        return EncodedFrames(features, {name: found[name] for name in signals})

    def _pool(self, rows: torch.Tensor) -> torch.Tensor:
        """(frames, patches, channels) to (frames, rows, cols, channels); tokens are only folded."""
        grid, merge = self.grid(len(rows)), self._merge
        if rows.shape[1] == grid.tokens_per_frame:
            return rows.reshape(grid.frames, grid.rows, grid.cols, -1)
        blocks = rows.reshape(grid.frames, grid.rows, merge, grid.cols, merge, rows.shape[-1])
        return blocks.float().mean((2, 4)).to(rows.dtype)

    def fixed_tokens(self, question: str, frames: int = 1) -> int:
        """Template and question, names and tags of the frames."""
        return len(self._written(question, VideoGrid(frames, 1, 1))) - frames

    def prompt(
        self,
        question: str,
        reduction: Reduction,
        *,
        pts_seconds: Sequence[float] | None = None,
        positions: PositionRule = "keep",
    ) -> Prompt:
        """The stock prompt without the placeholders of dropped tokens."""
        full = self._written(question, reduction.grid)
        kept = full.keep(reduction, torch.arange(len(full), device=self.device), positions)
        return Prompt(
            input_ids=kept.input_ids,
            position_ids=kept.position_ids,
            modality="image",
            visual=reduction.features[kept.order.to(reduction.features.device)][None],
            kept_columns=kept.kept_columns,
            full_tokens=len(full),
        )

    def _written(self, question: str, grid: VideoGrid) -> WrittenPrompt:
        text = video_prompt_text(self.tokenizer, question)
        if text.count(self._video_token) != 1 or self._context in text:
            raise InvalidValueError(
                f"question must not contain the placeholders {self._video_token!r} or {self._context!r}; "
                "take them out"
            )
        frames = "\n".join(
            f"Frame{number + 1}: {self._start}{self._context}{self._end}" for number in range(grid.frames)
        )
        ids = torch.tensor(text_ids(self.tokenizer, text.replace(self._video_token, frames)))
        # one placeholder a frame was enough to read; now there is one for every token
        placeholder = ids == self.model.config.image_token_id
        counts = torch.where(placeholder, grid.tokens_per_frame, 1)
        return WrittenPrompt(
            ids.repeat_interleave(counts).to(self.device),
            placeholder.repeat_interleave(counts).to(self.device),
        )


FAMILY = InternVL
