"""Scores of frames by the attention they receive, against the full matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from streamprune.errors import UnknownNameError, UsageError
from streamprune.frames import mobile_videogpt
from streamprune.frames.mobile_videogpt import MobileVideoGPT, frame_scores
from tests.frames.random_previews import previews

Values = NDArray[np.float64]


def choose(features: Values, **options: Any) -> list[int]:
    return MobileVideoGPT(**options).choose(previews(encoder_features=features))


def attended(features: Values) -> Values:
    """(frames,) from the full attention matrix, entry by entry."""
    frames, tokens, channels = features.shape
    flat = features.reshape(-1, channels)
    matrix = np.exp(flat @ flat.T / channels**0.5)
    matrix /= matrix.sum(1)[:, None]
    return np.array([matrix[:, frame * tokens : (frame + 1) * tokens].sum() for frame in range(frames)])


def test_scores_are_columns_of_the_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for rows in (512, 7):
        monkeypatch.setattr(mobile_videogpt, "_QUERY_ROWS", rows)
        for shape in ((8, 9, 6), (1, 5, 4), (3, 1, 2)):
            features = rng.normal(size=shape)
            scores = frame_scores(features)
            np.testing.assert_allclose(scores, attended(features), rtol=1e-12)
            assert scores.sum() == pytest.approx(shape[0] * shape[1])


def test_large_products_do_not_overflow() -> None:
    features = 1e4 * np.random.default_rng(1).normal(size=(3, 2, 5))
    assert frame_scores(features).sum() == pytest.approx(6)


def test_long_tokens_attract_attention() -> None:
    for a in (0.3, 1.0, -2.0):
        short, long = frame_scores(np.array([[[a]], [[2 * a]]]))
        assert long > short
    features = np.array([[[1.0]], [[2.0]]])
    assert choose(features, num_frames=1) == [1]
    assert choose(features, num_frames=1, take="lowest") == [0]
    # with the length divided out they are the same
    assert choose(features, num_frames=1, normalized=True) == [0]


def test_equal_frames_have_equal_scores_and_the_first_win() -> None:
    frame = np.random.default_rng(2).normal(size=(37, 61))
    features = np.tile(frame, (13, 1, 1))
    np.testing.assert_allclose(frame_scores(features), 37)
    for take in ("highest", "lowest"):
        for normalized in (False, True):
            options: dict[str, Any] = {"take": take, "normalized": normalized, "chunk_frames": 13}
            assert choose(features, num_frames=5, **options) == [0, 1, 2, 3, 4]


def test_the_best_of_every_chunk() -> None:
    features = np.random.default_rng(3).normal(size=(16, 4, 6))
    for take, sign in (("highest", -1), ("lowest", 1)):
        expected = []
        for start in (0, 8):
            order = np.argsort(sign * attended(features[start : start + 8]))[:4]
            expected += sorted((start + order).tolist())
        taken: Any = take
        assert choose(features, take=taken) == expected


def test_permuting_frames_permutes_the_choice() -> None:
    rng = np.random.default_rng(4)
    features = rng.normal(size=(8, 3, 5))
    order = rng.permutation(8)
    there = choose(features, num_frames=3)
    assert sorted(order[place] for place in choose(features[order], num_frames=3)) == there


def test_chunks_share_the_frames_as_their_lengths_allow() -> None:
    features = np.random.default_rng(5).normal(size=(18, 2, 4))
    chosen = choose(features, num_frames=11)
    assert [sum(start <= place < start + 8 for place in chosen) for start in (0, 8, 16)] == [5, 4, 2]
    assert len(choose(features, num_frames=2)) == 2
    assert len(choose(features, num_frames=17)) == 17


def test_the_released_settings_are_the_defaults() -> None:
    method = MobileVideoGPT()
    assert (method.max_previews, method.chunk_frames, method.num_frames) == (16, 8, 8)
    assert (method.take, method.normalized, method.preview_fps) == ("highest", False, None)


def test_options_are_checked() -> None:
    middle: Any = "middle"
    with pytest.raises(UnknownNameError, match=r"take.*highest"):
        MobileVideoGPT(take=middle)
    with pytest.raises(UsageError, match="chunk_frames"):
        MobileVideoGPT(chunk_frames=0)
    yes: Any = "yes"
    with pytest.raises(UsageError, match="normalized"):
        MobileVideoGPT(normalized=yes)
