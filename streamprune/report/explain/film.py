"""The explanation as a film for slides: frame after frame with its overlay, the answers beside it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

from streamprune.errors import StorageError
from streamprune.report.explain.data import Explanation
from streamprune.report.explain.lettering import font, wrapped
from streamprune.report.explain.overlay import Overlay, draw_fate, drawn, fitted, overlay_of
from streamprune.report.tables import readable

WIDTH, HEIGHT = 1280, 720
# a frame of tokens is shown for half a second, shorter where the film would take longer than this
_SECONDS, _MOST_SECONDS = Fraction(1, 2), 30
_ROOM = (760, 570)  # of the picture
_GROUND, _TEXT, _SOFT, _ACCENT, _LINE = (
    (15, 20, 25),
    (232, 237, 243),
    (158, 171, 185),
    (47, 194, 176),
    (43, 54, 65),
)


def write_film(explanation: Explanation, path: Path) -> None:
    """Write H.264 in MP4, one picture for each frame of tokens.

    Raises StorageError when it cannot be written.
    """
    rate = max(1 / _SECONDS, Fraction(explanation.grid[0], _MOST_SECONDS))
    try:
        with av.open(str(path), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=rate, options={"crf": "20", "preset": "veryfast"})
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            for slide in _slides(explanation):
                for packet in stream.encode(av.VideoFrame.from_ndarray(np.asarray(slide), format="rgb24")):
                    container.mux(packet)
            for packet in stream.encode():
                container.mux(packet)
    except av.FFmpegError as error:
        raise StorageError(f"cannot write {str(path)!r}: {error}") from error


def _slides(explanation: Explanation) -> Iterator[Image.Image]:
    """One picture for each frame of tokens."""
    overlay = overlay_of(explanation)
    ground = _ground(explanation, overlay)
    numbers = itertools.count()
    most = max(*explanation.kept.per_frame, 1)
    for frame, pictures in enumerate(explanation.pictures):
        slide = ground.copy()
        brush = ImageDraw.Draw(slide)
        wide = (_ROOM[0] - 8 * (len(pictures) - 1)) // len(pictures)
        left = 40
        for picture in pictures:
            size = fitted(picture, (wide, _ROOM[1]))
            slide.paste(drawn(picture, overlay.of(frame, next(numbers)), size), (left, 84))
            left += size[0] + 8
        kept, seconds = explanation.kept.per_frame[frame], explanation.pts_seconds[frame]
        said = f"frame {frame + 1} of {explanation.grid[0]}, {seconds:.2f} s: {kept} tokens before the LLM"
        brush.text((40, 664), said, _SOFT, font(20))
        _progress(brush, explanation, frame, most)
        yield slide


def _ground(explanation: Explanation, overlay: Overlay) -> Image.Image:
    """What is the same on all slides."""
    image = Image.new("RGB", (WIDTH, HEIGHT), _GROUND)
    brush = ImageDraw.Draw(image, "RGBA")
    (line,) = wrapped(brush, explanation.asked.question, font(30, True), WIDTH - 80, 1)
    brush.text((40, 24), line, _TEXT, font(30, True))
    top = 84
    for run in (explanation.full, explanation.reduced):
        if run is None:
            continue
        brush.text((840, top), run.label, _ACCENT if run is explanation.reduced else _SOFT, font(20, True))
        for line in wrapped(brush, str(run.answer["text"]) or "(nothing)", font(25), 400, 3):
            top += 32
            brush.text((840, top), line, _TEXT, font(25))
        kinds = (("tokens_kept", "count"), ("prefill_flops", "flops"), ("kv_bytes", "bytes"))
        tokens, operations, cached = (readable(run.stats[key], kind) for key, kind in kinds)
        said = f"{tokens} tokens, {operations} FLOPs, {cached}"
        brush.text((840, top + 40), said, _SOFT, font(18))
        top += 92
    for state, words in overlay.occurring():
        brush.rectangle((840, top, 863, top + 23), fill=(150, 160, 110))
        draw_fate(brush, state, 0.5, (840, top, 864, top + 24))
        brush.text((876, top), words, _TEXT, font(18))
        top += 36
    return image


def _progress(brush: ImageDraw.ImageDraw, explanation: Explanation, frame: int, most: int) -> None:
    """A bar for each frame's tokens, those shown so far bright, and how far the film is."""
    step = (WIDTH - 880) / explanation.grid[0]
    for number, kept in enumerate(explanation.kept.per_frame):
        left, level = 840 + number * step, 654 - 90 * kept / most
        colour = _ACCENT if number <= frame else _LINE
        brush.rectangle((left, min(level, 653), left + max(1.0, step - 2), 654), fill=colour)
    done = 40 + (WIDTH - 80) * (frame + 1) / explanation.grid[0]
    brush.rectangle((40, 702, WIDTH - 40, 707), fill=_LINE)
    brush.rectangle((40, 702, done, 707), fill=_ACCENT)
