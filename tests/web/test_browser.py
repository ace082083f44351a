"""The page in a real browser, whose camera shows a clip of the embedded world, with the embedded model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import streamprune as sp
from streamprune.embedded import world
from streamprune.readers import open_source
from streamprune.web.app import create_app
from streamprune.web.options import WebOptions
from streamprune.web.shared import SharedSource
from tests.web.chromium import INSTALL, Page, chromium, chromium_path, write_camera
from tests.web.page_server import PageServer, served

CLIPS = Path(__file__).resolve().parents[2] / "demos" / "clips"
SEED = 3001
FPS = 4
CONNECTED = "document.getElementById('connection').dataset.state === 'open'"
MEMORY_BYTES = 64_000_000


@dataclass(frozen=True)
class Shown:
    """What the camera shows."""

    clip: world.Clip
    path: Path

    def answer(self, question: str) -> str:
        """The right answer to one of the clip's questions."""
        return next(known.answer for known in self.clip.questions if known.text == question)


@pytest.fixture(scope="module")
def shown(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """Two seconds, again and again; skips without Chromium."""
    if chromium_path() is None:
        (pytest.fail if request.config.getoption("--require-live") else pytest.skip)(INSTALL)
    clip = world.clip(SEED, frames=8, split="eval", questions=12)
    path = tmp_path_factory.mktemp("camera") / "clip.y4m"
    return Shown(clip, write_camera(clip.render(384), FPS, path))


@pytest.fixture(scope="module")
def vlm() -> Iterator[sp.VideoLLM]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield sp.load("embedded")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def page(shown: Shown, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A browser with that camera."""
    with chromium(tmp_path_factory.mktemp("profile"), shown.path) as opened:
        yield opened


def serving(vlm: sp.VideoLLM, port: int = 0) -> AbstractContextManager[PageServer]:
    """A server of the page, with half of the patches kept and those that did not change reused."""

    def open_stream() -> sp.LiveStream:
        return vlm.open_stream("encoder:stc+pre_llm:stc", keep_ratio=0.5, memory_bytes=MEMORY_BYTES, fps=FPS)

    options = WebOptions(port=port, fps=FPS)
    about = {"model": "embedded", "settings": {"recipe": "stc"}}
    return served(create_app(open_stream, options, about), options)


def ask(page: Page, question: str) -> str:
    """Ask on the page and read the page's answer."""
    asked = len(page.texts("#exchanges li"))
    page.submit("#question", question)
    page.wait(f"document.querySelectorAll('#exchanges li[data-state=done]').length > {asked}")
    return page.texts("#exchanges .answer")[-1]


def overlays(page: Page) -> int:
    """How many pictures were shown with what became of their patches."""
    return int(page.value("document.getElementById('stage').dataset.overlays"))


def brightness(page: Page) -> list[float]:
    """The mean level of each of the 6 x 6 patches of the picture that is shown."""
    levels: list[float] = page.value(
        "(() => { const one = document.getElementById('stage'), wide = one.width / 6, high = one.height / 6;"
        "const of = (left, top) => one.getContext('2d').getImageData(left, top, wide, high).data;"
        "return Array.from({length: 36}, (_, i) => of((i % 6) * wide, Math.floor(i / 6) * high)"
        ".reduce((sum, level, at) => sum + (at % 4 < 3 ? level : 0)) / (wide * high * 3)); })()"
    )
    return levels


def test_answers_on_the_page_are_right(shown: Shown, vlm: sp.VideoLLM, page: Page) -> None:
    with serving(vlm) as server:
        page.open(f"http://127.0.0.1:{server.port}/")
        page.wait(CONNECTED)
        page.submit("#watch-question", "can a red square be seen?")
        page.click("#camera-start")
        page.wait(f"Number(document.getElementById('stage').dataset.overlays) >= {2 * shown.clip.num_frames}")
        for question in (
            "which color is the square?",
            "which number can you see?",
            "which shape is yellow?",
            "in which corner of the picture is the circle?",
        ):
            assert ask(page, question) == shown.answer(question)
        page.wait("document.querySelector('#watches .alerts li')")
        assert page.texts("#watches .alerts li")[0].endswith("yes")
        _check_overlay(page)
        _check_gauges(page)
        assert page.texts(".notice") == []
        assert page.errors == []


def _check_overlay(page: Page) -> None:
    """Half of the patches are darkened, and only as long as that is wanted."""
    page.click("#camera-start")
    page.wait("document.getElementById('camera-start').textContent === 'Start camera'")
    assert page.texts("#count-kept, #count-dropped") == ["18", "18"]
    marked = brightness(page)
    page.click("#overlay")
    plain = brightness(page)
    page.click("#overlay")
    darker = [one < 0.8 * other for one, other in zip(marked, plain, strict=True)]
    assert sum(darker) == 18
    assert "18 of 36 patches kept" in page.value("document.getElementById('stage').ariaLabel")


def _check_gauges(page: Page) -> None:
    """The numbers are those of the stream."""
    kept, *_ = page.texts("#tile-kept")
    assert kept.startswith("50 %")
    bar = "document.getElementById('memory-bar')"
    assert 0 < page.value(f"Number({bar}.ariaValueNow)") <= 100
    assert "of 64 MB" in page.value(f"{bar}.ariaValueText")
    assert any(tier.startswith("Recent") for tier in page.texts("#memory-tiers li"))


def test_a_lost_connection_comes_back(vlm: sp.VideoLLM, page: Page) -> None:
    with serving(vlm) as server:
        page.open(f"http://127.0.0.1:{server.port}/")
        page.wait(CONNECTED)
        page.click("#camera-start")
        page.wait("Number(document.getElementById('stage').dataset.overlays) >= 2")
    page.wait("document.getElementById('connection').textContent.startsWith('connection lost')")
    before = overlays(page)
    with serving(vlm, server.port):
        page.wait(CONNECTED)
        page.wait(f"Number(document.getElementById('stage').dataset.overlays) > {before}")
        page.click("#camera-start")


def test_a_video_file_of_the_visitor_is_played(vlm: sp.VideoLLM, page: Page) -> None:
    with serving(vlm) as server:
        page.open(f"http://127.0.0.1:{server.port}/")
        page.wait(CONNECTED)
        page.choose("#file", CLIPS / "square_parade.mp4")
        page.wait("Number(document.getElementById('stage').dataset.overlays) >= 4")
        assert page.texts("#camera-start") == ["Stop"]
        page.click("#camera-start")
        page.choose("#file", CLIPS / "square_parade.json")
        page.wait("document.querySelector('.notice')")
        assert page.texts(".notice span")[0].startswith("The video cannot be played")
        assert page.texts("#camera-start") == ["Start camera"]


def test_the_server_s_own_source(shown: Shown, vlm: sp.VideoLLM, page: Page) -> None:
    live = vlm.open_stream(memory_bytes=MEMORY_BYTES)
    shared = SharedSource(open_source(list(shown.clip.frames)), live)
    options = WebOptions(port=0, token="not.guessed")
    with served(
        create_app(vlm.open_stream, options, {"model": "m", "settings": {}}, shared), options
    ) as server:
        page.open(options.address(server.port))
        page.wait(CONNECTED)
        assert page.value("location.href") == f"http://127.0.0.1:{server.port}/", "the token is not shown"
        page.wait("document.getElementById('source').textContent.includes('the source has ended')")
        page.wait("Number(document.getElementById('stage').dataset.overlays) >= 1")
        assert ask(page, "which color is the square?") == shown.answer("which color is the square?")
        assert page.value("document.getElementById('camera-controls').hidden")
        assert page.errors == []


def test_a_camera_that_is_not_lent(vlm: sp.VideoLLM, shown: Shown, tmp_path: Path) -> None:
    with serving(vlm) as server, chromium(tmp_path, shown.path, allow_camera=False) as page:
        page.open(f"http://127.0.0.1:{server.port}/")
        page.wait(CONNECTED)
        page.click("#camera-start")
        page.wait("document.querySelector('.notice')")
        assert "not allowed to use the camera" in page.texts(".notice span")[0]
        page.submit("#question", "what is there?")
        page.wait("document.querySelector('#exchanges li[data-state=failed]')")
        assert "nothing to ask about yet" in page.texts("#exchanges .answer")[0]
