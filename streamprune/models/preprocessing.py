"""Pictures to pixel values: the resize, rescale and normalise of the stock video processors, in torch alone.

On the CPU the result equals theirs bit for bit. On an accelerator the resize runs there in float32 and is
rounded to whole levels, as theirs is: up to some levels away from the CPU's, whose fixed-point resize
rounds twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from streamprune.errors import UnsupportedModelError

Image = NDArray[np.uint8]

# how the settings files number the resampling filters (Pillow's numbers)
_FILTERS = {2: "bilinear", 3: "bicubic"}
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Clip:
    """What the size of prepared frames may depend on.

    Attributes:
        frames: how many there are of the whole video.
        rows, cols: pixels of the first picture.
    """

    frames: int
    rows: int
    cols: int

    @classmethod
    def of(cls, images: Sequence[Image]) -> Clip:
        """The clip that is these ``images`` and no others."""
        return cls(len(images), *images[0].shape[:2])


@dataclass(frozen=True, kw_only=True)
class FrameTransform:
    """Resize to ``size``, then scale and normalise.

    Args:
        size: (rows, cols) in pixels.
        resample: "bicubic" or "bilinear"; both antialiased.
        rescale_factor: multiplies the levels 0..255.
        mean: per colour, subtracted from the scaled levels.
        std: per colour, divides them.
        cover: keep a picture's shape: its shorter side becomes that of the square ``size``, of which the
            middle is taken.
    """

    size: tuple[int, int]
    resample: str = "bicubic"
    rescale_factor: float = 1 / 255
    mean: tuple[float, ...] = _CLIP_MEAN
    std: tuple[float, ...] = _CLIP_STD
    cover: bool = False

    @classmethod
    def covering(cls, settings: Mapping[str, Any], default_side: int) -> FrameTransform:
        """Read the settings of a processor that crops; UnsupportedModelError unless it crops to a square."""
        size, crop = settings.get("size"), settings.get("crop_size")
        short = (
            default_side if size is None else size.get("shortest_edge") if isinstance(size, Mapping) else None
        )
        square = {"height": short, "width": short}
        if settings.get("do_center_crop") is False or short is None or crop not in (None, short, square):
            raise UnsupportedModelError(
                f"the video processor's settings give size={size!r} and crop_size={crop!r}; a square that is "
                "cut out of a picture whose shorter side was made as long is supported"
            )
        settings = {**settings, "size": square, "do_center_crop": None}
        return replace(cls.from_settings(settings, (default_side, default_side)), cover=True)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], default_size: tuple[int, int]) -> FrameTransform:
        """Read a stock settings file's content; UnsupportedModelError for steps this class does not do."""
        if settings.get("do_center_crop"):
            raise UnsupportedModelError(
                "the video processor's settings ask for do_center_crop, which is not supported"
            )
        for step in ("do_resize", "do_rescale", "do_normalize"):
            if settings.get(step) is False:
                raise UnsupportedModelError(
                    f"the video processor's settings switch {step} off, which is not supported"
                )
        resample = settings.get("resample", 3)
        if resample not in _FILTERS:
            raise UnsupportedModelError(
                f"the video processor's settings ask for resample={resample!r}; 2 and 3 are supported"
            )
        return cls(
            size=_read_size(settings.get("size"), default_size),
            resample=_FILTERS[resample],
            rescale_factor=float(settings.get("rescale_factor", 1 / 255)),
            mean=tuple(settings.get("image_mean") or _CLIP_MEAN),
            std=tuple(settings.get("image_std") or _CLIP_STD),
        )

    def __call__(self, images: Sequence[Image], device: torch.device) -> torch.Tensor:
        """Transform uint8 (rows, cols, 3) ``images``, of any sizes, to (frames, 3, rows, cols) float32."""
        # one picture at a time: never more than one full-size copy beside the input
        levels = torch.stack([self._resize(image, device) for image in images])
        # the constants are scaled rather than the pixels, in float32: this is what makes it bit-exact
        scale = 1.0 / self.rescale_factor
        mean = (torch.tensor(self.mean) * scale).to(device).view(3, 1, 1)
        std = (torch.tensor(self.std) * scale).to(device).view(3, 1, 1)
        return (levels.float() - mean) / std

    def levels(self, pixels: torch.Tensor) -> Iterator[Image]:
        """The pictures whose transform is ``pixels``, at the size of the transform: each becomes it again."""
        mean, std = (
            torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in (self.mean, self.std)
        )
        for frame in pixels:
            levels = ((frame.float() * std + mean) / self.rescale_factor).round().clamp(0, 255)
            yield levels.to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()

    def _resize(self, image: Image, device: torch.device) -> torch.Tensor:
        """(rows, cols, 3) levels to (3, *size) uint8 levels on ``device``."""
        if not image.flags.writeable:  # torch refuses to share what must not be written
            image = image.copy()
        levels = torch.from_numpy(np.ascontiguousarray(image)).to(device).permute(2, 0, 1)
        rows, cols = self._resized(levels.shape[1], levels.shape[2])
        if levels.shape[1:] != (rows, cols):
            if device.type == "cpu":
                levels = self._interpolate(levels[None], (rows, cols))[0]
            else:
                resized = self._interpolate(levels[None].float(), (rows, cols))[0]
                levels = resized.round().clamp(0, 255).to(torch.uint8)
        top, left = (rows - self.size[0]) // 2, (cols - self.size[1]) // 2
        return levels[:, top : top + self.size[0], left : left + self.size[1]]

    def _resized(self, rows: int, cols: int) -> tuple[int, int]:
        """Size before anything is cut off."""
        if not self.cover:
            return self.size
        side, short = self.size[0], min(rows, cols)
        return int(side * rows / short), int(side * cols / short)

    def _interpolate(self, levels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return torch.nn.functional.interpolate(
            levels, size, mode=self.resample, align_corners=False, antialias=True
        )


def _read_size(size: object, default: tuple[int, int]) -> tuple[int, int]:
    if size is None:
        return default
    if isinstance(size, Mapping) and {"height", "width"} <= set(size):
        return int(size["height"]), int(size["width"])
    raise UnsupportedModelError(
        f"the video processor's settings give size={size!r}; {{'height': ..., 'width': ...}} is supported"
    )
