"""DyCoke's choice at every step of decoding, and that upper layers attend to just what was chosen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from streamprune.errors import InvalidTypeError, InvalidValueError
from streamprune.in_llm.base import InLLMMethod
from streamprune.in_llm.dycoke import DyCokeInner
from streamprune.in_llm.steps import StepDecision, StepMethod, StepView
from streamprune.models.attach import attach
from tests.in_llm.small_decoder import GRID, locate, masked, padded, prompt, small_decoder
from tests.in_llm.views import made_view

implementations = pytest.mark.parametrize("implementation", ["sdpa", "eager"])


def step_view(scores: list[float], carried: Any = None) -> StepView:
    """Two heads, two rows of text, the visual tokens, the new token."""
    row = torch.tensor([0.1, 0.1, *scores, 0.2])
    return StepView(torch.stack([row * 0.5, row * 1.5]), torch.arange(2, 2 + len(scores)), carried)


def test_the_best_of_the_first_step() -> None:
    decision = DyCokeInner(keep_tokens=2).step(step_view([0.1, 0.3, 0.2, 0.3]))
    assert decision.chosen is not None
    assert decision.chosen.tolist() == [1, 3]
    released = DyCokeInner().step(step_view([0.1] * 7 + [0.2] * 3))
    assert released.chosen is not None
    assert released.chosen.tolist() == [7, 8, 9]


def test_a_step_like_the_last_attends_to_everything_as_released() -> None:
    method, paper = DyCokeInner(keep_tokens=1), DyCokeInner(keep_tokens=1, as_released=False)
    first = method.step(step_view([0.1, 0.5, 0.1]))
    alike = method.step(step_view([0.1, 0.5, 0.12], first.carried))
    assert alike.chosen is None
    same = paper.step(step_view([0.1, 0.5, 0.12], first.carried))
    assert same.chosen is not None
    assert same.chosen.tolist() == [1]
    other = method.step(step_view([0.5, 0.1, 0.1], alike.carried))
    assert other.chosen is not None
    assert other.chosen.tolist() == [0]
    assert method.step(step_view([0.1, 0.5], first.carried)).chosen is not None, "another video"


def test_the_gate() -> None:
    first = DyCokeInner(keep_tokens=1).step(step_view([0.1, 0.5]))
    assert DyCokeInner(keep_tokens=1, gate=-1).step(step_view([0.5, 0.1], first.carried)).chosen is None
    assert DyCokeInner(keep_tokens=1, gate=1).step(step_view([0.1, 0.4], first.carried)).chosen is not None


@dataclass(frozen=True, kw_only=True)
class Recorded(DyCokeInner):
    """Says afterwards which entries were left out, one list a step and prompt."""

    gone: list[torch.Tensor] = field(default_factory=list)

    def step(self, view: StepView) -> StepDecision:
        decision = super().step(view)
        stays = torch.ones(len(view.visual), dtype=torch.bool)
        if decision.chosen is not None:
            stays[:] = False
            stays[decision.chosen] = True
        self.gone.append(view.visual[~stays])
        return decision


def fed(model: Any, batch: dict[str, torch.Tensor], turns: list[list[list[int]]], **each: Any) -> list[Any]:
    """Last logits of the prompts and of what follows, in calls of a cache."""
    mask = batch["attention_mask"]
    logits = []
    with torch.no_grad():
        out = model(**batch)
        logits.append(out.logits[:, -1])
        for number, turn in enumerate(turns):
            ids = torch.tensor(turn)
            mask = torch.cat([mask, torch.ones_like(ids)], 1)
            places = (mask.cumsum(1) - 1)[:, -ids.shape[1] :]
            with each["around"](number):
                out = model(
                    ids, attention_mask=mask, position_ids=places, past_key_values=out.past_key_values
                )
            logits.append(out.logits[:, -1])
    return logits


class Nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...


@implementations
@pytest.mark.parametrize("count", [1, 2])
def test_choosing_equals_masking_step_by_step(implementation: str, count: int) -> None:
    model = small_decoder(implementation)
    prompts = [prompt(seed=1), prompt(before=2, after=4, seed=2)][:count]
    batch = padded(*prompts)
    turns = [[[5], [6]], [[7], [8]], [[9, 4], [3, 9]], [[6], [7]]]
    turns = [turn[:count] for turn in turns]
    method = Recorded(layer=2, keep_ratio=0.25, gate=0.97)
    with attach(model, method, locate):
        got = fed(model, batch, turns, around=lambda number: Nothing())
    # the turn of two rows asks nothing
    assert len(method.gone) == 3 * count
    assert len({tuple(gone.tolist()) for gone in method.gone}) > count
    asked = [method.gone[:count], method.gone[count : 2 * count], None, method.gone[2 * count :]]

    def around(number: int) -> Any:
        gone = asked[number]
        return Nothing() if gone is None else masked(model, [[(2, rows)] for rows in gone])

    for mine, theirs in zip(got, fed(model, batch, turns, around=around), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


def test_the_cache_keeps_everything() -> None:
    model, ids = small_decoder(), prompt()
    with attach(model, DyCokeInner(layer=1, keep_tokens=3), locate) as counted:
        out = model.generate(ids, max_new_tokens=5, do_sample=False, return_dict_in_generate=True)
    assert {layer.keys.shape[2] for layer in out.past_key_values.layers} == {ids.shape[1] + 4}
    assert counted.tokens(ids.shape[1]) is None


@implementations
def test_a_batch_decodes_like_its_prompts_alone(implementation: str) -> None:
    model = small_decoder(implementation)
    prompts = prompt(seed=5), prompt(before=2, after=4, seed=6)
    with attach(model, DyCokeInner(layer=1, keep_ratio=0.2), locate):
        both = model.generate(**padded(*prompts), max_new_tokens=6, do_sample=False)
        alone = [model.generate(ids, max_new_tokens=6, do_sample=False) for ids in prompts]
    for together, single in zip(both, alone, strict=True):
        assert torch.equal(together[-6:], single[0, -6:])


def test_a_cropped_cache_forgets_visual_tokens_that_are_gone() -> None:
    model, ids = small_decoder(), prompt()
    method = Recorded(layer=1, keep_tokens=2)
    with attach(model, method, locate), torch.no_grad():
        cache = model(ids).past_key_values
        cache.crop(-20)
        model(torch.tensor([[5]]), past_key_values=cache)
    assert method.gone[0].max() < ids.shape[1] - 20
    assert len(method.gone[0]) == ids.shape[1] - 20 - 5 - 2


class Wrong(DyCokeInner):
    def step(self, view: StepView) -> StepDecision:
        return view  # type: ignore[return-value]


def test_what_is_refused() -> None:
    model, ids = small_decoder(), prompt()
    with (
        attach(model, Wrong(layer=1), locate),
        pytest.raises(InvalidTypeError, match="return a StepDecision"),
    ):
        model.generate(ids, max_new_tokens=2)
    with attach(model, DyCokeInner(layer=1), locate), torch.no_grad():
        cache = model(ids).past_key_values
        with pytest.raises(InvalidValueError, match=r"attention_mask must be None or \(batch, 36\)"):
            model(torch.tensor([[5]]), past_key_values=cache, attention_mask=torch.zeros(1, 40))
    with pytest.raises(InvalidValueError, match="gate must be in"):
        DyCokeInner(gate=2)


def test_the_prompt_goes_up_whole() -> None:
    method: InLLMMethod = DyCokeInner(keep_tokens=1)
    assert isinstance(method, StepMethod)
    view = made_view(grid=GRID)
    assert method.decide(view).kept.tolist() == list(range(view.rows))
