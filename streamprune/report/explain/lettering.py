"""Text in pictures: whatever scalable font the machine has, and lines that fit."""

from __future__ import annotations

from functools import cache
from typing import TypeAlias

from PIL import ImageDraw, ImageFont

Font: TypeAlias = "ImageFont.FreeTypeFont | ImageFont.ImageFont"

# with letters of many scripts; what Pillow brings itself knows Latin ones
_FAMILIES = ("NotoSans-{}.ttf", "DejaVuSans{}.ttf", "Arial{}.ttf")


@cache
def font(size: int, bold: bool = False) -> Font:
    """A font of ``size`` pixels."""
    for family in _FAMILIES:
        weights = {"NotoSans": ("Regular", "Bold"), "DejaVuSans": ("", "-Bold"), "Arial": ("", " Bold")}
        weight = next(names for name, names in weights.items() if family.startswith(name))[bold]
        try:
            return ImageFont.truetype(family.format(weight), size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def wrapped(brush: ImageDraw.ImageDraw, text: str, one: Font, width: float, lines: int) -> list[str]:
    """``text`` in at most ``lines`` lines of ``width`` pixels; what does not fit ends in three dots."""
    found: list[str] = []
    line = ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and brush.textlength(longer, font=one) > width:
            found.append(line)
            longer = word
        line = longer
    found.append(line)
    if len(found) > lines:
        found = [*found[: lines - 1], found[lines - 1] + " ..."]
    return [_cut(brush, line, one, width) for line in found]


def _cut(brush: ImageDraw.ImageDraw, line: str, one: Font, width: float) -> str:
    """``line`` itself, or as much of it as fits."""
    if brush.textlength(line, font=one) <= width:
        return line
    while line and brush.textlength(line + "...", font=one) > width:
        line = line[:-1]
    return line + "..."
