"""A folder of pictures, shown in the natural order of their names at a given rate; or one picture."""

from __future__ import annotations

import re
from collections.abc import Generator
from fractions import Fraction
from pathlib import Path

import numpy as np

from streamprune.errors import SourceFormatError, SourcePermissionError
from streamprune.readers.base import SAME_MOMENT_SECONDS, Frame, Image, VideoInfo
from streamprune.readers.memory import DEFAULT_FPS
from streamprune.readers.options import ReadOptions
from streamprune.readers.scaling import resize
from streamprune.readers.source import Source

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key by which "frame10" comes after "frame9"."""
    pieces = re.split(r"(\d+)", name.casefold())
    return [(0, int(piece), "") if piece.isdigit() else (1, 0, piece) for piece in pieces]


class ImagesSource(Source):
    """The pictures of one folder (not of those below it), or a single picture as a video of one frame."""

    def __init__(self, path: Path, fps: Fraction | None, options: ReadOptions) -> None:
        self._files = _list_images(path) if path.is_dir() else [path]
        self._rate = DEFAULT_FPS if fps is None else fps
        self._options = options
        self._own_size: tuple[int, int] | None = None
        first = next((image for file in self._files if (image := self._load(file)) is not None), None)
        if first is None:
            what = f"none of its {len(self._files)} images" if path.is_dir() else "not an image that"
            raise SourceFormatError(f"{path}: {what} can be read")
        rows, cols = options.output_size(*first.shape[:2])
        super().__init__(
            VideoInfo(
                source=str(path),
                rows=rows,
                cols=cols,
                fps=self._rate,
                duration_seconds=float(len(self._files) / self._rate),
                num_frames=len(self._files),
                codec=self._files[0].suffix.lower().lstrip("."),
                backend="pillow",
            ),
            prefetch_bytes=options.prefetch_bytes,
        )

    def _load(self, file: Path) -> Image | None:
        """Decode one picture; None if it is damaged and the policy allows to go on."""
        from PIL import Image as pillow
        from PIL import ImageOps

        try:
            with pillow.open(file) as picture:  # reads the header only
                self._options.check_pixels(str(file), picture.height, picture.width)
                image = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
        except (pillow.DecompressionBombError, pillow.DecompressionBombWarning) as error:
            raise SourceFormatError(
                f"{file}: too many pixels ({error}); max_pixels={self._options.max_pixels:,}"
            ) from error
        except PermissionError as error:
            raise SourcePermissionError(f"{file}: no permission to read it") from error
        except SourceFormatError:
            raise
        except (OSError, SyntaxError, ValueError) as error:  # Pillow's ways of saying that a file is damaged
            if self._options.corrupt == "raise":
                raise SourceFormatError(f"{file}: not a readable image ({error})") from error
            return None
        return self._fit(image, file)

    def _fit(self, image: Image, file: Path) -> Image:
        size = (int(image.shape[0]), int(image.shape[1]))
        if self._own_size is None:
            self._own_size = size
        if self._options.resize is None and size != self._own_size:
            raise SourceFormatError(
                f"{file}: its size {size} is not that of the first image, {self._own_size}; "
                "give resize=(rows, cols) to scale them to one size"
            )
        return resize(image, self._options.output_size(*size))

    def _pts(self, index: int) -> float:
        return float(index / self._rate)

    def _frames(self, start_seconds: float, end_seconds: float | None) -> Generator[Frame, None, None]:
        for index, file in enumerate(self._files):
            pts = self._pts(index)
            if end_seconds is not None and pts >= end_seconds:
                return
            if pts < start_seconds:
                continue
            image = self._load(file)
            if image is None:
                self.report.packet_errors += 1
                continue
            self.report.frames_read += 1
            yield Frame(image, pts, index, key=True, source=self.info.source)

    def _sample(self, times_seconds: list[float]) -> dict[float, Frame]:
        shown: dict[float, Frame] = {}
        last_index, last_frame = -1, None
        for time in times_seconds:
            index = min(int((time + SAME_MOMENT_SECONDS) * self._rate), len(self._files) - 1)
            if index != last_index or last_frame is None:
                last_index, last_frame = index, self._readable(index, last_frame)
            shown[time] = last_frame
        return shown

    def _readable(self, index: int, previous: Frame | None) -> Frame:
        """Load picture ``index``, or the nearest readable one before it, or else after it."""
        number = 0 if previous is None else previous.index + 1
        for candidate in [*range(index, -1, -1), *range(index + 1, len(self._files))]:
            image = self._load(self._files[candidate])
            if image is not None:
                if previous is not None and previous.pts_seconds == self._pts(candidate):
                    return previous
                return Frame(image, self._pts(candidate), number, key=True, source=self.info.source)
            self.report.packet_errors += 1
            self.report.approximate_times += candidate == index
        raise SourceFormatError(f"{self.info.source}: no image in it can be read any more")

    def _keyframes(self) -> list[float]:
        return [self._pts(index) for index in range(len(self._files))]

    def _close(self) -> None:
        self._own_size = None


def _list_images(folder: Path) -> list[Path]:
    try:
        files = [
            file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()
        ]
    except PermissionError as error:
        raise SourcePermissionError(f"{folder}: no permission to list the folder") from error
    if not files:
        known = " ".join(sorted(IMAGE_SUFFIXES))
        raise SourceFormatError(f"{folder}: the folder holds no images ({known})")
    return sorted(files, key=lambda file: natural_key(file.name))
