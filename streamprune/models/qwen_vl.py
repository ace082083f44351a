"""What the Qwen-VL families share: pictures of any size, slices of two frames, patches merged to tokens.

``qwen2_vl``, ``qwen2_5_vl`` and ``qwen3_vl`` say what each does otherwise.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from streamprune.encoder.base import EncoderMethod
from streamprune.models.base import Checkpoint, EncodedFrames, Prompt
from streamprune.models.chat_template import place_of_video, video_prompt_ids
from streamprune.models.patch_merger_tower import MergedOrder, PatchMergerTower
from streamprune.models.pixel_budget import PixelBudget, patch_rows
from streamprune.models.pixel_signals import Patches
from streamprune.models.preprocessing import Clip, FrameTransform
from streamprune.models.tower_family import TowerFamily
from streamprune.models.written_prompt import WrittenPrompt
from streamprune.ops.pixels import patch_change
from streamprune.positions import PositionRule, Positions
from streamprune.tokens import Reduction, VideoGrid


class QwenVL(TowerFamily):
    """A stock Qwen model that sees videos.

    A temporal slice of two frames is one frame of tokens (an odd last frame counts twice), each token one
    square of patches. How many rows and columns there are depends on the pictures, see
    :class:`PixelBudget`; all frames of a video are shown in the size of the first. Attention inside the tower
    stays within a slice, so slices may be encoded in any number of calls.

    Prompts have the stock model's positions on three axes. "renumber" counts 0, 1, 2, ... on all three at
    once, so that rows and columns are not told apart any more.

    Signals: those of :class:`PatchMergerTower`; ``image_embeds``, the features themselves; ``frame_features``
    (slices, channels), the mean of a slice's tokens, since there is no summary of a frame; ``pixel_change``
    (slices, rows, cols), from the first frame of the slice before to the last one of a slice, see
    :func:`streamprune.ops.pixels.patch_change`; ``pixel_entropy`` of the patches, see :class:`Patches`,
    averaged over a token's patches and frames.

    Not supported: methods inside the vision tower.
    """

    # tokens' worth of pixels at least and at most, and max_video_tokens, of the stock video processor
    pixel_defaults: ClassVar[tuple[int, int, int]] = (128, 768, 128000)
    pixels_of_whole_clip: ClassVar[bool] = False

    def __init__(self, checkpoint: Checkpoint) -> None:
        vision = checkpoint.model.config.vision_config
        self._patch = int(vision.patch_size)
        self._merge = int(vision.spatial_merge_size)
        self._slice_frames = int(vision.temporal_patch_size)
        self._budget = PixelBudget.from_settings(
            checkpoint.video_settings,
            token_side=self._patch * self._merge,
            slice_frames=self._slice_frames,
            defaults=self.pixel_defaults,
            whole_clip=self.pixels_of_whole_clip,
        )
        super().__init__(checkpoint)
        self._tower = PatchMergerTower(self.model.get_encoder("video"), self.whole_slice_blocks())

    def read_transform(self, settings: Mapping[str, Any]) -> FrameTransform:
        """Everything but the size, which depends on the video."""
        return FrameTransform.from_settings({**settings, "size": None}, self.default_size())

    def default_size(self) -> tuple[int, int]:
        """That of a clip of one slice in the shape of a television picture."""
        return self._budget.size(Clip(self._slice_frames, 360, 640))

    def frame_size(self, clip: Clip) -> tuple[int, int]:
        """By the shape of the pictures and the budget of pixels."""
        return self._budget.size(clip)

    @property
    def frames_per_slice(self) -> int:
        """Two, in every checkpoint so far."""
        return self._slice_frames

    def grid(self, num_frames: int, size: tuple[int, int] | None = None) -> VideoGrid:
        """Slices, and tokens along each side."""
        rows, cols = self.transform.size if size is None else size
        side = self._patch * self._merge
        return VideoGrid(-(-num_frames // self._slice_frames), rows // side, cols // side)

    def whole_slice_blocks(self) -> Sequence[int] | None:
        """Blocks of the tower that attend over a whole slice, None for all."""
        return None

    def token_places(self, grid_thw: torch.Tensor) -> torch.Tensor | None:
        """(tokens,) where each token stands inside the tower, None when in the order of the grid."""
        return None

    @torch.no_grad()
    def encode(
        self,
        pixels: torch.Tensor,
        signals: Sequence[str] = (),
        encoder: EncoderMethod | None = None,
        before: torch.Tensor | None = None,
    ) -> EncodedFrames:
        """Run the model's ``get_video_features`` on (frames, 3, rows, cols), cut into patches.

        ``before`` is the first frame of the slice before.
        """
        inside = self._read_inside(signals, encoder)
        pixels = pixels.to(self.vision_device())
        grid = self.grid(len(pixels), (pixels.shape[2], pixels.shape[3]))
        sides = [grid.frames, grid.rows * self._merge, grid.cols * self._merge]
        grid_thw = torch.tensor([sides], device=pixels.device)
        rows = self._rows(pixels)
        order = MergedOrder(grid, self._merge**2, self.token_places(grid_thw))
        with self._tower.watch(inside, order) as found:
            outputs = self.model.get_video_features(rows, video_grid_thw=grid_thw, return_dict=True)
        features = outputs.pooler_output[0].unflatten(0, (grid.frames, grid.rows, grid.cols))
        found["image_embeds"] = features
        found |= self._pixel_signals(signals, pixels, before)
        if "frame_features" in signals:
            found["frame_features"] = features.float().mean((1, 2)).to(features.dtype)
        deepstack = [layer[0] for layer in getattr(outputs, "deepstack_features", None) or ()]
        carried = torch.cat(deepstack, -1).reshape(*features.shape[:3], -1) if deepstack else None
        return EncodedFrames(features, {name: found[name] for name in signals}, carried=carried)

    def _rows(self, pixels: torch.Tensor) -> torch.Tensor:
        return patch_rows(pixels, slice_frames=self._slice_frames, patch=self._patch, merge=self._merge)

    def _pixel_signals(
        self, signals: Sequence[str], pixels: torch.Tensor, before: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        grid = self.grid(len(pixels), (pixels.shape[2], pixels.shape[3]))
        found = {}
        if "pixel_change" in signals:
            earlier = pixels[:1] if before is None else before[None].to(pixels)
            shown = torch.cat([earlier.expand(self._slice_frames, -1, -1, -1), pixels])
            change = patch_change(
                self._rows(shown),
                VideoGrid(grid.frames + 1, grid.rows, grid.cols),
                std=self.transform.std,
                rows_per_token=self._merge**2,
                slices=self._slice_frames,
            )[1:]
            if before is None:
                change[0] = 0  # nothing came before
            found["pixel_change"] = change
        if "pixel_entropy" in signals:
            merge = self._merge
            patches = Patches(grid.rows * merge, grid.cols * merge, self._patch, self.transform)
            shown = torch.cat([pixels, pixels[-1:].expand(-len(pixels) % self._slice_frames, -1, -1, -1)])
            shape = (grid.frames, self._slice_frames, grid.rows, merge, grid.cols, merge)
            found["pixel_entropy"] = patches.entropy(shown).reshape(shape).mean((1, 3, 5))
        return found

    def video_ids(self, grid: VideoGrid, pts_seconds: Sequence[float] | None) -> list[int]:
        """What stands in the placeholder's stead, one placeholder for every token of ``grid``."""
        return [self.model.config.video_token_id] * grid.tokens

    @abstractmethod
    def stock_positions(
        self, ids: torch.Tensor, grid: VideoGrid, pts_seconds: Sequence[float] | None
    ) -> torch.Tensor:
        """(3, length) positions that the stock model gives a full prompt."""

    def reach(self, fixed: int, grid: VideoGrid) -> int:
        """The tokens of a video share positions: it takes as many as its longer side."""
        return fixed + max(grid.rows, grid.cols)

    def fixed_tokens(self, question: str, frames: int = 1) -> int:
        """Template and question, and what is written beside the slices."""
        grid = VideoGrid(frames, 1, 1)
        # one placeholder is in the template already
        return len(self._prompt_ids(question)) - 1 + len(self.video_ids(grid, None)) - grid.tokens

    def prompt(
        self,
        question: str,
        reduction: Reduction,
        *,
        pts_seconds: Sequence[float] | None = None,
        positions: PositionRule | Positions = "keep",
    ) -> Prompt:
        """The stock prompt without the placeholders of dropped tokens; ``pts_seconds`` are of the slices."""
        ids, config, grid = self._prompt_ids(question), self.model.config, reduction.grid
        place = place_of_video(ids, self.tokenizer, config.video_token_id, config.image_token_id)
        ids = [*ids[:place], *self.video_ids(grid, pts_seconds), *ids[place + 1 :]]
        written = torch.tensor(ids, device=self.device)
        full = WrittenPrompt(written, written == config.video_token_id)
        kept = full.keep(reduction, self.stock_positions(written, grid, pts_seconds), positions)
        rows = kept.order.to(reduction.features.device)
        carried = reduction.carried
        layers = () if carried is None else torch.split(carried[rows], reduction.features.shape[-1], -1)
        return Prompt(
            input_ids=kept.input_ids,
            position_ids=kept.position_ids,
            modality="video",
            visual=(reduction.features[rows],),
            kept_columns=kept.kept_columns,
            full_tokens=len(full),
            deepstack=tuple(layers),
        )

    def _prompt_ids(self, question: str) -> list[int]:
        return video_prompt_ids(self.tokenizer, question)

    def _rope_index(self, ids: torch.Tensor, grid: VideoGrid, **times: Any) -> torch.Tensor:
        """Ask the model for the positions of a full prompt: what it says differs between releases."""
        sides = [grid.frames, grid.rows * self._merge, grid.cols * self._merge]
        is_video = (ids == self.model.config.video_token_id)[None]
        found, _ = self.model.model.get_rope_index(
            ids[None],
            mm_token_type_ids=2 * is_video.int(),
            video_grid_thw=torch.tensor([sides], device=ids.device),
            **times,
        )
        positions: torch.Tensor = found[-3:, 0]
        return positions
