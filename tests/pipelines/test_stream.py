"""Answers as they come: the pieces join to the answer, and nothing keeps running once nobody listens."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from streamprune.errors import DeviceError, InvalidValueError
from streamprune.pipelines.answers import Answer, AnswerStream
from streamprune.pipelines.offline import VideoLLM

QUESTION = "where is the red circle ?"
VIDEO = np.random.default_rng(2).integers(0, 256, (4, 28, 28, 3), dtype=np.uint8)
SETTINGS: dict[str, Any] = {"num_frames": 4, "recipe": "stride", "keep_ratio": 0.5}


def answering() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "streamprune-answer"]


def test_pieces_join_to_the_answer_that_ask_gives(vlm: VideoLLM) -> None:
    whole = vlm.ask(VIDEO, QUESTION, max_new_tokens=12, **SETTINGS)
    stream = vlm.ask(VIDEO, QUESTION, max_new_tokens=12, stream=True, **SETTINGS)
    with pytest.raises(InvalidValueError, match="only after the last piece"):
        _ = stream.answer
    pieces = list(stream)
    assert "".join(pieces) == whole.text == stream.answer.text
    assert len(pieces) > 3
    assert stream.answer.stats.tokens_kept == whole.stats.tokens_kept
    assert answering() == []
    assert list(stream) == []


def test_closing_early_stops_the_model_and_leaves_no_thread(vlm: VideoLLM) -> None:
    with vlm.ask(VIDEO, QUESTION, max_new_tokens=300, stream=True, **SETTINGS) as stream:
        first = next(stream)
        assert answering() == ["streamprune-answer"]
    assert answering() == []
    assert stream.answer.text.startswith(first)
    assert stream.answer.stats.new_tokens < 300
    assert list(stream) == []
    stream.close()


def test_a_dropped_stream_leaves_no_thread(vlm: VideoLLM) -> None:
    stream = vlm.ask(VIDEO, QUESTION, max_new_tokens=300, stream=True, **SETTINGS)
    next(stream)
    del stream
    gc.collect()
    assert answering() == []


def test_a_stream_nobody_reads_starts_nothing(vlm: VideoLLM) -> None:
    stream = vlm.ask(VIDEO, QUESTION, max_new_tokens=300, stream=True, **SETTINGS)
    assert answering() == []
    stream.close()
    assert list(stream) == []


def test_other_questions_can_be_asked_while_a_stream_waits(vlm: VideoLLM) -> None:
    alone = vlm.ask(VIDEO, "what is moving ?", max_new_tokens=8, **SETTINGS).text
    stream = vlm.ask(VIDEO, QUESTION, max_new_tokens=40, stream=True, **SETTINGS)
    first = next(stream)
    assert vlm.ask(VIDEO, "what is moving ?", max_new_tokens=8, **SETTINGS).text == alone
    assert "".join([first, *stream]) == vlm.ask(VIDEO, QUESTION, max_new_tokens=40, **SETTINGS).text


def test_errors_come_out_where_the_pieces_are_read(vlm: VideoLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_much(**inputs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    stream = vlm.ask(VIDEO, QUESTION, stream=True, **SETTINGS)
    monkeypatch.setattr(vlm.family.model, "generate", too_much)
    with pytest.raises(DeviceError, match="not enough GPU memory"):
        next(stream)
    assert answering() == []
    assert list(stream) == []


def test_several_questions_cannot_be_streamed(vlm: VideoLLM) -> None:
    with pytest.raises(InvalidValueError, match="stream=True takes one question"):
        vlm.ask(VIDEO, [QUESTION, QUESTION], stream=True)  # type: ignore[call-overload]


def test_a_program_may_end_while_an_answer_is_being_given(vlm: VideoLLM) -> None:
    program = (
        "import numpy as np, streamprune as sp\n"
        f"vlm = sp.load({vlm.family.checkpoint.name!r})\n"
        "stream = vlm.ask(np.zeros((1, 28, 28, 3), np.uint8), 'what ?', max_new_tokens=480, stream=True)\n"
        "print(next(stream) != '')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "True", "")


class Interrupted:
    """A queue whose reader is interrupted, as by Ctrl-C."""

    def __init__(self) -> None:
        self.put: Callable[[object], None] = lambda piece: None

    def get(self) -> None:
        raise KeyboardInterrupt


def test_ctrl_c_while_waiting_stops_the_work() -> None:
    ended = threading.Event()

    def work(say: Callable[[str], None], stop: threading.Event) -> Answer:
        stop.wait(timeout=30)
        ended.set()
        raise ValueError("nobody reads this")

    stream = AnswerStream(work)
    stream._exchange.pieces = Interrupted()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    assert ended.is_set()
    assert answering() == []
