"""The door: names, objects, a user's own class, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

import streamprune as sp
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.pre_llm.stride import Stride
from streamprune.reduce import choose_reducer, reduce_tokens, run_reducer
from streamprune.reduction import Reduction
from streamprune.tokens import VisualTokens

FEATURES = torch.randn(4, 3, 3, 5, generator=torch.Generator().manual_seed(2))


@dataclass(frozen=True, kw_only=True)
class Brightest(PreLLMMethod):
    """Keep the tokens with the largest mean."""

    flip: bool = False

    needs: ClassVar[tuple[str, ...]] = ()

    def reduce(self, tokens: VisualTokens) -> Reduction:
        score = tokens.features.float().mean(-1)
        best = (-score if self.flip else score).topk(self.budget.tokens(len(tokens))).indices
        return Reduction.select(tokens, best)


class FirstTwo:
    """The least a reducer can be."""

    def __repr__(self) -> str:
        return "FirstTwo()"

    def reduce(self, tokens: VisualTokens) -> Reduction:
        return Reduction.select(tokens, torch.tensor([1, 0]))


def test_the_public_name_is_this_function() -> None:
    assert sp.reduce_tokens is reduce_tokens


def test_an_object_of_the_users_own() -> None:
    assert reduce_tokens(FEATURES, FirstTwo()).index.tolist() == [0, 1]
    reduction = reduce_tokens(FEATURES, Brightest(budget=sp.Budget(keep_ratio=0.25)))
    assert set(reduction.index.tolist()) == set(FEATURES.mean(-1).flatten().topk(9).indices.tolist())


def test_a_registered_class_is_a_name_like_any_other() -> None:
    info = sp.register_method(Brightest, "brightest")
    try:
        assert info in sp.list_methods("pre_llm")
        by_name = reduce_tokens(FEATURES, "brightest", keep_tokens=9, flip=True)
        assert set(by_name.index.tolist()) == set((-FEATURES.mean(-1)).flatten().topk(9).indices.tolist())
        with pytest.raises(ValueError, match=r"unknown option of brightest 'flipp'. Did you mean 'flip'"):
            reduce_tokens(FEATURES, "brightest", keep_tokens=9, flipp=True)
    finally:
        sp.unregister_method("brightest")
    with pytest.raises(ValueError, match="unknown pre_llm method 'brightest'"):
        reduce_tokens(FEATURES, "brightest", keep_tokens=9)


def test_a_registered_class_may_take_no_budget() -> None:
    sp.register_method(FirstTwo, "first_two")
    try:
        assert reduce_tokens(FEATURES, "first_two").index.tolist() == [0, 1]
        with pytest.raises(ValueError, match=r"'first_two' takes no budget"):
            reduce_tokens(FEATURES, "first_two", keep_ratio=0.5)
        with pytest.raises(TypeError, match=r"'first_two' cannot be made from its options.*'flip'"):
            reduce_tokens(FEATURES, "first_two", flip=True)
    finally:
        sp.unregister_method("first_two")


def test_a_budget_that_keeps_everything_never_reaches_the_method() -> None:
    class Loud(Stride):
        def reduce(self, tokens: VisualTokens) -> Reduction:
            raise AssertionError("asked for nothing")

    assert reduce_tokens(FEATURES, Loud()).is_identity
    assert reduce_tokens(FEATURES, Loud(budget=sp.Budget(keep_tokens=36))).is_identity


@pytest.mark.parametrize(
    ("method", "arguments", "error", "said"),
    [
        ("fastvidd", {}, ValueError, "unknown pre_llm method 'fastvidd'. Did you mean 'fastvid'"),
        ("", {}, ValueError, "unknown pre_llm method"),
        (Stride, {}, TypeError, "make an instance of it first"),
        (None, {}, TypeError, "name or an object with reduce"),
        (3, {}, TypeError, "name or an object with reduce"),
        (FirstTwo(), {"keep_ratio": 0.5}, ValueError, "brings its own budget"),
        (Stride(), {"seed": 1}, ValueError, "brings its own budget and options"),
        ("stride", {"budget": sp.Budget(keep_ratio=0.5)}, ValueError, "budget is not an option"),
        ("random", {"keep_ratio": 0.5, "sed": 1}, ValueError, "Did you mean 'seed'"),
    ],
    ids=str,
)
def test_refused(method: Any, arguments: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        reduce_tokens(FEATURES, method, **arguments)


def test_only_reductions_are_answers() -> None:
    class Wrong:
        def reduce(self, tokens: VisualTokens) -> Any:
            return tokens.features[:3]

    with pytest.raises(TypeError, match=r"Wrong.reduce must return a Reduction .* got Tensor"):
        run_reducer(Wrong(), VisualTokens.from_grid(FEATURES))


def test_sums_that_overflow_are_not_taken_for_infinite_features() -> None:
    features = torch.full((2, 2, 2, 2), 3e38)
    assert len(reduce_tokens(features, "stride", keep_ratio=0.5)) == 4
    assert len(reduce_tokens(features.double() * 1e50, "stride", keep_ratio=0.5)) == 4


def test_choosing_needs_no_features() -> None:
    assert choose_reducer("stride", keep_ratio=0.5) == Stride(budget=sp.Budget(keep_ratio=0.5))
