"""Pictures to pixel values: the resize, rescale and normalise of the stock video processors, in torch alone.

On the CPU the result equals theirs bit for bit. On an accelerator the resize runs there in float32 and is
rounded to whole levels, as theirs is: up to some levels away from the CPU's, whose fixed-point resize
rounds twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from streamprune.errors import UnsupportedModelError

Image = NDArray[np.uint8]

# how the settings files number the resampling filters (Pillow's numbers)
_FILTERS = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
# the stock processors make no picture longer
_LONGEST = 4096
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
        resample: "bicubic", "bilinear" or "lanczos", antialiased; "lanczos" is "bicubic" on an accelerator,
            as in the stock processors, and with a torch that does not know it.
        rescale_factor: multiplies the levels 0..255.
        mean: per colour, subtracted from the scaled levels.
        std: per colour, divides them.
        cover: keep a picture's shape: its shorter side becomes that of the square ``size``, of which the
            middle is taken.
        longer_side: None, or what a picture's longer side becomes before it is resized to ``size``; a picture
            of ``size`` is left as it is.
    """

    size: tuple[int, int]
    resample: str = "bicubic"
    rescale_factor: float = 1 / 255
    mean: tuple[float, ...] = _CLIP_MEAN
    std: tuple[float, ...] = _CLIP_STD
    cover: bool = False
    longer_side: int | None = None

    @classmethod
    def stretching(cls, settings: Mapping[str, Any], default_side: int) -> FrameTransform:
        """Read the settings of a processor that resizes twice, the second time to a square."""
        sizes = [settings.get("size"), (settings.get("video_sampling") or {}).get("video_size")]
        size = next((size for size in sizes if size is not None), {"longest_edge": 4 * default_side})
        square = settings.get("max_image_size") or {"longest_edge": default_side}
        if not all(isinstance(edges, Mapping) and set(edges) == {"longest_edge"} for edges in (size, square)):
            raise UnsupportedModelError(
                f"the video processor's settings give size={size!r} and max_image_size={square!r}; "
                "{'longest_edge': ...} is supported for both"
            )
        side = int(square["longest_edge"])
        settings = {"resample": 1, **settings, "size": {"height": side, "width": side}}
        own = cls.from_settings(settings, (side, side))
        return replace(own, longer_side=min(_LONGEST, int(size["longest_edge"])))

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
                f"the video processor's settings ask for resample={resample!r}; 1, 2 and 3 are supported"
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
        for size in self._sizes(levels.shape[1], levels.shape[2]):
            if levels.shape[1:] != size:
                levels = self._resized(levels, size)
        top, left = ((have - want) // 2 for have, want in zip(levels.shape[1:], self.size, strict=True))
        return levels[:, top : top + self.size[0], left : left + self.size[1]]

    def _sizes(self, rows: int, cols: int) -> list[tuple[int, int]]:
        """What a picture is resized to, one after the other, before anything is cut off."""
        if self.cover:
            side, short = self.size[0], min(rows, cols)
            return [(int(side * rows / short), int(side * cols / short))]
        if self.longer_side is None or (rows, cols) == self.size:
            return [self.size]
        long, aspect = self.longer_side, cols / rows
        short = int(long / aspect) if cols >= rows else int(long * aspect)
        short = max(1, short + short % 2)  # even, as the stock processor has it
        return [(short, long) if cols >= rows else (long, short), self.size]

    def _resized(self, levels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """(3, rows, cols) uint8 levels in another size."""
        if levels.device.type == "cpu":
            return self._interpolate(levels[None], size)[0]
        resized = self._interpolate(levels[None].float(), size)[0]
        return resized.round().clamp(0, 255).to(torch.uint8)

    def _interpolate(self, levels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        resample = self.resample
        if resample == "lanczos" and (levels.device.type != "cpu" or not _knows_lanczos()):
            resample = "bicubic"
        return torch.nn.functional.interpolate(
            levels, size, mode=resample, align_corners=False, antialias=True
        )


@cache
def _knows_lanczos() -> bool:
    try:
        torch.nn.functional.interpolate(
            torch.zeros(1, 1, 4, 4), (2, 2), mode="lanczos", align_corners=False, antialias=True
        )
    except (NotImplementedError, ValueError):
        return False
    return True


def _read_size(size: object, default: tuple[int, int]) -> tuple[int, int]:
    if size is None:
        return default
    if isinstance(size, Mapping) and {"height", "width"} <= set(size):
        return int(size["height"]), int(size["width"])
    raise UnsupportedModelError(
        f"the video processor's settings give size={size!r}; {{'height': ..., 'width': ...}} is supported"
    )
