"""What cannot be meant is refused before anything is loaded or decoded."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from streamprune.errors import (
    InvalidTypeError,
    InvalidValueError,
    RecipeError,
    StreampruneError,
    UnknownNameError,
    UsageError,
)
from streamprune.frames import Fps, FrameMethod, Keyframes, Scene, Uniform
from streamprune.pipelines.frame_request import FrameRequest
from streamprune.pipelines.request import AnswerRequest, read_questions, read_recipe
from streamprune.positions import Positions
from streamprune.readers import VideoInfo
from streamprune.recipe import Recipe
from streamprune.registry import register_method, unregister_method

KEEP_ALL = Recipe.resolve(None)
NAN = float("nan")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, Uniform(num_frames=16)),
        ({"num_frames": 4}, Uniform(num_frames=4)),
        ({"frames": "scene"}, Scene(num_frames=16)),
        ({"frames": "scene", "num_frames": 4, "end_seconds": 2}, Scene(num_frames=4, end_seconds=2)),
        ({"frames": Scene(threshold=0.1)}, Scene(threshold=0.1)),
        ({"frames": Scene(threshold=0.1), "num_frames": 3}, Scene(threshold=0.1, num_frames=3)),
        ({"frames": "keyframes", "num_frames": 3}, Keyframes(max_frames=3)),
        ({"frames": "keyframes"}, Keyframes()),
        ({"fps": 2}, Fps(fps=2)),
        ({"fps": 0.5, "num_frames": 9}, Fps(fps=0.5, max_frames=9)),
        ({"start_seconds": 3, "end_seconds": 5.5}, Uniform(num_frames=16, start_seconds=3, end_seconds=5.5)),
    ],
)
def test_shorthands_become_frame_methods(arguments: dict[str, Any], expected: object) -> None:
    assert FrameRequest(KEEP_ALL, **arguments).method(16) == expected


def test_the_recipes_frames_are_used_unless_the_call_says_otherwise() -> None:
    recipe = Recipe.from_toml('[frames]\nmethod = "keyframes"\nmax_frames = 3')
    assert FrameRequest(recipe).method(16) == Keyframes(max_frames=3)
    assert FrameRequest(recipe, end_seconds=9).method(16) == Keyframes(max_frames=3, end_seconds=9)
    assert FrameRequest(recipe, num_frames=5).method(16) == Uniform(num_frames=5)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_frames": 0},
        {"num_frames": -3},
        {"num_frames": NAN},
        {"num_frames": 2.5},
        {"num_frames": True},
        {"fps": 0},
        {"fps": -1},
        {"fps": NAN},
        {"fps": "fast"},
        {"start_seconds": -1},
        {"start_seconds": NAN},
        {"start_seconds": 5, "end_seconds": 5},
        {"end_seconds": float("inf")},
    ],
)
def test_frames_that_cannot_be_meant(arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"num_frames|fps|max_frames|_seconds"):
        FrameRequest(KEEP_ALL, **arguments)


def test_a_frames_stage_without_what_it_needs_is_a_recipe_error() -> None:
    with pytest.raises(StreampruneError, match="fps"):
        FrameRequest(Recipe.from_toml('[frames]\nmethod = "fps"'))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("",), InvalidValueError, "question must not be empty"),
        (("what?", " "), InvalidValueError, "question must not be empty"),
        ((3,), InvalidTypeError, "question must be text"),
    ],
)
def test_questions(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        AnswerRequest(arguments, KEEP_ALL)


@pytest.mark.parametrize(
    ("question", "error"), [([], InvalidValueError), (None, InvalidTypeError), (["a", 5], InvalidTypeError)]
)
def test_what_is_no_question_at_all(question: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="question must"):
        read_questions(question)


def test_one_question_and_several() -> None:
    assert read_questions("why?") == ("why?",)
    assert read_questions(["why?", "who?"]) == ("why?", "who?")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"max_new_tokens": 0}, InvalidValueError, "max_new_tokens must be at least 1"),
        ({"max_new_tokens": 2.0}, InvalidTypeError, "max_new_tokens must be an integer"),
        ({"max_new_tokens": True}, InvalidTypeError, "max_new_tokens must be an integer"),
        ({"positions": "kept"}, UnknownNameError, "Did you mean 'keep'"),
    ],
)
def test_answer_settings(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        AnswerRequest(("why?",), KEEP_ALL, **settings)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("fastvit",), UnknownNameError, "Did you mean 'fastvid'"),
        ((7,), InvalidTypeError, "recipe must be"),
        (("missing.toml",), RecipeError, "missing.toml"),
        (("random", 0), InvalidValueError, "keep_ratio must be in"),
        (("random", 1.5), InvalidValueError, "keep_ratio must be in"),
        (("random", NAN), InvalidValueError, "keep_ratio must be in"),
        (("random", "abc"), InvalidTypeError, "keep_ratio must be a number"),
        (("random", 0.5, 7), InvalidValueError, "keep_ratio or keep_tokens, not both"),
        (("random", None, 0), InvalidValueError, "keep_tokens must be"),
        ((None, 0.5), InvalidValueError, "need a method that chooses"),
        ((None, None, 40), InvalidValueError, "need a method that chooses"),
    ],
)
def test_recipes_and_budgets(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read_recipe(*arguments)


def test_a_stage_that_ask_does_not_carry_out_is_refused() -> None:
    from streamprune.recipe import Choice

    with pytest.raises(
        RecipeError, match=r"'tiered' is a memory of streams.* open_stream\(memory='tiered'\)"
    ):
        read_recipe(Recipe("mine", {"memory": Choice("tiered")}))


def test_options_without_a_method_are_refused() -> None:
    request = AnswerRequest(("why?",), Recipe("empty"), {"seed": 3})
    with pytest.raises(RecipeError, match=r"options \['seed'\] belong to no method"):
        request.method()


def test_a_budget_that_no_stage_would_spend_is_refused() -> None:
    for recipe in ("earlytom", "scene"):
        request = AnswerRequest(("why?",), Recipe.named(recipe).with_budget(0.5))
        with pytest.raises(
            RecipeError, match=f"for the pre_llm stage, which the recipe '{recipe}' does not have"
        ):
            request.method()


def test_a_method_of_one_stage_is_a_recipe() -> None:
    assert set(Recipe.named("earlytom").stages) == {"encoder"}
    assert set(Recipe.named("tome").stages) == {"pre_llm"}, "in two stages: the one with a budget"
    assert FrameRequest(Recipe.named("uniform")).method(16) == Uniform(num_frames=16)
    assert FrameRequest(Recipe.named("uniform"), num_frames=5).method(16) == Uniform(num_frames=5)
    with pytest.raises(UnknownNameError, match=r"unknown recipe 'earlytome'. Did you mean 'earlytom'"):
        Recipe.named("earlytome")


def test_a_budget_among_the_options_is_refused() -> None:
    request = AnswerRequest(("why?",), Recipe.named("random"), {"budget": 3})
    with pytest.raises(RecipeError, match="give keep_ratio or keep_tokens"):
        request.method()


def test_recipes_are_values() -> None:
    recipe = Recipe.from_toml('keep_tokens = 9\n[pre_llm]\nmethod = "random"\nseed = 3')
    assert pickle.loads(pickle.dumps(recipe)) == copy.deepcopy(recipe) == recipe
    by_name: Any = {"pre_llm": "random"}
    assert Recipe("random", by_name) == Recipe.named("random")
    odd: Any = {"pre_llm": 3}
    with pytest.raises(InvalidTypeError, match="must be a Choice or a method's name, got 3"):
        Recipe("odd", odd)
    data: Any = b"name = 'mine'"
    with pytest.raises(InvalidTypeError, match="must be TOML text, got bytes"):
        Recipe.from_toml(data)


def test_a_recipe_says_where_tokens_stand() -> None:
    recipe = Recipe.from_toml('[positions]\nrule = "clipped"\nmax_gap = 3\n[pre_llm]\nmethod = "stride"')
    assert Recipe.from_toml(recipe.to_toml()) == recipe == pickle.loads(pickle.dumps(recipe))
    assert AnswerRequest(("why?",), recipe).placing() == Positions("clipped", 3)
    assert AnswerRequest(("why?",), recipe, positions="keep").placing() == Positions()
    last = Recipe.from_toml('[positions]\ntext_after = "max"')
    assert Recipe.from_toml(last.to_toml()) == last != Recipe.from_toml("")
    with pytest.raises(UnknownNameError, match=r"unknown positions option 'gap'. Did you mean 'max_gap'"):
        Recipe.from_toml("[positions]\ngap = 3")
    with pytest.raises(InvalidTypeError, match="positions must be one of"):
        Recipe.from_toml("positions = 3")


def test_needs_no_torch() -> None:
    program = (
        "import sys\nfrom streamprune.pipelines.frame_request import FrameRequest\n"
        "from streamprune.pipelines.request import read_recipe\n"
        "FrameRequest(read_recipe('fastvid', 0.1), num_frames=4)\n"
        "print([m for m in ('torch', 'transformers', 'av', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_recipe_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('keep_ratio = 0.25\n[pre_llm]\nmethod = "random"\nseed = 3')
    assert read_recipe(path).budget.keep_ratio == 0.25
    assert read_recipe(str(path), keep_tokens=9).budget.keep_tokens == 9


def test_a_frames_method_of_ones_own() -> None:
    @dataclass(frozen=True, kw_only=True)
    class LastSecond(FrameMethod):
        def times(self, info: VideoInfo, keyframes: Sequence[float] | None = None) -> list[float]:
            start, end = self.window(info)
            return [max(start, (end or start) - 1)]

    class NoMethod:
        pass

    register_method(LastSecond, "last_second", stage="frames")
    register_method(NoMethod, "no_method", stage="frames")
    try:
        assert FrameRequest(KEEP_ALL, frames="last_second").method(16) == LastSecond()
        assert FrameRequest(KEEP_ALL, frames=LastSecond(), end_seconds=3).method(16) == LastSecond(
            end_seconds=3
        )
        with pytest.raises(InvalidTypeError, match=r"'no_method' must be a subclass .*FrameMethod"):
            FrameRequest(KEEP_ALL, frames="no_method")
        with pytest.raises(InvalidValueError, match="LastSecond takes no number of frames"):
            FrameRequest(KEEP_ALL, frames="last_second", num_frames=2)
    finally:
        unregister_method("last_second", stage="frames")
        unregister_method("no_method", stage="frames")
