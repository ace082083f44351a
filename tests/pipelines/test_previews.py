"""Frames chosen by what is in the video, end to end: candidates are described, the chosen ones looked at."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from streamprune.errors import InvalidTypeError, InvalidValueError, SourceFormatError, UnknownNameError
from streamprune.frames import Timestamps
from streamprune.frames.content import ContentMethod, Previews, RelevanceMethod
from streamprune.frames.fastvid import FastVIDFrames
from streamprune.frames.metok import METokFrames
from streamprune.frames.quota import Quota
from streamprune.frames.scene import Scene
from streamprune.models.question_signals import with_question
from streamprune.pipelines import encoding
from streamprune.pipelines.offline import VideoLLM
from streamprune.pipelines.previews import FirstLook
from streamprune.pipelines.stopwatch import Stopwatch
from streamprune.readers import Frame, Source, open_source
from streamprune.recipe import Choice, Recipe
from streamprune.registry import list_methods

QUESTION = "what colour is the circle ?"
OTHER = "where is the big red square moving ?"
Video = NDArray[np.uint8]
CONTENT = [row.name for row in list_methods("frames") if issubclass(row.load(), ContentMethod)]
BY_QUESTION = [row.name for row in list_methods("frames") if issubclass(row.load(), RelevanceMethod)]


@pytest.fixture(scope="module")
def video() -> Video:
    """20 frames, one a second, in three scenes of 3, 10 and 7."""
    rng = np.random.default_rng(1)
    scenes = rng.integers(30, 226, (3, 36, 44, 3)).repeat([3, 10, 7], axis=0)
    noisy: Video = np.clip(scenes + rng.integers(-25, 26, scenes.shape), 0, 255).astype(np.uint8)
    return noisy


@pytest.fixture
def shown(vlm: VideoLLM, monkeypatch: pytest.MonkeyPatch) -> list[Video]:
    """Every picture that goes into the tower, in order."""
    pictures: list[Video] = []
    real = vlm.family.preprocess

    def watched(images: Sequence[Video], *settings: Any) -> torch.Tensor:
        pictures.extend(images)
        return real(images, *settings)

    monkeypatch.setattr(vlm.family, "preprocess", watched)
    return pictures


def described(vlm: VideoLLM, video: Video) -> Previews:
    """All that is known about every frame, encoded at once."""
    family = vlm.family
    encoded = family.encode(family.preprocess(list(video)), ["frame_features", "encoder_features"])
    tokens = encoded.tokens(family.signals(encoded.signals))
    attention = with_question(family, QUESTION, tokens, ["query_frame_attention"]).tokens.signals
    return Previews(
        times_seconds=range(len(video)),
        images=list(video),
        frame_features=encoded.signals["frame_features"].numpy(),
        mean_features=encoded.features.mean((1, 2)).numpy(),
        token_features=encoded.features.flatten(1, 2).numpy(),
        encoder_features=encoded.signals["encoder_features"].flatten(1, 2).numpy(),
        relevance=attention["query_frame_attention"].numpy(),
    )


@pytest.mark.parametrize("name", CONTENT)
def test_the_chosen_frames_are_looked_at(vlm: VideoLLM, video: Video, name: str, shown: list[Video]) -> None:
    row = next(row for row in list_methods("frames") if row.name == name)
    method = row.load()(num_frames=5, preview_fps=1, max_previews=20)
    expected = method.choose(described(vlm, video))
    shown.clear()
    answer = vlm.ask(video, QUESTION, frames=method, max_new_tokens=1)
    assert answer.pts_seconds == tuple(expected)
    assert (answer.stats.frames, len(expected)) == (5, 5)
    # decoded once more, exactly, after the candidates that had to be encoded
    np.testing.assert_array_equal(np.stack(shown[-5:]), video[expected])
    assert len(shown) == 5 + (0 if name == "scene" else 20)


@pytest.mark.parametrize("name", CONTENT)
def test_by_name_in_the_call_and_in_a_recipe(vlm: VideoLLM, video: Video, name: str) -> None:
    by_call = vlm.ask(video, QUESTION, frames=name, num_frames=4, max_new_tokens=1)
    recipe = Recipe(stages={"frames": Choice(name, {"num_frames": 4})})
    by_recipe = vlm.ask(video, QUESTION, recipe=recipe, max_new_tokens=1)
    assert by_call.pts_seconds == by_recipe.pts_seconds
    assert len(by_call.pts_seconds) == 4


def test_number_and_window_of_the_call_replace_those_of_a_method(vlm: VideoLLM, video: Video) -> None:
    def times(frames: Any, **settings: Any) -> tuple[float, ...]:
        return vlm.encode(video, frames=frames, signals=[], **settings).pts_seconds

    assert len(times("scene")) == vlm.family.default_num_frames == 16
    assert len(times(Scene(num_frames=7))) == 7
    assert len(times(Scene(num_frames=7), num_frames=3)) == 3
    assert len(times("scene", num_frames=99)) == 20
    inside = times(Scene(num_frames=9, start_seconds=2), start_seconds=5, end_seconds=11)
    assert inside == (5, 6, 7, 8, 9, 10)


def preferring(wanted: dict[str, list[int]], video: Video, seen: list[str]) -> Callable[..., list[float]]:
    """A scorer that wants certain frames for each question."""

    def scorer(question: str, images: Sequence[Video]) -> list[float]:
        seen.append(question)
        np.testing.assert_array_equal(np.stack(list(images)), video)
        return [float(number in wanted[question]) for number in range(len(images))]

    return scorer


@pytest.mark.parametrize("name", BY_QUESTION)
def test_a_scorer_sees_question_and_full_pictures_and_decides(
    vlm: VideoLLM, video: Video, name: str, shown: list[Video]
) -> None:
    seen: list[str] = []
    scorer = preferring({QUESTION: [4, 15], OTHER: [0, 8]}, video, seen)
    only_these = {"fill": False, "relevance_threshold": 0.5, "similarity_threshold": 1}
    every: dict[str, dict[str, Any]] = {
        "vilamp": only_these,
        "metok": {"key_share": 1, "num_key_events": 2},
        "quota": {},
    }
    method = next(row for row in list_methods("frames") if row.name == name).load()(
        scorer=scorer, num_frames=2, **every[name]
    )
    first, second = vlm.ask(video, [QUESTION, OTHER], frames=method, max_new_tokens=1)
    assert seen == [QUESTION, OTHER]
    assert first.pts_seconds == (4, 15)
    assert second.pts_seconds == (0, 8)
    assert vlm.ask(video, OTHER, frames=method, max_new_tokens=1).text == second.text
    assert first.stats.reduce_flops == 0


def test_a_scorer_can_be_named_in_a_recipe(vlm: VideoLLM, video: Video) -> None:
    scorer = preferring({QUESTION: [1, 19]}, video, [])
    recipe = Recipe(stages={"frames": Choice("quota", {"scorer": scorer})})
    assert vlm.ask(video, QUESTION, recipe=recipe, max_new_tokens=1).pts_seconds == (1, 19)


@pytest.mark.parametrize(
    ("returned", "error", "words"),
    [
        ([1.0] * 3, InvalidValueError, r"one number per picture \(20\), got 3"),
        (None, InvalidTypeError, "one number per picture, got None"),
        (0.5, InvalidTypeError, "one number per picture, got 0.5"),
        (["high"] * 20, InvalidTypeError, "one number per picture"),
        (np.ones((20, 2)), InvalidTypeError, "one number per picture"),
        ([float("nan")] * 20, InvalidValueError, "finite"),
        ([-1.0] * 20, InvalidValueError, "0 or more for quota, got -1"),
    ],
)
def test_what_a_scorer_may_not_return(
    vlm: VideoLLM, video: Video, returned: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        vlm.ask(video, QUESTION, frames=Quota(scorer=lambda question, images: returned))


def test_a_scorer_may_return_a_tensor_or_a_generator(vlm: VideoLLM, video: Video) -> None:
    scorers: list[Any] = [
        lambda question, images: torch.arange(len(images)),
        lambda question, images: (number for number in range(len(images))),
    ]
    for scorer in scorers:
        method = Quota(scorer=scorer, num_frames=3)
        assert vlm.ask(video, QUESTION, frames=method, max_new_tokens=1).pts_seconds == (17, 18, 19)


def test_an_error_in_the_scorer_is_the_users(vlm: VideoLLM, video: Video) -> None:
    def broken(question: str, images: Sequence[Video]) -> list[float]:
        raise KeyError("clip")

    with pytest.raises(KeyError, match="clip"):
        vlm.ask(video, QUESTION, frames=Quota(scorer=broken))


def test_several_questions_share_frames_that_no_question_chose(
    vlm: VideoLLM, video: Video, shown: list[Video]
) -> None:
    answers = vlm.ask(video, [QUESTION, OTHER], frames="fastvid", num_frames=4, max_new_tokens=1)
    assert answers[0].pts_seconds == answers[1].pts_seconds
    assert len(shown) == 20 + 4


def test_what_choosing_takes_is_counted(vlm: VideoLLM, video: Video) -> None:
    plain = vlm.ask(video, QUESTION, num_frames=4, max_new_tokens=1).stats
    chosen = vlm.ask(video, QUESTION, frames="vilamp", num_frames=4, max_new_tokens=1).stats
    assert plain.choose_ms == plain.reduce_flops == 0
    assert chosen.choose_ms > 0
    # the prompt about all 20 candidates is longer than the one about the chosen ones
    assert chosen.reduce_flops > chosen.prefill_flops == plain.prefill_flops
    assert vlm.ask(video, QUESTION, frames="scene", num_frames=4, max_new_tokens=1).stats.choose_ms > 0


def test_what_can_be_read_only_once_is_refused(vlm: VideoLLM, video: Video) -> None:
    for name in CONTENT:
        with pytest.raises(InvalidValueError, match=r"looks at a video twice.*read only once.*use fps="):
            vlm.ask(iter(list(video)), QUESTION, frames=name)


@pytest.mark.parametrize("name", BY_QUESTION)
def test_encoding_needs_the_question_to_choose_by(vlm: VideoLLM, video: Video, name: str) -> None:
    with pytest.raises(InvalidValueError, match=r"by the question: give encode\(\) one with question="):
        vlm.encode(video, frames=name)
    encoded = vlm.encode(video, frames=name, num_frames=3, question=QUESTION)
    asked = vlm.ask(video, QUESTION, frames=name, num_frames=3, max_new_tokens=4)
    assert encoded.pts_seconds == asked.pts_seconds
    assert vlm.ask(encoded, QUESTION, max_new_tokens=4).text == asked.text
    with pytest.raises(InvalidValueError, match="question must not be empty"):
        vlm.encode(video, frames=name, question=" ")


def test_frames_that_cannot_be_meant(vlm: VideoLLM, video: Video) -> None:
    cases: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
        ("scene", {"fps": 2}, InvalidValueError, r"frames='scene' and fps=2 both say where to look"),
        (Scene(), {"fps": 2}, InvalidValueError, "both say where to look"),
        ("sceen", {}, UnknownNameError, "Did you mean 'scene'"),
        (8, {}, InvalidTypeError, "num_frames= says how many"),
        ("scene", {"num_frames": 0}, InvalidValueError, "num_frames"),
        (Timestamps(times_seconds=[1]), {"num_frames": 2}, InvalidValueError, "takes no number of frames"),
    ]
    for frames, settings, error, words in cases:
        with pytest.raises(error, match=words):
            vlm.ask(video, QUESTION, frames=frames, **settings)
    with pytest.raises(InvalidValueError, match=r"frames, num_frames, .* cannot be given with an Encoded"):
        vlm.ask(vlm.encode(video, num_frames=2), QUESTION, frames="scene")


@pytest.mark.parametrize("frames", ["scene", "fastvid", Quota(scorer=lambda _, images: [1.0] * len(images))])
def test_candidates_are_let_go(
    vlm: VideoLLM, video: Video, frames: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoding holds 4 pictures at a time here; of those described before, none may be left at full size."""
    whole = vlm.encode(video, frames=frames, num_frames=5, question=QUESTION, signals=[]).pts_seconds
    held: weakref.WeakSet[Frame] = weakref.WeakSet()
    most = 0
    real = Source.sample

    def counted(source: Source, times: Any, **settings: Any) -> list[Frame]:
        nonlocal most
        most = max(most, len(held))
        found = real(source, times, **settings)
        for frame in found:
            held.add(frame)
        return found

    monkeypatch.setattr(Source, "sample", counted)
    monkeypatch.setattr(encoding, "_MAX_HELD_BYTES", 4 * video[0].nbytes)
    assert vlm.encode(video, frames=frames, num_frames=5, question=QUESTION, signals=[]).pts_seconds == whole
    assert 0 < most <= 4


def test_without_a_pooling_head_mean_tokens_stand_in(bare_vlm: VideoLLM, video: Video) -> None:
    method = FastVIDFrames(num_frames=3, num_segments=3, similarity_threshold=-1)
    features = bare_vlm.family.encode(bare_vlm.family.preprocess(list(video))).features.mean((1, 2)).numpy()
    expected = method.choose(Previews(times_seconds=range(20), frame_features=features))
    assert bare_vlm.ask(video, "what", frames=method, max_new_tokens=1).pts_seconds == tuple(expected)


def test_a_model_reads_about_more_candidates_than_fit(bare_vlm: VideoLLM, video: Video) -> None:
    """20 candidates of 16 tokens and 64 tokens of context: some of each are read."""
    answer = bare_vlm.ask(video, "what", frames=METokFrames(num_frames=2), max_new_tokens=1)
    assert len(answer.pts_seconds) == 2


def test_a_video_without_a_picture(vlm: VideoLLM, video: Video) -> None:
    def nothing(times: Sequence[float]) -> Iterator[list[Frame]]:
        yield []

    look = FirstLook(vlm.family, nothing, lambda frames, signals: iter(()), Stopwatch(torch.device("cpu")))
    with open_source(video) as source, pytest.raises(SourceFormatError, match="none of the frames"):
        look.choose(source, Scene(), None)
