"""A stream that goes on and on: what it holds, what the process holds, and how far back it knows."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamprune.embedded.evaluate.recorded import Recorded
from streamprune.embedded.evaluate.stream_questions import needle_stream
from streamprune.models import made
from streamprune.pipelines.live import LiveStream
from streamprune.pipelines.live_options import StreamOptions

DEMOS = Path(__file__).resolve().parents[1] / "demos"
FRAMES, EVERY, BYTES, ROUND = 3000, 250, 1_000_000, 32


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(DEMOS))
    return importlib.import_module("stream_soak")


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """A language model of one layer behind a tower that shows the same frames again and again."""
    monkeypatch.setitem(made.LLM_SIZES, "tiny", made.LLMSize(1, 32, 2, 1, 64))
    return Recorded(made.made_family("tiny", device="cpu"), needle_stream(0, ROUND), ROUND)


def test_three_thousand_frames_stay_within_the_budget(demo: Any, recorded: Recorded) -> None:
    blank = np.zeros((96, 96, 3), np.uint8)

    def show(number: int) -> Any:
        recorded.number = number % ROUND
        return blank

    options = StreamOptions.read(
        None, "tiered", BYTES, gate=False, context_tokens=108, answer_tokens=32, frame_size=(96, 96)
    )
    told: list[str] = []
    with LiveStream(recorded.family, options) as live:
        moments = demo.soak(live, show, FRAMES, EVERY, asks=1, tell=told.append)
    assert [one.frames for one in moments] == list(range(EVERY, FRAMES + 1, EVERY))
    assert demo.faults(moments, BYTES) == []
    found = demo.figures(moments)
    assert found["full_at_frame"] < 2 * FRAMES / 3
    assert found["most_held_bytes"] > 0.6 * BYTES
    # pages that are merged two by two cover the whole past
    assert moments[-1].remembers_from_seconds == 0
    assert told[-1].startswith("  3,000 frames: ")
    assert demo.record(moments, "tiered", BYTES)["moments"][0]["frames"] == EVERY


def test_what_is_wrong_is_named(demo: Any) -> None:
    def moment(frames: int, resident_mib: int, held: int, counted: int, ask_ms: float) -> Any:
        return demo.Moment(frames, resident_mib * 2**20, {"recent": held, "mid": 0}, counted, ask_ms, 0.0)

    well = [moment(number * 1000, 500, 95, 95, 2.0) for number in range(1, 101)]
    assert demo.faults(well, 100) == []
    assert demo.figures(well)["compared_frames"] == [5000, 50000]
    wrong = [*well[:49], moment(50_000, 531, 101, 95, 2.4), *well[50:]]
    assert demo.faults(wrong, 100) == [
        "frame 50000: 101 bytes held of 100",
        "frame 50000: the ledger has 101 bytes, tensors 95",
        "the process grew by 31.0 MiB",
    ]
    assert demo.record(wrong, "tiered", 100)["faults"] == demo.faults(wrong, 100)
