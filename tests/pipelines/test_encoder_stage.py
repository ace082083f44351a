"""Recipes with a method inside the vision tower."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import streamprune as sp
from streamprune import errors
from streamprune.embedded.world import Clip, clip
from streamprune.pipelines.encoding import EncodedVideo
from streamprune.pipelines.offline import VideoLLM
from streamprune.recipe import Choice, Recipe
from streamprune.registry import list_methods, unregister_method

QUESTION = "what colour is the circle ?"

# settings that leave most of the tower's work in place
MILD: dict[str, Mapping[str, Any]] = {
    "tome": {"removed": 8},
    "ppt": {"removed": 16},
    "gtp_vit": {},
    "atc": {},
    "saint": {"similarity_threshold": 0.9},
    "stc": {},
    "flowcut": {"final_share": 0.75},
    "zero_tprune": {"layer_keep_share": 0.9},
    "token_transforming": {"layer_keep_share": 0.9},
    "earlytom": {"similarity_threshold": 0.9},
}


@pytest.fixture(scope="module")
def embedded() -> VideoLLM:
    return sp.load("embedded")


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [clip(seed, 8, split="eval", questions=8) for seed in (9_000, 9_003)]


@pytest.fixture(scope="module")
def video() -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(1).integers(0, 256, (10, 36, 44, 3), dtype=np.uint8)


def inside(name: str, **options: Any) -> Recipe:
    """A recipe of one encoder method."""
    return Recipe(stages={"encoder": Choice(name, options)})


@pytest.mark.parametrize("name", [info.name for info in list_methods("encoder")])
def test_most_answers_stay_right_at_a_mild_setting(embedded: VideoLLM, clips: list[Clip], name: str) -> None:
    right, asked = 0, 0
    for one in clips:
        questions = [question.text for question in one.questions]
        answers = embedded.ask(
            one.frames, questions, recipe=inside(name, **MILD[name]), num_frames=8, max_new_tokens=8
        )
        assert all(0.5 < answer.stats.tower_share < 1 for answer in answers) or name == "earlytom"
        assert answers[0].stats.tokens_kept == 8 * 36
        right += sum(a.text == q.answer for a, q in zip(answers, one.questions, strict=True))
        asked += len(questions)
    # all 16 are right without a method
    assert right >= 0.75 * asked


def test_a_recipe_in_toml(vlm: VideoLLM, video: Any, tmp_path: Path) -> None:
    text = 'name = "thin"\nkeep_ratio = 0.5\n[encoder]\nmethod = "tome"\nremoved = [9]\n'
    text += '[pre_llm]\nmethod = "stride"\n'
    path = tmp_path / "thin.toml"
    path.write_text(text)
    recipe = Recipe.from_file(path)
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    answer = vlm.ask(video, QUESTION, recipe=path, num_frames=4)
    assert answer.recipe == "thin"
    assert answer.stats.tower_share == pytest.approx((49 + 40) / 98)
    assert (answer.stats.tokens_in, answer.stats.tokens_kept) == (64, 32)
    assert answer.to_dict()["stats"]["tower_share"] == answer.stats.tower_share
    assert vlm.ask(video, QUESTION, num_frames=4).stats.tower_share == 1


def test_a_method_that_does_nothing_says_what_the_plain_tower_says(vlm: VideoLLM, video: Any) -> None:
    plain = vlm.ask(video, QUESTION, max_new_tokens=12)
    same = vlm.ask(video, QUESTION, recipe=inside("tome", removed=0), max_new_tokens=12)
    assert same.text == plain.text
    assert same.stats.tower_share == 1


def test_encoding_once_and_asking_later(vlm: VideoLLM, video: Any) -> None:
    recipe = inside("tome", removed=12)
    encoded = vlm.encode(video, recipe=recipe)
    assert encoded.encoder == recipe.build("encoder")
    assert encoded.tower_share < 1
    direct = vlm.ask(video, QUESTION, recipe=recipe, max_new_tokens=12)
    for later in (None, recipe, inside("tome", removed=12, inflection=0.0)):
        assert vlm.ask(encoded, QUESTION, recipe=later, max_new_tokens=12).text == direct.text
    for other in (inside("tome"), inside("saint")):
        with pytest.raises(errors.InvalidValueError, match=r"asks for .*encode it again with this recipe"):
            vlm.ask(encoded, QUESTION, recipe=other)
    with pytest.raises(errors.InvalidValueError, match="was encoded with None"):
        vlm.ask(vlm.encode(video), QUESTION, recipe=recipe)


def test_signals_of_the_pooling_head_work_beside_it(vlm: VideoLLM, video: Any) -> None:
    recipe = Recipe(
        stages={"encoder": Choice("tome"), "pre_llm": Choice("fastvid")}, budget=sp.Budget(keep_ratio=0.5)
    )
    assert vlm.ask(video, QUESTION, recipe=recipe).stats.tower_share < 1


def test_signals_from_inside_the_tower_are_refused_before_decoding(vlm: VideoLLM) -> None:
    recipe = Recipe(
        stages={"encoder": Choice("tome"), "pre_llm": Choice("visionzip")}, budget=sp.Budget(keep_ratio=0.5)
    )
    with pytest.raises(errors.SignalError, match="is read inside the vision tower"):
        vlm.ask([], QUESTION, recipe=recipe)


def test_late_signals_come_from_the_same_tower(vlm: VideoLLM, video: Any) -> None:
    encoded: EncodedVideo = vlm.encode(video, recipe=inside("tome", removed=12))
    late = encoded.tokens.signal("encoder_features", (10, 4, 4, None))
    plain = vlm.encode(video).tokens.signal("encoder_features", (10, 4, 4, None))
    assert not torch.equal(late, plain)
    with pytest.raises(errors.SignalError, match="leave out the encoder stage"):
        encoded.tokens.signal("received_attention", (10, 4, 4))


def test_frames_merge_within_a_batch_only(vlm: VideoLLM) -> None:
    still = np.full((10, 30, 30, 3), 128, dtype=np.uint8)
    recipe = inside("earlytom", layers=[0], similarity_threshold=-1.0, max_segment=20, as_released=True)
    share = {
        batch: vlm.encode(still, recipe=recipe, num_frames=10, frames_per_batch=batch).tower_share
        for batch in (10, 3, 1)
    }
    assert share[10] < share[3] == share[1] == 1


@pytest.mark.parametrize("options", [{"interval": 4}, {"choose": "pixels"}], ids=["keys", "pixels"])
def test_frames_are_remembered_from_batch_to_batch_and_never_from_video_to_video(
    vlm: VideoLLM, options: dict[str, Any]
) -> None:
    still = np.random.default_rng(2).integers(0, 256, (1, 30, 30, 3), dtype=np.uint8).repeat(10, 0)
    still[5:, :8, :8] ^= 255
    recipe = inside("stc", **options)
    shown = [vlm.encode(still, recipe=recipe, num_frames=10, frames_per_batch=batch) for batch in (10, 3, 1)]
    for one in shown:
        assert one.tower_share == shown[0].tower_share < 0.6
        assert torch.equal(one.tokens.features, shown[0].tokens.features)
    if options == {"choose": "pixels"}:
        assert vlm.encode(still[:5], recipe=recipe, num_frames=5).tower_share == pytest.approx(1 / 5)
    late = shown[0].tokens.signal("encoder_features", (10, 4, 4, None))
    assert torch.equal(late, shown[1].tokens.signal("encoder_features", (10, 4, 4, None)))
    with pytest.raises(errors.SignalError, match="is read inside the vision tower"):
        vlm.encode(still, recipe=recipe, signals=["received_attention"])


def test_bad_options_are_found_before_anything_is_read(vlm: VideoLLM) -> None:
    with pytest.raises(errors.InvalidValueError, match="removed must be at least 0"):
        vlm.ask("no-such-file.mp4", QUESTION, recipe=inside("tome", removed=-1))
    with pytest.raises(errors.InvalidValueError, match="layers must be below 2"):
        vlm.ask("no-such-file.mp4", QUESTION, recipe=inside("tome", layers=[7]))
    with pytest.raises(errors.UnknownNameError, match="unknown encoder method 'tomes'"):
        vlm.ask("no-such-file.mp4", QUESTION, recipe=inside("tomes"))


def test_a_budget_needs_a_method_that_carries_it_out(vlm: VideoLLM, video: Any) -> None:
    with pytest.raises(errors.RecipeError, match="keep_ratio and keep_tokens are for the pre_llm stage"):
        vlm.ask(video, QUESTION, recipe=inside("tome"), keep_ratio=0.5)


@dataclass(frozen=True)
class Foreign:
    """Not an encoder method."""


def test_a_method_of_the_users_must_be_one(vlm: VideoLLM, video: Any) -> None:
    sp.register_method(Foreign, "foreign", stage="encoder")
    try:
        with pytest.raises(errors.InvalidTypeError, match="'foreign' must be a subclass of"):
            vlm.ask(video, QUESTION, recipe=inside("foreign"))
    finally:
        unregister_method("foreign", stage="encoder")
