"""What families share that show pictures of any size, cut into patches, squares of which become tokens.

``qwen_vl``, ``video_llama_3`` and ``minicpmv4_6`` say what each does otherwise.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from streamprune.encoder.base import EncoderMethod
from streamprune.models.base import Checkpoint, EncodedFrames
from streamprune.models.patch_merger_tower import PatchMergerTower
from streamprune.models.pixel_budget import PixelBudget, PixelsOf, SizeRule, patch_rows
from streamprune.models.pixel_signals import Patches, in_colours
from streamprune.models.preprocessing import Clip, FrameTransform
from streamprune.models.stock_patches import StockPatches
from streamprune.models.token_order import MergedOrder, TokenOrder
from streamprune.models.tower_family import TowerFamily
from streamprune.models.tower_patches import TowerPatches
from streamprune.ops.pixels import patch_change
from streamprune.tokens import VideoGrid


class MergedPatches(TowerFamily, TowerPatches):
    """A stock model whose tokens are squares of patches of a temporal slice.

    A slice holds one frame or several (an odd last frame counts twice). How many rows and columns of tokens
    there are depends on the pictures, see :class:`PixelBudget`; all frames of a video are shown in the size
    of the first. Attention inside the tower stays within a slice, so slices may be encoded in any number of
    calls.

    Signals: those of :class:`PatchMergerTower`; ``image_embeds``, the features themselves; ``frame_features``
    (slices, channels), the mean of a slice's tokens, since there is no summary of a frame; ``pixel_change``
    (slices, rows, cols), from the first frame of the slice before to the last one of a slice, see
    :func:`streamprune.ops.pixels.patch_change`; ``pixel_entropy`` of the patches, see :class:`Patches`,
    averaged over a token's patches and frames.

    Not supported: methods inside the vision tower.

    Args:
        patch: pixels along a patch.
        merge: patches along a token.
        slice_frames: frames of a slice.
    """

    # tokens' worth of pixels at least and at most, and max_video_tokens, of the stock video processor
    pixel_defaults: ClassVar[tuple[int, int, int]] = (128, 768, 128000)
    pixels_of: ClassVar[PixelsOf] = "frame"

    def __init__(self, checkpoint: Checkpoint, *, patch: int, merge: int, slice_frames: int) -> None:
        self._patch, self._merge, self._slice_frames = patch, merge, slice_frames
        self._budget = self.read_budget(checkpoint)
        super().__init__(checkpoint)
        self._tower = self.read_tower()

    def read_budget(self, checkpoint: Checkpoint) -> SizeRule:
        """How large pictures are shown."""
        return self.budget_from(checkpoint.video_settings)

    def budget_from(self, settings: Mapping[str, Any]) -> PixelBudget:
        """As a video processor's ``settings`` say."""
        return PixelBudget.from_settings(
            settings,
            token_side=self._patch * self._merge,
            slice_frames=self._slice_frames,
            defaults=self.pixel_defaults,
            pixels_of=self.pixels_of,
        )

    @abstractmethod
    def read_tower(self) -> PatchMergerTower:
        """What gives the signals from inside the vision tower."""

    @abstractmethod
    def video_outputs(self, rows: torch.Tensor, grid_thw: torch.Tensor) -> Any:
        """What the model's ``get_video_features`` says of the patches ``rows`` of one video.

        ``pooler_output`` of it must hold all of them in one tensor.
        """

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
        """As many as the tower folds into one patch."""
        return self._slice_frames

    def grid(self, num_frames: int, size: tuple[int, int] | None = None) -> VideoGrid:
        """Slices, and tokens along each side."""
        rows, cols = self.transform.size if size is None else size
        side = self._patch * self._merge
        return VideoGrid(-(-num_frames // self._slice_frames), rows // side, cols // side)

    def tower_rows(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the model's ``get_video_features`` takes for (frames, 3, rows, cols)."""
        return self._rows(pixels)

    def token_order(self, grid: VideoGrid, grid_thw: torch.Tensor) -> TokenOrder:
        """How the tower has its patches."""
        return MergedOrder(grid)

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
        grid_thw = self._grid_thw(grid, pixels.device)
        rows = self.tower_rows(pixels)
        with self._tower.watch(inside, self.token_order(grid, grid_thw)) as found:
            outputs = self.video_outputs(rows, grid_thw)
        features = outputs.pooler_output[0].unflatten(0, (grid.frames, grid.rows, grid.cols))
        found["image_embeds"] = features
        found |= self._pixel_signals(signals, pixels, before)
        if "frame_features" in signals:
            found["frame_features"] = features.float().mean((1, 2)).to(features.dtype)
        deepstack = [layer[0] for layer in getattr(outputs, "deepstack_features", None) or ()]
        carried = torch.cat(deepstack, -1).reshape(*features.shape[:3], -1) if deepstack else None
        return EncodedFrames(features, {name: found[name] for name in signals}, carried=carried)

    def tower_patches(self, pixels: torch.Tensor) -> torch.Tensor:
        """See the base class."""
        grid = self.grid(len(pixels), (pixels.shape[2], pixels.shape[3]))
        order = self.token_order(grid, self._grid_thw(grid, pixels.device))
        return order.ungrouped(self._rows(in_colours(pixels, self.transform)))

    def cells_of_patches(self, marks: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """See the base class."""
        grid = self.grid(self._slice_frames, size)
        order = self.token_order(grid, self._grid_thw(grid, marks.device))
        return order.tokens(marks.float())[0] > 0

    def stock_inputs(self) -> StockPatches:
        """Patches of all videos together."""
        return StockPatches(self, patch=self._patch, merge=self._merge, slice_frames=self._slice_frames)

    def _grid_thw(self, grid: VideoGrid, device: torch.device) -> torch.Tensor:
        """(1, 3) slices, rows and columns of patches."""
        sides = [grid.frames, grid.rows * self._merge, grid.cols * self._merge]
        return torch.tensor([sides], device=device)

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
