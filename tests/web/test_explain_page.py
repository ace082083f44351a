"""The page of ``streamprune explain`` in a real browser: it draws what its data say, light and dark."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import streamprune as sp
from streamprune.report.explain.data import Explanation
from tests.web.chromium import INSTALL, Page, chromium, chromium_path

CLIP = Path(__file__).resolve().parents[2] / "demos" / "clips" / "square_parade.mp4"
QUESTION = "which color is the square?"
# the least contrast of any text with what is behind it, and which text that is
LEAST_CONTRAST = """(() => {
  const channels = (colour) => {
    const brush = Object.assign(document.createElement('canvas'), { width: 1, height: 1 }).getContext('2d');
    brush.fillStyle = colour;
    brush.fillRect(0, 0, 1, 1);
    return [...brush.getImageData(0, 0, 1, 1).data];
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((one) => one / 255)
      .map((one) => one <= .04045 ? one / 12.92 : ((one + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const found = channels(getComputedStyle(at).backgroundColor);
      if (found[3] === 255) return found;
    }
    return [255, 255, 255, 255];
  };
  let least = [99, ''];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode.textContent.trim(), element = texts.currentNode.parentElement;
    if (!text || !element.getClientRects().length || element.closest('script, style, noscript')) continue;
    const style = getComputedStyle(element);
    const ink = channels(element instanceof SVGElement ? style.fill : style.color);
    const [one, other] = [light(ink.slice(0, 3)), light(behind(element).slice(0, 3))];
    const contrast = (Math.max(one, other) + .05) / (Math.min(one, other) + .05);
    if (contrast < least[0]) least = [contrast, text];
  }
  return least;
})()"""


@pytest.fixture(scope="module")
def explained() -> Iterator[Explanation]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    vlm = sp.load("embedded")
    yield vlm.explain(CLIP, QUESTION, recipe="holitom", keep_ratio=0.3, num_frames=8, command=["x"])
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def page(
    explained: Explanation, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Page]:
    """The page, open; skips without Chromium."""
    if chromium_path() is None:
        (pytest.fail if request.config.getoption("--require-live") else pytest.skip)(INSTALL)
    file = tmp_path_factory.mktemp("page") / "report.html"
    explained.save(file)
    with chromium(tmp_path_factory.mktemp("profile"), None) as opened:
        opened.open(file.as_uri())
        opened.wait("document.documentElement.dataset.ready === 'true'")
        opened.call("Emulation.setFocusEmulationEnabled", enabled=True)
        yield opened


def shown(page: Page, view: str, layer: int | None = None) -> int:
    """Switch, and read how many places are kept there."""
    page.click(f"input[name=view][value={view}]")
    if layer is not None:
        page.value(
            f"(() => {{ const depth = document.getElementById('depth'); depth.value = {layer}; "
            "depth.dispatchEvent(new Event('input')); })()"
        )
    return int(page.value("document.getElementById('strip').dataset.kept"))


def point_at(page: Page, frame: int, row: int, col: int, grid: tuple[int, int, int]) -> str:
    """Move the pointer there, and read what the page tells."""
    told: str = page.value(
        f"(() => {{ const canvas = document.querySelectorAll('.shot canvas')[{frame}]; "
        "const box = canvas.getBoundingClientRect(); canvas.dispatchEvent(new PointerEvent('pointermove', { "
        f"clientX: box.left + box.width * {(col + 0.5) / grid[2]}, "
        f"clientY: box.top + box.height * {(row + 0.5) / grid[1]}, bubbles: true }})); "
        "return document.getElementById('told').textContent; })()"
    )
    return told


def size(page: Page, width: int, height: int) -> None:
    page.call(
        "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
    )


def test_every_stage_shows_what_the_run_decided(page: Page, explained: Explanation) -> None:
    assert page.texts("#views span") == ["Pictures", "Before the LLM", "In the LLM", "Attention"]
    assert page.value("document.querySelector('input[name=view]:checked').value") == "in_llm"
    assert shown(page, "kept") == len(explained.kept.index)
    assert explained.in_llm is not None
    for layer, present in enumerate(explained.in_llm.present):
        assert shown(page, "in_llm", layer) == present.count("1")
    captions = page.texts(".strip figcaption b")
    per_frame = explained.grid[1] * explained.grid[2]
    last = [
        explained.kept.index[row] // per_frame
        for row, mark in enumerate(explained.in_llm.present[-1])
        if mark == "1"
    ]
    assert captions == [f"{last.count(frame)}/{per_frame}" for frame in range(8)]
    assert page.value("document.documentElement.lang") == "en"
    assert QUESTION in page.value("document.title")
    assert page.errors == []


def test_pointing_tells_where_a_token_went(page: Page, explained: Explanation) -> None:
    shown(page, "kept")
    source, index = explained.kept.source, explained.kept.index
    place = next(p for p, row in enumerate(source) if row >= 0 and index[row] != p)
    frame, within = divmod(place, explained.grid[1] * explained.grid[2])
    row, col = divmod(within, explained.grid[2])
    before = page.value("document.getElementById('strip').getBoundingClientRect().top")
    told = point_at(page, frame, row, col, explained.grid)
    group = source.count(source[place])
    to_frame, to = divmod(index[source[place]], explained.grid[1] * explained.grid[2])
    to_row, to_col = divmod(to, explained.grid[2])
    assert told.startswith(f"Frame {frame + 1}, row {row + 1}, column {col + 1}")
    assert f"went mostly into frame {to_frame + 1}, row {to_row + 1}, column {to_col + 1}" in told
    assert f"The yellow places became one: {group} of them" in told
    assert len(page.texts(".lines path:not(.under)")) == group - 1
    assert page.value("document.getElementById('strip').getBoundingClientRect().top") == before, "no jump"
    dropped = source.index(-1)
    frame, within = divmod(dropped, explained.grid[1] * explained.grid[2])
    row, col = divmod(within, explained.grid[2])
    assert "was dropped before the language model" in point_at(page, frame, row, col, explained.grid)
    assert page.texts(".lines path") == []


def test_the_keyboard_goes_everywhere(page: Page, explained: Explanation) -> None:
    def press(key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            page.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    shown(page, "kept")
    page.value("document.querySelectorAll('.shot canvas')[1].focus()")
    assert page.texts("#told")[0].startswith("Frame 2, row 1, column 1")
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft"):
        press(key)
    assert page.texts("#told")[0].startswith("Frame 2, row 2, column 2")
    page.value("document.querySelector('input[name=view]:checked').focus()")
    for code in (39,):
        for kind in ("rawKeyDown", "keyUp"):
            page.call(
                "Input.dispatchKeyEvent", type=kind, key="ArrowRight", code="ArrowRight",
                windowsVirtualKeyCode=code,
            )  # fmt: skip
    assert page.value("document.querySelector('input[name=view]:checked').value") == "in_llm"
    labels = page.value("[...document.querySelectorAll('.shot canvas')].map((one) => one.ariaLabel)")
    assert all("tokens. Arrow keys" in label for label in labels)


def test_charts_and_tables_say_the_data(page: Page, explained: Explanation) -> None:
    rows = page.value(
        "[...document.querySelectorAll('#time-table tbody tr')].map((r) => r.cells[3].textContent)"
    )
    assert [int(cell) for cell in rows] == list(explained.kept.per_frame)
    cells = page.texts("#layer-table tbody td")
    assert cells[2] == f"{explained.reduced.kv_bytes[0]:,}"
    assert explained.full is not None
    assert cells[4] == f"{explained.full.kv_bytes[0]:,}"
    assert len(page.texts("#timeline .bar")) == 2 * explained.grid[0]
    assert len(page.texts("#timeline .border")) == len(explained.segments.edges) - 1
    data: Any = json.loads(page.value("document.getElementById('data').textContent"))
    assert data["kept"]["size"] == list(explained.kept.size)


def test_both_colour_schemes_can_be_read(page: Page, tmp_path: Path) -> None:
    seen = {}
    for dark in (False, True):
        file = tmp_path / f"{dark}.png"
        page.photograph(file, 1200, 900, dark=dark)
        contrast, text = page.value(LEAST_CONTRAST)
        assert contrast >= 4.5, text
        with Image.open(file) as opened:
            grey = opened.convert("L")
            seen[dark] = grey.getpixel((5, 600))
            assert len(grey.getcolors() or []) > 60, "not blank"
    assert seen == {False: pytest.approx(245, abs=12), True: pytest.approx(19, abs=12)}
    page.click("#theme")
    assert page.value("document.documentElement.dataset.theme") == "light"
    assert page.value("getComputedStyle(document.body).backgroundColor") == "rgb(244, 245, 247)"
    page.click("#theme")
    assert page.value("getComputedStyle(document.body).backgroundColor") == "rgb(15, 20, 25)"
    page.click("#theme")
    assert page.value("document.documentElement.dataset.theme ?? null") is None
    assert page.errors == []


@pytest.mark.parametrize("width", [1200, 390])
def test_it_fits(page: Page, width: int) -> None:
    size(page, width, 900)
    page.wait(f"innerWidth === {width} && document.querySelector('.chart').clientWidth < {width}")
    assert page.value("document.documentElement.scrollWidth") <= width
    wide = page.value("[...document.querySelectorAll('.shot')].map((one) => one.clientWidth)")
    assert min(wide) > 80
    assert page.errors == []
