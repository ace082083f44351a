"""The explanation as one picture: answers, film with overlays, and a bar for every frame."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from PIL import Image, ImageDraw

from streamprune.report.explain.data import Explanation, Run
from streamprune.report.explain.lettering import font, wrapped
from streamprune.report.explain.overlay import Overlay, draw_fate, drawn, fitted, overlay_of
from streamprune.report.explain.page import figures_of
from streamprune.report.tables import readable

WIDTH, MARGIN = 1600, 40
GROUND, TEXT, SOFT = (255, 255, 255), (23, 32, 43), (86, 98, 113)
ACCENT, WARM, LINE = (11, 110, 100), (168, 91, 0), (221, 226, 232)
_CARD, _GAP = 170, 14


def overview(explanation: Explanation) -> Image.Image:
    """The picture, as high as it has to be."""
    overlay = overlay_of(explanation)
    across, shot = _layout(explanation)
    rows = -(-explanation.grid[0] // across)
    film = rows * (shot[1] + 26) + (rows - 1) * 4
    top = 150 + _CARD + 30 + 40
    charts = 2 if explanation.attention is not None else 1
    height = top + film + 30 + charts * 150 + MARGIN
    image = Image.new("RGB", (WIDTH, height), GROUND)
    brush = ImageDraw.Draw(image)
    _head(brush, explanation)
    _answers(brush, explanation)
    _legend(brush, overlay, 150 + _CARD + 30)
    _film(image, brush, explanation, overlay, across, shot, top)
    _bars(brush, "tokens kept of each frame", explanation.kept.per_frame, top + film + 30, ACCENT)
    if explanation.attention is not None:
        place = top + film + 180
        _bars(brush, "attention of the question to each frame", explanation.attention.frames, place, WARM)
    return image


def _layout(explanation: Explanation) -> tuple[int, tuple[int, int]]:
    """Frames of a row, and (width, height) of one picture."""
    pair = max(len(pictures) for pictures in explanation.pictures)
    frames = explanation.grid[0]
    across = min(frames, 8 if frames <= 32 else 12)
    across = max(1, across // pair)
    wide = min(260 * pair, (WIDTH - 2 * MARGIN - (across - 1) * _GAP) // across)
    return across, fitted(explanation.pictures[0][0], ((wide - 4 * (pair - 1)) // pair, 260))


def _head(brush: ImageDraw.ImageDraw, explanation: Explanation) -> None:
    for number, line in enumerate(
        wrapped(brush, explanation.asked.question, font(34, True), WIDTH - 2 * MARGIN, 2)
    ):
        brush.text((MARGIN, 24 + 42 * number), line, TEXT, font(34, True))
    frames, rows, cols = explanation.grid
    shape = f"{frames} frames of {rows} x {cols} tokens"
    about = f"{explanation.asked.video}  ·  {explanation.asked.model}  ·  {shape}"
    (line,) = wrapped(brush, about, font(19), WIDTH - 2 * MARGIN, 1)
    brush.text((MARGIN, 112), line, SOFT, font(19))


def _answers(brush: ImageDraw.ImageDraw, explanation: Explanation) -> None:
    runs = [run for run in (explanation.full, explanation.reduced) if run is not None]
    wide = (WIDTH - 2 * MARGIN - 20 * (len(runs) - 1)) / len(runs)
    for number, run in enumerate(runs):
        left = MARGIN + number * (wide + 20)
        own = run is explanation.reduced
        box = (left, 150, left + wide, 150 + _CARD)
        brush.rounded_rectangle(box, 14, outline=ACCENT if own else LINE, width=3 if own else 2)
        _card(brush, run, left + 20, wide - 40)


def _card(brush: ImageDraw.ImageDraw, run: Run, left: float, wide: float) -> None:
    brush.text((left, 162), run.label, SOFT, font(19, True))
    for number, line in enumerate(wrapped(brush, str(run.answer["text"]) or "(nothing)", font(27), wide, 2)):
        brush.text((left, 190 + 34 * number), line, TEXT, font(27))
    figures = figures_of(run)
    said = (
        (readable(figures["tokens_kept"], "count"), "tokens to the LLM"),
        (readable(figures["first_ms"], "ms"), "to the first word"),
        (readable(figures["prefill_flops"], "flops"), "LLM operations"),
        (readable(figures["kv_bytes"], "bytes"), "KV cache"),
    )
    for number, (value, name) in enumerate(said):
        x = left + number * wide / 4
        brush.text((x, 264), value, TEXT, font(20, True))
        brush.text((x, 290), name, SOFT, font(15))


def _legend(brush: ImageDraw.ImageDraw, overlay: Overlay, top: int) -> None:
    left = float(MARGIN)
    wide = ImageDraw.Draw(brush._image, "RGBA")
    for state, words in overlay.occurring():
        brush.rectangle((left, top, left + 23, top + 23), fill=(150, 160, 110))
        draw_fate(wide, state, 0.5, (left, top, left + 24, top + 24))
        brush.rectangle((left, top, left + 23, top + 23), outline=SOFT)
        brush.text((left + 32, top), words, TEXT, font(18))
        left += 62 + brush.textlength(words, font=font(18))


def _film(
    image: Image.Image,
    brush: ImageDraw.ImageDraw,
    explanation: Explanation,
    overlay: Overlay,
    across: int,
    shot: tuple[int, int],
    top: int,
) -> None:
    pair = max(len(pictures) for pictures in explanation.pictures)
    step = pair * shot[0] + 4 * (pair - 1) + _GAP
    numbers = itertools.count()
    for frame, pictures in enumerate(explanation.pictures):
        x, y = MARGIN + frame % across * step, top + frame // across * (shot[1] + 30)
        for place, picture in enumerate(pictures):
            fates = overlay.of(frame, next(numbers))
            image.paste(drawn(picture, fates, shot), (x + place * (shot[0] + 4), y))
        brush.text((x, y + shot[1] + 3), f"{explanation.pts_seconds[frame]:.2f} s", SOFT, font(15))


def _bars(
    brush: ImageDraw.ImageDraw, name: str, values: Sequence[float], top: int, colour: tuple[int, int, int]
) -> None:
    most = max(*values, 1e-9) if len(values) > 1 else max(values[0], 1e-9)
    step, high = (WIDTH - 2 * MARGIN) / len(values), 90
    said = f"{most:,.0f}" if isinstance(values[0], int) else f"{100 * most:.1f} %"
    brush.text((MARGIN, top), f"{name} (at most {said})", TEXT, font(18, True))
    bottom = top + 34 + high
    for number, value in enumerate(values):
        left = MARGIN + number * step
        if value > 0:
            level = bottom - max(1.0, high * value / most)
            brush.rectangle((left + 2, level, left + step - 2, bottom), fill=colour)
    brush.line((MARGIN, bottom + 1, WIDTH - MARGIN, bottom + 1), fill=LINE, width=2)
