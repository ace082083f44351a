"""``streamprune explain``: what it writes, and one clear message for what is asked wrongly."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import streamprune as sp
from streamprune.cli import app
from streamprune.pipelines.explanation_pictures import THUMBNAIL
from streamprune.report.explain import film, picture
from streamprune.report.explain.data import Explanation
from streamprune.report.explain.page import page

if TYPE_CHECKING:
    from typer.testing import Result

CLIP = Path(__file__).resolve().parents[1] / "demos" / "clips" / "square_parade.mp4"
QUESTION = "which color is the square?"
SETTINGS = ("--recipe", "holitom", "--keep-ratio", "0.3", "--num-frames", "6")
NASTY = "<script>alert('x')</script> & \u2028 \"quoted\"?"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["explain", *(str(argument) for argument in arguments)])


def failed_with(result: Result, code: int, *words: str) -> None:
    """The command ended with ``code`` and one message that holds every word, and no traceback."""
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    said = re.sub(r"[\s│]+", " ", result.output)
    for word in words:
        assert word in said, said


class Read(HTMLParser):
    """What a browser would find: texts of elements, the data, and every address."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.data = ""
        self._inside: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self._inside.append("data" if given.get("id") == "data" else tag)
        self.addresses += [value for name in ("src", "href", "action") if (value := given.get(name))]

    def handle_endtag(self, tag: str) -> None:
        self._inside.append("")

    def handle_data(self, data: str) -> None:
        inside = self._inside[-1] if self._inside else ""
        if inside == "data":
            self.data += data
        elif inside not in ("script", "style"):
            self.text += data


@pytest.fixture(scope="module")
def vlm() -> Iterator[sp.VideoLLM]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield sp.load("embedded")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def nasty(vlm: sp.VideoLLM, tmp_path_factory: pytest.TempPathFactory) -> Explanation:
    """A question and a file name that would break a page that does not mind them."""
    clip = tmp_path_factory.mktemp("clips") / "<img src=x onerror=alert(1)>.mp4"
    clip.symlink_to(CLIP)
    return vlm.explain(
        clip, NASTY, recipe="fastvid", keep_ratio=0.3, num_frames=6, command=["streamprune", "<b>"]
    )


def test_it_writes_page_picture_film_and_data(tmp_path: Path) -> None:
    files = {name: tmp_path / "new" / f"report.{name}" for name in ("html", "png", "mp4", "json")}
    result = run(
        CLIP, QUESTION, *SETTINGS,
        "-o", files["html"], "--png", files["png"], "--mp4", files["mp4"], "--json", files["json"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "every token" in result.output
    assert "holitom, keep 0.3" in result.output
    for path in files.values():
        assert f"wrote {path}" in result.output
    assert sorted(os.listdir(tmp_path / "new")) == sorted(path.name for path in files.values())
    shown = json.loads(Read(files["html"].read_text(encoding="utf-8")).data)
    written = json.loads(files["json"].read_text())
    for one in [one for pair in shown["pictures"] for one in pair]:
        assert one.pop("url").startswith("data:image/jpeg;base64,")
    assert {name: shown[name] for name in written} == written
    with Image.open(files["png"]) as opened:
        assert opened.width == picture.WIDTH
        assert len(set(opened.convert("L").getdata())) > 50, "not blank"
    with av.open(str(files["mp4"])) as container:
        (stream,) = container.streams.video
        frames = list(container.decode(stream))
        assert stream.codec_context.name == "h264"
        assert (stream.width, stream.height) == (film.WIDTH, film.HEIGHT)
    assert len(frames) == 6
    done = [int((one.to_ndarray(format="rgb24")[704, 40:1240, 1] > 120).sum()) for one in frames]
    assert done == sorted(set(done)), "the progress bar grows"
    assert done[-1] == 1200


def test_the_page_holds_the_run_and_nothing_else(nasty: Explanation) -> None:
    html = page(nasty)
    read = Read(html)
    data = json.loads(read.data)
    plain = json.loads(json.dumps(nasty.to_dict()))
    assert {name: data[name] for name in plain} == plain
    assert data["first_view"] == "kept"
    assert read.addresses == []
    assert html.startswith("<!doctype html>")
    assert '<html lang="en">' in html
    assert "http" not in re.sub(r'"http-equiv"|http-equiv|http://www.w3.org/2000/svg', "", html)
    for figure in ("tokens_kept", "kv_bytes", "prefill_flops"):
        assert data["reduced"]["answer"]["stats"][figure] < data["full"]["answer"]["stats"][figure]
    assert nasty.asked.toml.strip().splitlines()[0] in read.text
    assert "fastvid, keep 0.3" in read.text


def test_text_from_outside_stays_text(nasty: Explanation) -> None:
    html = page(nasty)
    read = Read(html)
    assert NASTY in read.text
    assert "<img src=x onerror=alert(1)>.mp4" in read.text
    assert json.loads(read.data)["asked"]["question"] == NASTY
    assert "alert('x')</script>" not in html
    assert "img" not in read.tags
    assert read.tags.count("script") == 5, "the data and our own four"
    assert "<b>" in read.text


def test_answers_and_labels_are_escaped_too(nasty: Explanation) -> None:
    from dataclasses import replace

    answer = {**nasty.reduced.answer, "text": "<script>evil()</script>"}
    changed = replace(
        nasty,
        reduced=replace(nasty.reduced, answer=answer, label="<i>mine</i>"),
        warnings=("<b>lost</b>",),
        notes=("<u>note</u>",),
    )
    read = Read(page(changed))
    assert not {"i", "u"} & set(read.tags)
    for text in ("<script>evil()</script>", "<i>mine</i>", "<b>lost</b>", "<u>note</u>", "another answer"):
        assert text in read.text
    assert read.tags.count("script") == 5
    assert picture.overview(changed).width == picture.WIDTH


def test_64_frames_are_below_5_mb(vlm: sp.VideoLLM) -> None:
    """Of noise, which no codec makes small."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 270, 480, 3), dtype=np.uint8)
    found = vlm.explain(noise, QUESTION, recipe="fastvid", keep_ratio=0.2, num_frames=64, max_new_tokens=1)
    assert found.grid[0] == len(found.pictures) == 64
    html = page(found)
    assert 1_000_000 < len(html.encode()) < 5_000_000
    with Image.open(io.BytesIO(found.pictures[0][0].thumbnail)) as opened:
        assert max(opened.size) == THUMBNAIL
        assert opened.size == (288, 162)


def test_everything_at_once_on_14_x_14_tokens_is_below_5_mb(nasty: Explanation) -> None:
    """What a 7B model would give of 64 frames, every part filled; pictures are the other test's."""
    from dataclasses import replace

    from streamprune.report.explain.data import Attention, CacheHeld, InLLM, Kept, LayerHeld, TowerFates

    tokens, patches, layers = 64 * 196, 64 * 729, 28
    rows = tuple(range(tokens))
    share = (0.0000797194,) * tokens
    big = replace(
        nasty,
        grid=(64, 14, 14),
        pts_seconds=tuple(n / 2 for n in range(64)),
        pictures=(nasty.pictures[0],) * 64,
        similarity=(0.987654321,) * 63,
        kept=Kept(
            method="x", index=rows, source=rows, size=(1.0,) * tokens, per_frame=(196,) * 64, merges=True
        ),
        attention=Attention(frames=(1 / 64,) * 64, tokens=share, said="x"),
        tower=TowerFates(
            method="x", rows=27, cols=27, layers=tuple(range(26)), left_at=(13,) * patches,
            into=tuple(range(patches)), merged="1" * patches, tokens=(patches,) * 26,
        ),
        in_llm=InLLM(method="x", cuts=(2,), present=("1" * tokens,) * layers, merged=()),
        cache=CacheHeld(
            method="x", heads=4,
            layers=tuple(LayerHeld(layer=n, held=(4,) * tokens, entries=tokens) for n in range(layers)),
        ),
    )  # fmt: skip
    assert 1_500_000 < len(page(big).encode()) < 3_000_000


def test_one_picture_is_enough(vlm: sp.VideoLLM, tmp_path: Path) -> None:
    one = np.random.default_rng(0).integers(0, 256, (1, 60, 90, 3), dtype=np.uint8)
    found = vlm.explain(one, QUESTION, recipe="fastvid", keep_ratio=0.3, max_new_tokens=2)
    assert found.grid[0] == 1
    assert found.similarity == ()
    assert found.segments.edges == ((0, 1),)
    for name in ("report.html", "report.png", "report.mp4", "report.json"):
        found.save(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 0


def test_slices_of_two_pictures_show_both() -> None:
    qwen = sp.load("embedded-qwen")
    found = qwen.explain(CLIP, QUESTION, recipe="stride", keep_ratio=0.5, num_frames=7)
    assert [len(pair) for pair in found.pictures] == [2, 2, 2, 1]
    times = [[one.pts_seconds for one in pair] for pair in found.pictures]
    assert [(pair[0] + pair[-1]) / 2 for pair in times] == pytest.approx(found.pts_seconds)
    data = json.loads(Read(page(found)).data)
    assert [len(pair) for pair in data["pictures"]] == [2, 2, 2, 1]
    assert "made of 2 pictures each" in Read(page(found)).text
    picture.overview(found)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, ("nothing would be written", "-o report.html")),
        (("-o", "report.txt"), 2, ("--output must be a file name ending in .html", "report.txt")),
        (("--png", "page.html"), 2, ("--png must be a file name ending in .png",)),
        (("-o", "folder.html"), 1, ("folder.html", "it is a folder")),
        (("-o", "file/report.html"), 1, ("cannot write", "file/report.html")),
        (("-o", "a.html", "--recipe", "fastvit"), 2, ("unknown recipe 'fastvit'", "Did you mean 'fastvid'")),
        (("-o", "a.html", "--keep-ratio", "0.5"), 2, ("keep_ratio", "give recipe=")),
        (("-o", "a.html", "--recipe", "fastvid", "--keep-ratio", "2"), 2, ("keep_ratio",)),
    ],
)
def test_asked_wrongly_before_anything_is_loaded(
    arguments: tuple[str, ...],
    code: int,
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(*given: Any, **settings: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("streamprune.pipelines.offline.load", load)
    monkeypatch.chdir(tmp_path)
    Path("folder.html").mkdir()
    Path("file").write_text("")
    failed_with(run(CLIP, QUESTION, *arguments), code, *words)
    assert sorted(os.listdir()) == ["file", "folder.html"]


def test_videos_and_questions_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    failed_with(run("nowhere.mp4", QUESTION, "-o", "a.html"), 1, "nowhere.mp4", "no such file")
    failed_with(run(CLIP, " ", "-o", "a.html"), 2, "question must not be empty")
    Path("empty").mkdir()
    failed_with(run("empty", QUESTION, "-o", "a.html"), 1, "empty")
    Path("text.mp4").write_text("no video")
    failed_with(run("text.mp4", QUESTION, "-o", "a.html"), 1, "text.mp4")
    failed_with(run("text.mp4", QUESTION, "--mp4", "./text.mp4"), 2, "is the video itself")
    assert Path("text.mp4").read_text() == "no video"
    assert not Path("a.html").exists()


def test_a_report_that_cannot_be_finished_leaves_the_old_one(
    nasty: Explanation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "report.html"
    target.write_text("old")

    def full(explanation: Explanation) -> str:
        raise OSError(28, "No space left on device")

    with pytest.raises(sp.StreampruneError, match="path must end in one of"):
        nasty.save(tmp_path / "report.pdf")
    monkeypatch.setattr("streamprune.report.explain.page.page", full)
    with pytest.raises(sp.StreampruneError, match=r"cannot write .*report.html': No space left"):
        nasty.save(target)
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.html"]
