"""Every family whose positions go on frame by frame can watch a stream; the others say why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamprune.errors import UnsupportedModelError
from streamprune.models.loading import load_model
from streamprune.pipelines.offline import VideoLLM
from tests.models.small_minicpm import save_small_minicpm
from tests.models.small_qwen import save_small_qwen
from tests.pipelines.stock_calls import NAMES, load_small
from tests.pipelines.test_live_budget import least_bytes

QUESTION = "where is the big square ?"
FRAMES = 4
# they write how many frames there are, which no stream can know
UNKNOWN_LENGTH = ("internvl", "smolvlm")
WHOLE: dict[str, Any] = {"memory_bytes": "64MB", "gate": False, "frame_bytes": 0, "clip_frames": FRAMES}


@pytest.fixture(scope="module", params=NAMES)
def vlm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VideoLLM:
    return VideoLLM(load_small(request.param, tmp_path_factory.mktemp(request.param)))


@pytest.fixture(scope="module")
def video() -> Any:
    return np.random.default_rng(8).integers(0, 256, (FRAMES, 30, 50, 3), dtype=np.uint8)


@pytest.mark.parametrize("memory", ["rekv", "timechat_online"])
def test_whole_streams_are_videos(vlm: VideoLLM, video: Any, memory: str) -> None:
    settings = {**WHOLE, "memory": memory}
    if memory == "timechat_online":
        settings["threshold"] = 1.0
    stock = vlm.ask(video, QUESTION, num_frames=FRAMES, max_new_tokens=5)
    with vlm.open_stream(**settings) as live:
        for frame in video:
            live.push(frame)
        answer = live.ask(QUESTION, max_new_tokens=5)
        assert live.ask(QUESTION, max_new_tokens=5).text == answer.text
        stats = live.stats()
    assert stats.tokens_in == stock.stats.tokens_in == stats.tokens_kept
    assert answer.stats.new_tokens == 5
    if vlm.family.model_type not in UNKNOWN_LENGTH:
        assert answer.text == stock.text


def test_streams_of_any_length_and_shape(vlm: VideoLLM, video: Any) -> None:
    """Frames of other sizes, one that is left over, and more of them than fit."""
    settings: dict[str, Any] = {"memory": "rekv", "frame_bytes": 0, "context_tokens": 60}
    nbytes = least_bytes(vlm, **settings) * 5 // 4
    with vlm.open_stream(memory_bytes=nbytes, **settings) as live:
        for number in range(11):
            image = np.random.default_rng(number).integers(0, 256, (30 + 4 * (number // 4), 50, 3), np.uint8)
            assert live.push(image).accepted
        assert live.ask(QUESTION, max_new_tokens=3).stats.new_tokens == 3
        stats = live.stats()
        assert stats.frames.accepted == 11
        assert stats.peak_bytes <= nbytes


@pytest.mark.parametrize(
    ("save", "name"),
    [(save_small_minicpm, "minicpmv4_6"), (lambda folder: save_small_qwen(folder, "qwen3_5"), "qwen3_5")],
)
def test_families_that_cannot(tmp_path: Path, save: Any, name: str) -> None:
    family = load_model(save(tmp_path))
    with pytest.raises(UnsupportedModelError, match=f"{name} models have layers that do not hold a key"):
        VideoLLM(family).open_stream(memory="rekv", memory_bytes="64MB")
