"""Photograph the page of ``streamprune explain``: ``python -m tests.web.explain_screenshot``.

Writes demos/explain*.png.
The same command as in the README makes the page; the pointer is at a token that went into another one.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import streamprune as sp
from tests.web.chromium import Page, chromium
from tests.web.screenshot import DEMOS

CLIP = "demos/clips/square_parade.mp4"
QUESTION = "which shape is red?"
SIZE = (1200, 1715)
COMMAND = [
    "streamprune", "explain", CLIP, QUESTION,
    "--recipe", "holitom", "--keep-ratio", "0.2", "--num-frames", "21", "-o", "report.html",
]  # fmt: skip
# the token that stands for most others, by its caption; a member of it far away
POINT = """(() => {
  const { source, size } = DATA.kept, row = size.indexOf(Math.max(...size));
  const place = source.lastIndexOf(row);
  const shot = SHOTS[Math.floor(place / PER_FRAME)], cell = place % PER_FRAME;
  point(shot, Math.floor(cell / shown.cols), cell % shown.cols);
})()"""


def main() -> None:
    """Write both pictures."""
    torch.set_num_threads(1)
    vlm = sp.load("embedded")
    found = vlm.explain(CLIP, QUESTION, recipe="holitom", keep_ratio=0.2, num_frames=21, command=COMMAND)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.html"
        found.save(file)
        with chromium(Path(folder) / "profile", None) as page:
            page.open(file.as_uri())
            page.wait("document.documentElement.dataset.ready === 'true'")
            for name, dark in (("explain.png", False), ("explain_dark.png", True)):
                _photograph(page, DEMOS / name, dark)
                _pack(DEMOS / name)


def _photograph(page: Page, path: Path, dark: bool) -> None:
    page.call(
        "Emulation.setDeviceMetricsOverride", width=SIZE[0], height=SIZE[1], deviceScaleFactor=1, mobile=False
    )
    page.click("input[name=view][value=kept]")
    page.value(POINT)
    page.photograph(path, *SIZE, dark=dark)


def _pack(path: Path) -> None:
    """Write it with 256 colours: the 64 most frequent as they are, on which large even parts depend."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    packed = np.asarray(image).astype(np.int64) @ (1 << 16, 1 << 8, 1)
    colours, counts = np.unique(packed, return_counts=True)
    exact = colours[np.argsort(-counts)[:64]]
    few = image.quantize(192, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    places = np.asarray(few).astype(np.uint8) + np.uint8(64)
    for place, colour in enumerate(exact):
        places[packed == colour] = place
    saved = Image.fromarray(places, "L")
    saved.putpalette(
        [*(exact[:, None] >> (16, 8, 0) & 255).flatten().tolist(), *(few.getpalette() or [])[:576]]
    )
    saved.save(path, optimize=True)
    print(path, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
