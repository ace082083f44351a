"""The runner of evaluations: what is shown, at how many tokens, and that nothing is asked twice or lost."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from streamprune.benchmarks.item import Item
from streamprune.embedded.world import Clip, clip
from streamprune.embedded.world.wordings import NUMBERS
from streamprune.errors import InvalidValueError, RecipeError, SignalError
from streamprune.frames import FrameMethod
from streamprune.pipelines import evaluation_screen
from streamprune.pipelines.encoding import encode_video
from streamprune.pipelines.evaluation import Evaluation, run_of
from streamprune.pipelines.evaluation_contenders import (
    BASELINES,
    FEWER_FRAMES,
    KEY,
    LOWER_RESOLUTION,
    Contender,
    read_contenders,
)
from streamprune.pipelines.evaluation_outcome import Outcome, Unwritten
from streamprune.pipelines.evaluation_screen import Looks
from streamprune.pipelines.evaluation_set import QuestionSet
from streamprune.pipelines.evaluation_source import UpToNow
from streamprune.pipelines.evaluation_summary import summary
from streamprune.pipelines.journal import Journal
from streamprune.pipelines.offline import VideoLLM, load
from streamprune.pre_llm.stride import Stride
from streamprune.readers import Source, VideoInfo, open_source
from streamprune.registry import register_method, unregister_method
from tests.models.small_qwen import save_small_qwen

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Arrays(QuestionSet):
    """Questions about videos in memory, by name."""

    videos: Mapping[str, Frames] = field(default_factory=dict)
    fps: float = 2.0
    opened: list[str] = field(default_factory=list)

    def open(self, item: Item) -> Source:
        """The array, or the file of that name, which there is not."""
        self.opened.append(item.video.name)
        found = self.videos.get(item.video.name)
        return open_source(item.video if found is None else found, fps=None if found is None else self.fps)


def made_set(questions: int = 3, videos: Sequence[str] = ("a", "b"), **more: Any) -> Arrays:
    """So many questions about each of some noisy videos of eight frames."""
    random = np.random.default_rng(5)
    arrays = {name: random.integers(0, 256, (8, 64, 96, 3), np.uint8) for name in videos}
    items = [
        Item(id=f"{name}{number}", video=Path(name), question=f"what color {number} ?", answer="red")
        for name in videos
        for number in range(questions)
    ]
    return Arrays("made", items, True, 4, videos=arrays, **more)


def evaluate(
    vlm: VideoLLM, questions: QuestionSet, *recipes: str, ratio: float = 0.3, **more: Any
) -> Outcome:
    contenders = [Contender.full(), *read_contenders(recipes, [ratio])]
    return Evaluation(vlm, questions, contenders, Looks(8)).run(Unwritten(KEY))


@pytest.fixture(scope="module")
def embedded() -> VideoLLM:
    return load("embedded")


# four scenes of one clip, which begin after so many frames
SCENES: Clip = clip(7008, 16, "eval", 10, focus={"count": 1e6})
STOPS = (4, 7, 13, 16)


def scene_questions(*, streaming: bool = True) -> Arrays:
    """How many scenes there are, asked at the end of each: in a second's time there will be more."""
    (text,) = (question.text for question in SCENES.questions if question.type == "count")
    items = [
        Item(
            id=f"at {stop}",
            video=Path("scenes"),
            question=text,
            answer=NUMBERS[number],
            end_seconds=stop / SCENES.fps,
            streaming=streaming,
        )
        for number, stop in enumerate(STOPS)
    ]
    return Arrays("stream", items, True, 8, videos={"scenes": SCENES.frames}, fps=SCENES.fps)


def test_a_question_in_a_stream_sees_nothing_later(
    embedded: VideoLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[float] = []
    see = UpToNow._see

    def noted(self: UpToNow, pts_seconds: float) -> None:
        shown.append(pts_seconds)
        see(self, pts_seconds)

    monkeypatch.setattr(UpToNow, "_see", noted)
    contenders = [Contender.full()]
    outcome = Evaluation(embedded, scene_questions(), contenders, Looks(16)).run(Unwritten(KEY))
    said = [line["text"] for line in outcome.lines.values()]
    assert said == ["one", "two", "three", "four"], "the answer changes with what is shown later"
    times = [frame / SCENES.fps for stop in STOPS for frame in range(stop)]
    assert shown == times
    assert [line["frames"] for line in outcome.lines.values()] == list(STOPS)


@dataclass(frozen=True, kw_only=True)
class Ahead(FrameMethod):
    """Looks at the whole video, whatever it is told."""

    num_frames: int = 4

    def times(self, info: VideoInfo, keyframes: Sequence[float] | None = None) -> list[float]:
        assert info.duration_seconds is not None
        return [float(time) for time in np.linspace(0, info.duration_seconds, self.num_frames)]


@pytest.fixture
def looking_ahead() -> Iterator[str]:
    register_method(Ahead, "ahead_for_tests", stage="frames")
    yield "ahead_for_tests"
    unregister_method("ahead_for_tests", stage="frames")


def test_looking_ahead_stops_the_run(vlm: VideoLLM, looking_ahead: str) -> None:
    recipe = f"frames:{looking_ahead}+stride"
    with pytest.raises(RecipeError, match=r"frame at 2\.5 s was chosen for a question at 2 s"):
        evaluate(vlm, scene_questions(), recipe)
    # the same questions about a video that is there as a whole may be answered from all of it
    assert evaluate(vlm, scene_questions(streaming=False), recipe).unread == []


def test_nothing_later_comes_out_of_a_source() -> None:
    frames = np.zeros((8, 16, 16, 3), np.uint8)
    with UpToNow(open_source(frames, fps=2), 2.0) as source:
        assert [frame.pts_seconds for frame in source.read(0, 2.0)] == [0, 0.5, 1, 1.5]
        assert [frame.pts_seconds for frame in source.sample([0.2, 2.0])] == [0, 2]
        assert source.latest_seconds == 2
        assert source.keyframes() == [0, 0.5, 1, 1.5, 2]
        with pytest.raises(RecipeError, match=r"frame at 2\.5 s"):
            list(source)
        with pytest.raises(RecipeError, match=r"frame at 3\.5 s"):
            source.sample([9.0])
    with pytest.raises(OSError, match="is closed"):
        source.sample([0.0])


def test_a_video_is_encoded_once_for_all_that_see_the_same(
    vlm: VideoLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[tuple[str, int]] = []

    def counted(family: Any, source: Any, frames: Any, *args: Any, **more: Any) -> Any:
        encoded.append((source.info.source, frames.num_frames))
        return encode_video(family, source, frames, *args, **more)

    monkeypatch.setattr(evaluation_screen, "encode_video", counted)
    questions = made_set(videos=["a", "b"])
    outcome = evaluate(vlm, questions, "fastervlm", "divprune", "stride", "fastv")
    # as the full model sees it, and of the baseline with fewer frames; saliency came along at once
    assert [frames for _, frames in encoded] == [8, 2, 8, 2]
    assert questions.opened == ["a", "b"]
    # random, pool and fewer frames at 38 tokens, and all four at the 32 of a method that rounds every frame
    assert outcome.asked == len(outcome.lines) == 6 * (5 + 3 + 4)


@pytest.fixture(scope="module")
def small_qwen(tmp_path_factory: pytest.TempPathFactory) -> VideoLLM:
    return load(save_small_qwen(tmp_path_factory.mktemp("qwen"), "qwen2_5_vl"))


@pytest.mark.parametrize("ratio", [0.5, 0.3, 0.1])
@pytest.mark.parametrize("family", ["llava", "qwen"])
def test_baselines_have_as_many_tokens(
    vlm: VideoLLM, small_qwen: VideoLLM, family: str, ratio: float
) -> None:
    model = vlm if family == "llava" else small_qwen
    outcome = evaluate(model, made_set(1, ["a"]), "divprune", ratio=ratio)
    lines = {line["contender"]: line for line in outcome.lines.values()}
    kept, whole = lines["divprune"]["tokens_kept"], lines["full"]["tokens_in"]
    a_frame = whole // lines["full"]["frames"]
    assert abs(kept - whole * ratio) <= 1
    assert set(lines) - {"full", "divprune"} == set(BASELINES) - set(outcome.notes)
    for name in set(BASELINES) - set(outcome.notes):
        assert abs(lines[name]["tokens_kept"] - kept) <= a_frame, name
    for name in ("random", "stride"):
        assert lines[name]["tokens_kept"] == lines["divprune"]["equal_tokens"] == int(whole * ratio)
    fewer = lines[FEWER_FRAMES]
    assert fewer["frames"] < lines["full"]["frames"]
    assert fewer["tokens_in"] == fewer["tokens_kept"] == fewer["frames"] * a_frame
    if family == "llava":
        assert "one size (28 x 28 pixels)" in outcome.notes[LOWER_RESOLUTION]
    else:
        lower = lines[LOWER_RESOLUTION]
        assert lower["frames"] == lines["full"]["frames"]
        assert lower["tokens_in"] == lower["tokens_kept"] < whole


def test_what_drops_tokens_later_stands_beside_its_share(vlm: VideoLLM) -> None:
    outcome = evaluate(vlm, made_set(1, ["a"]), "fastv", ratio=0.25)
    lines = {line["contender"]: line for line in outcome.lines.values()}
    assert lines["fastv"]["tokens_kept"] == lines["full"]["tokens_in"] == 128
    assert lines["fastv"]["evidence_recall"] is None
    assert lines["stride"]["tokens_kept"] == lines["fastv"]["equal_tokens"] == 32
    assert lines["stride"]["prefill_flops"] < lines["fastv"]["prefill_flops"] < lines["full"]["prefill_flops"]


class StoppedError(Exception):
    """As good as a kill, for what is not in this process any more."""


class Stopping(Journal):
    """A journal whose process ends after so many lines."""

    after, kill = 7, False

    def add(self, row: Mapping[str, Any]) -> None:
        super().add(row)
        type(self).after -= 1
        if self.after == 0:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise StoppedError


def write_answers(vlm: VideoLLM, path: Path, kind: type[Journal] = Journal) -> Outcome:
    questions = made_set()
    contenders = [Contender.full(), *read_contenders(["divprune", "stride"], [0.3])]
    evaluation = Evaluation(vlm, questions, contenders, Looks(8))
    run = run_of(vlm.family, questions, evaluation.looks)
    with kind.open(path, run=run, key=KEY) as journal:
        return evaluation.run(journal)


def _killed(folder: str, path: str) -> None:
    torch.set_num_threads(1)
    Stopping.after, Stopping.kill = 11, True
    write_answers(load(folder), Path(path), Stopping)


@pytest.mark.parametrize("kill", [False, True])
def test_what_was_stopped_goes_on(vlm: VideoLLM, small_folder: Path, tmp_path: Path, kill: bool) -> None:
    undisturbed = write_answers(vlm, tmp_path / "whole.jsonl")
    path = tmp_path / "stopped.jsonl"
    if kill:
        process = multiprocessing.get_context("fork").Process(
            target=_killed, args=(str(small_folder), str(path))
        )
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    else:
        Stopping.after, Stopping.kill = 11, False
        with pytest.raises(StoppedError):
            write_answers(vlm, path, Stopping)
    begun = path.read_text().splitlines()
    assert len(begun) == 11
    resumed = write_answers(vlm, path)
    assert resumed.asked == undisturbed.asked - 11
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert set(begun) <= set(path.read_text().splitlines())
    again = write_answers(vlm, path)
    assert (again.asked, again.overhead_share) == (0, None)


def test_another_recipe_goes_into_the_same_file_and_other_settings_do_not(
    vlm: VideoLLM, tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    first = write_answers(vlm, path)
    questions = made_set()
    contenders = [Contender.full(), *read_contenders(["divprune", "stride", "pre_llm:dycoke"], [0.3])]
    run = run_of(vlm.family, questions, Looks(8))
    with Journal.open(path, run=run, key=KEY) as journal:
        more = Evaluation(vlm, questions, contenders, Looks(8)).run(journal)
    assert more.lines.keys() > first.lines.keys()
    assert {line["contender"] for key, line in more.lines.items() if key not in first.lines} >= {
        "pre_llm:dycoke"
    }
    others = [run_of(vlm.family, questions, Looks(7)), run_of(vlm.family, made_set(2), Looks(8))]
    for other in others:
        with pytest.raises(InvalidValueError, match="was written by another run"):
            Journal.open(path, run=other, key=KEY)


def test_a_video_that_cannot_be_read_is_passed_over(vlm: VideoLLM) -> None:
    questions = made_set(2, ["a", "b"])
    lost = [Item(id=f"l{n}", video=Path("lost.mp4"), question="what ?", answer="red") for n in range(2)]
    late = Item(id="late", video=Path("a"), question="what ?", answer="red", start_seconds=900.0)
    asked = Arrays("made", [lost[0], *questions.items, lost[1], late], True, 4, videos=questions.videos)
    outcome = evaluate(vlm, asked, "stride")
    assert [(one.video, one.ids) for one in outcome.unread] == [("lost.mp4", ("l0", "l1")), ("a", ("late",))]
    assert "lost.mp4" in outcome.unread[0].reason
    record = summary(outcome)
    assert record["questions"] == record["full"]["count"] == 4
    assert [one["questions"] for one in record["unread"]] == [2, 1]


def test_what_does_not_fit_the_model_is_refused_and_not_fatal(bare_vlm: VideoLLM, tmp_path: Path) -> None:
    short = tmp_path / "short.toml"
    short.write_text('keep_ratio = 0.1\n[pre_llm]\nmethod = "stride"\n[positions]\nrule = "renumber"\n')
    record = summary(evaluate(bare_vlm, made_set(1, ["a"]), str(short)))
    assert record["full"]["answered"] == 0
    assert "64" in record["full"]["refused_first"]
    (row, *_) = record["rows"]
    assert (row["recipe"], row["answered"], row["keep_ratio"]) == (str(short), 1, 0.1)
    # nobody knows what the whole model would have said
    assert "loyalty" not in row


def test_what_cannot_run_is_said_before_anything_is_asked(bare_vlm: VideoLLM) -> None:
    with pytest.raises(SignalError, match="saliency"):
        evaluate(bare_vlm, made_set(1), "fastvid")
    register_method(type("Named", (Stride,), {}), "full")
    try:
        with pytest.raises(RecipeError, match="must not be called 'full'"):
            read_contenders(["full"], [0.1])
    finally:
        unregister_method("full")
    with pytest.raises(InvalidValueError, match=r"keep_ratio must be in \(0, 1\]"):
        read_contenders(["stride"], [1.5])
    item = Item(id="a", video=Path("a"), question="?")
    with pytest.raises(InvalidValueError, match="the id 'a' is there twice"):
        QuestionSet("own", [item, item])


def test_a_limit_takes_the_same_questions_from_everywhere() -> None:
    questions = made_set(5, ["a", "b"])
    assert [item.id for item in questions.first(4)] == ["a0", "a2", "b0", "b2"]
    assert questions.first(99) is questions.items
    assert questions.digest == made_set(5, ["a", "b"]).digest != made_set(4).digest
