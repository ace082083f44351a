"""Recipes by name: parts of one method together, one part alone, several methods joined."""

from __future__ import annotations

import pytest

from streamprune.errors import RecipeError, UnknownNameError
from streamprune.recipe import Choice, Recipe


def _stages(name: str) -> dict[str, str]:
    return {stage: choice.method for stage, choice in Recipe.named(name).stages.items()}


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("fastvid", {"pre_llm": "fastvid"}),
        ("holitom", {"pre_llm": "holitom", "in_llm": "holitom"}),
        ("tome", {"pre_llm": "tome"}),
        ("encoder:tome", {"encoder": "tome"}),
        ("stc", {"pre_llm": "stc"}),
        ("stc+encoder:stc", {"encoder": "stc", "pre_llm": "stc"}),
        ("dycoke", {"pre_llm": "dycoke", "in_llm": "dycoke"}),
        ("lvlm_csp", {"pre_llm": "lvlm_csp"}),
        ("metok", {"pre_llm": "metok", "in_llm": "metok"}),
        ("kv:metok+stride", {"pre_llm": "stride", "kv": "metok"}),
        ("in_llm:lvlm_csp", {"in_llm": "lvlm_csp"}),
        ("in_llm:holitom", {"in_llm": "holitom"}),
        ("earlytom", {"encoder": "earlytom"}),
        ("frames:fastvid", {"frames": "fastvid"}),
        ("snapkv + fastvid+fastv", {"pre_llm": "fastvid", "in_llm": "fastv", "kv": "snapkv"}),
        ("kivi", {"kv": "kivi"}),
        ("snapkv+fastvid+kivi", {"pre_llm": "fastvid", "kv": "snapkv+kivi"}),
        ("frames:uniform+encoder:tome+stride", {"frames": "uniform", "encoder": "tome", "pre_llm": "stride"}),
    ],
)
def test_a_name_stands_for_its_stages_in_their_order(name: str, stages: dict[str, str]) -> None:
    assert _stages(name) == stages
    assert list(_stages(name)) == list(stages)
    assert Recipe.named(name).name == name


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("fastvidd", UnknownNameError, "unknown recipe 'fastvidd'. Did you mean 'fastvid'"),
        ("fastvid+fastw", UnknownNameError, "unknown recipe 'fastw'. Did you mean 'fastv'"),
        ("fastvid+", UnknownNameError, "unknown recipe ''"),
        ("prellm:fastvid", UnknownNameError, "unknown stage 'prellm'. Did you mean 'pre_llm'"),
        ("in_llm:fastvid", UnknownNameError, "unknown in_llm method 'fastvid'"),
        (
            "fastvid+holitom",
            RecipeError,
            "'fastvid' and 'holitom' both have a stage pre_llm",
        ),
        ("snapkv+kivi+h2o", RecipeError, r"'snapkv\+kivi' and 'h2o' both have a stage kv"),
        ("kivi+kivi", RecipeError, "'kivi' and 'kivi' both have a stage kv"),
    ],
)
def test_what_is_wrong_with_a_name_is_said(name: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        Recipe.named(name)


def test_keeping_everything_keeps_it_in_every_part() -> None:
    recipe = Recipe.named("holitom")
    assert recipe.with_budget(0.25).build("in_llm") == recipe.build("in_llm")
    assert recipe.with_budget(1.0).build("in_llm").keep_ratio == 1.0
    own = Recipe("mine", {"pre_llm": Choice("stride"), "in_llm": Choice("fastv", {"keep_ratio": 0.5})})
    assert own.with_budget(1.0).build("in_llm").keep_ratio == 0.5


@pytest.mark.parametrize(
    ("name", "takes"),
    [
        ("stride", True),
        ("fastv", True),
        ("snapkv", True),
        ("snapkv+kivi", True),
        ("kivi", False),
        ("mustafar+kivi", False),
        ("uniform", False),
    ],
)
def test_a_budget_means_nothing_to_stores_alone(name: str, takes: bool) -> None:
    assert Recipe.named(name).takes_budget is takes
