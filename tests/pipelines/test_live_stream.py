"""A stream that has forgotten nothing answers as if it had been asked about the video."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import streamprune as sp
from streamprune import errors
from streamprune.embedded.world import Clip, clip
from streamprune.pipelines.live import LiveStream
from streamprune.pipelines.offline import VideoLLM

FRAMES = 8
BYTES = 24_000_000
MODELS = ("embedded", "embedded-qwen")
WHOLE: dict[str, Any] = {"memory": "rekv", "memory_bytes": BYTES, "gate": False}


@pytest.fixture(scope="module", params=MODELS)
def any_vlm(request: pytest.FixtureRequest) -> VideoLLM:
    return sp.load(request.param)


@pytest.fixture(scope="module")
def vlm() -> VideoLLM:
    return sp.load("embedded")


@pytest.fixture(scope="module")
def video() -> Clip:
    return clip(9_100, FRAMES, split="eval", questions=4)


def watch(vlm: VideoLLM, video: Clip, **settings: Any) -> LiveStream:
    live = vlm.open_stream(**{**WHOLE, **settings})
    for number, frame in enumerate(video.frames):
        assert live.push(frame, float(number)).accepted
    return live


def test_it_answers_as_about_the_video(any_vlm: VideoLLM, video: Clip) -> None:
    with watch(any_vlm, video, clip_frames=FRAMES) as live:
        for one in video.questions:
            asked = any_vlm.ask(video.frames, one.text, num_frames=FRAMES)
            answer = live.ask(one.text)
            assert answer.text == asked.text
            assert (answer.stats.frames, answer.stats.new_tokens) == (
                asked.stats.frames,
                asked.stats.new_tokens,
            )


def test_questions_leave_no_trace(vlm: VideoLLM, video: Clip) -> None:
    questions = [one.text for one in video.questions]
    with watch(vlm, video) as live:
        held = live.stats().held
        first = [live.ask(question).text for question in questions]
        again = [live.ask(question).text for question in reversed(questions)]
        assert first == again[::-1]
        assert len(set(first)) > 1
        assert live.stats().held == held
        assert live.stats().questions == 2 * len(questions)


def test_text_comes_in_pieces(vlm: VideoLLM, video: Clip) -> None:
    with watch(vlm, video) as live:
        whole = live.ask("describe what happens in the first scene", max_new_tokens=12)
        stream = live.ask("describe what happens in the first scene", max_new_tokens=12, stream=True)
        assert "".join(stream) == whole.text == stream.answer.text
        assert whole.stats.new_tokens > 2


def test_what_a_push_tells(vlm: VideoLLM, video: Clip) -> None:
    with vlm.open_stream("fastervlm", keep_tokens=9, **WHOLE) as live:
        pushed = live.push(video.frames[0])
        assert (pushed.accepted, pushed.reason, pushed.pts_seconds) == (True, "", 0.0)
        assert (pushed.tokens_in, pushed.tokens_kept, pushed.grid) == (36, 9, (6, 6))
        assert pushed.kept_cells is not None
        assert pushed.kept_cells.tolist() == sorted(set(pushed.kept_cells.tolist()))
        assert {"preprocess", "encode", "reduce", "read", "remember"} <= set(pushed.ms)
        stats = live.stats()
        assert (stats.tokens_in, stats.tokens_kept, stats.frames) == (36, 9, (1, 1, 0))
        assert stats.tiers["archive"].tokens == 9


def test_before_the_first_frame_and_after_the_last(vlm: VideoLLM, video: Clip) -> None:
    live = vlm.open_stream(**WHOLE)
    with pytest.raises(errors.InvalidValueError, match="nothing to ask about yet: push 1 frame at least"):
        live.ask("what colour is the circle?")
    live.push(video.frames[0])
    live.close()
    live.close()
    assert live.closed
    for late in (lambda: live.push(video.frames[0]), lambda: live.ask("what?"), live.reset):
        with pytest.raises(errors.StreamClosedError, match="closed; open another one"):
            late()
    assert sum(live.stats().held.values()) == 0


@pytest.mark.parametrize(
    ("frame", "seconds", "kind", "message"),
    [
        ("clip.mp4", None, errors.InvalidTypeError, "frame"),
        (np.zeros((8, 8, 3), np.float32), None, errors.InvalidTypeError, "must be uint8 RGB"),
        (np.zeros((8, 8), np.uint8), None, errors.InvalidValueError, "a grey picture"),
        (np.zeros((8, 8, 3), np.uint8), "now", errors.InvalidTypeError, "pts_seconds must be a number"),
        (np.zeros((8, 8, 3), np.uint8), float("nan"), errors.InvalidValueError, "must be finite"),
    ],
)
def test_what_is_no_frame(
    vlm: VideoLLM, frame: Any, seconds: Any, kind: type[Exception], message: str
) -> None:
    with vlm.open_stream(**WHOLE) as live, pytest.raises(kind, match=message):
        live.push(frame, seconds)
