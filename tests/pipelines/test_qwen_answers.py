"""Questions to small Qwen-VL models, from pictures to text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamprune.errors import ContextLengthError, InvalidValueError
from streamprune.pipelines import encoding
from streamprune.pipelines.offline import VideoLLM, load
from tests.models.small_qwen import FAMILIES, save_small_qwen

QUESTION = "what colour is the circle ?"
SETTINGS: dict[str, Any] = {"num_frames": 11, "max_new_tokens": 5}


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_qwen(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def vlm(folder: Path) -> VideoLLM:
    return load(folder)


@pytest.fixture(scope="module")
def video() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (11, 36, 60, 3), dtype=np.uint8)


def test_keep_all_and_no_recipe_say_the_same(vlm: VideoLLM, video: np.ndarray) -> None:
    plain = vlm.ask(video, QUESTION, **SETTINGS)
    kept = vlm.ask(video, QUESTION, recipe="fastvid", keep_ratio=1.0, **SETTINGS)
    assert plain.text == kept.text
    assert plain.stats.frames == 6
    assert plain.stats.tokens_in == plain.stats.tokens_kept == kept.stats.tokens_kept
    assert plain.stats.new_tokens >= 3


def test_a_quarter_of_the_tokens(vlm: VideoLLM, video: np.ndarray) -> None:
    encoded = vlm.encode(video, num_frames=11)
    answer = vlm.ask(encoded, QUESTION, recipe="fastvid", keep_ratio=0.25, max_new_tokens=5)
    assert 0 < answer.stats.tokens_kept <= answer.stats.tokens_in // 4
    assert answer.text
    straight = vlm.ask(video, QUESTION, recipe="fastvid", keep_ratio=0.25, **SETTINGS)
    assert straight.text == answer.text
    assert straight.stats.tokens_kept == answer.stats.tokens_kept


@pytest.mark.parametrize("batch", [1, 3, 4, 64])
def test_batches_are_whole_slices(vlm: VideoLLM, video: np.ndarray, batch: int) -> None:
    expected = vlm.encode(video, num_frames=11, frames_per_batch=2, signals=())
    found = vlm.encode(video, num_frames=11, frames_per_batch=batch, signals=())
    assert found.tokens.grid == expected.tokens.grid
    assert (found.tokens.features - expected.tokens.features).abs().max() < 1e-5


def test_chunks_of_decoded_frames_do_not_break_slices(
    vlm: VideoLLM, video: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = vlm.encode(video, num_frames=11, signals=())
    monkeypatch.setattr(encoding, "_MAX_HELD_BYTES", 3 * video[0].nbytes)
    found = vlm.encode(video, num_frames=11, signals=())
    assert found.tokens.grid == expected.tokens.grid
    assert found.pts_seconds == expected.pts_seconds
    assert (found.tokens.features - expected.tokens.features).abs().max() < 1e-5


def test_times_are_those_of_slices(vlm: VideoLLM, video: np.ndarray) -> None:
    seconds = vlm.encode(video, num_frames=11, signals=()).pts_seconds
    assert len(seconds) == 6
    steps = np.diff(seconds)
    assert np.allclose(steps[:-1], steps[0])
    assert np.isclose(steps[-1], 0.75 * steps[0])  # the last slice holds one frame, a quarter slice earlier


def test_signals_that_are_asked_for_late_are_those_of_the_first_run(vlm: VideoLLM, video: np.ndarray) -> None:
    names = ("received_attention", "keys", "pixel_change")
    early = vlm.encode(video, num_frames=11, frames_per_batch=64, signals=names)
    late = vlm.encode(video, num_frames=11, frames_per_batch=4)
    for name in names:
        difference = late.tokens.signals[name] - early.tokens.signals[name]
        assert difference.abs().max() < 1e-5


@pytest.mark.parametrize("recipe", ["dytok", "cdpruner"])
def test_methods_that_read_the_question(vlm: VideoLLM, video: np.ndarray, recipe: str) -> None:
    answer = vlm.ask(video, QUESTION, recipe=recipe, keep_ratio=0.25, **SETTINGS)
    assert 0 < answer.stats.tokens_kept < answer.stats.tokens_in
    assert answer.text


def test_frames_are_chosen_one_by_one(vlm: VideoLLM, video: np.ndarray) -> None:
    encoded = vlm.encode(video, frames="vilamp", num_frames=4, question=QUESTION, signals=())
    assert encoded.tokens.grid.frames == 2


def test_a_picture_no_wider_than_a_thread_is_refused(vlm: VideoLLM) -> None:
    with pytest.raises(InvalidValueError, match="200 times longer"):
        vlm.ask(np.zeros((4, 2, 900, 3), np.uint8), QUESTION)


def test_more_tokens_than_the_context_fit_where_they_share_positions(
    tmp_path: Path, video: np.ndarray
) -> None:
    """90 tokens and more, of which 9 are kept: the full prompt would not fit, its positions do."""
    for model_type in ("qwen2_vl", "qwen2_5_vl"):
        vlm = load(save_small_qwen(tmp_path / model_type, model_type, context_tokens=64))
        settings: dict[str, Any] = {
            "recipe": "stride",
            "keep_tokens": 9,
            "num_frames": 11,
            "max_new_tokens": 3,
        }
        assert vlm.ask(video, QUESTION, **settings).stats.tokens_in >= 90
        with pytest.raises(ContextLengthError, match="more than the model's context of 64"):
            vlm.ask(video, QUESTION, num_frames=11)
