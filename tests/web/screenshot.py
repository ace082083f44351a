"""Photograph the page in use, light and dark: ``python -m tests.web.screenshot`` writes demos/serve*.png.

The camera of a real Chromium shows a fixed camera of the embedded world; the embedded model answers.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from PIL import Image

import streamprune as sp
from streamprune.embedded import world
from streamprune.web.app import create_app
from streamprune.web.options import WebOptions
from tests.web.chromium import Page, chromium, write_camera
from tests.web.page_server import served

DEMOS = Path(__file__).resolve().parents[2] / "demos"
SEED, FRAMES, FPS = 7, 48, 4
QUESTIONS = ("which color is the triangle?", "which shape is purple?", "which color is the diamond?")
WATCHED = "can a yellow triangle be seen?"
SIZE = (1280, 950)


def main() -> None:
    """Write both pictures."""
    torch.set_num_threads(1)
    vlm = sp.load("embedded")
    stream = world.Stream(SEED, fps=FPS, static=True)
    frames = world.upscale(stream.frames(0, FRAMES), 480)

    def open_stream() -> sp.LiveStream:
        return vlm.open_stream("encoder:stc+pre_llm:stc", keep_ratio=0.4, memory_bytes="64MB", fps=FPS)

    with open_stream() as live:
        settings = live.describe()
    options = WebOptions(port=0, fps=FPS)
    app = create_app(open_stream, options, {"model": settings.pop("model"), "settings": settings})
    with tempfile.TemporaryDirectory() as folder, served(app, options) as server:
        camera = write_camera(frames, FPS, Path(folder) / "camera.y4m")
        with chromium(Path(folder) / "profile", camera) as page:
            _use(page, server.port)
            for name, dark in (("serve.png", False), ("serve_dark.png", True)):
                page.photograph(DEMOS / name, *SIZE, dark=dark)
                _shrink(DEMOS / name)


def _use(page: Page, port: int) -> None:
    """Watch most of the clip, ask about it, and stop at a picture of which much is reused."""
    page.open(f"http://127.0.0.1:{port}/")
    page.wait("document.getElementById('connection').dataset.state === 'open'")
    page.submit("#watch-question", WATCHED)
    page.click("#camera-start")
    page.wait(f"Number(document.getElementById('stage').dataset.overlays) >= {FRAMES - 8}", 60)
    for number, question in enumerate(QUESTIONS, 1):
        page.submit("#question", question)
        page.wait(f"document.querySelectorAll('#exchanges li[data-state=done]').length === {number}")
    page.wait("Number(document.getElementById('count-reused').textContent) >= 12", 60)


def _shrink(path: Path) -> None:
    """256 colours, as different as possible, are enough."""
    with Image.open(path) as opened:
        few = opened.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    print(path, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
