"""TransPrune's change and scores against numpy, by hand, and inside a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from streamprune.in_llm.base import Decision, PartCall, PromptView
from streamprune.in_llm.transprune import TransPrune, change
from streamprune.models.attach import attach
from tests.in_llm.small_decoder import locate, padded, prompt, small_decoder
from tests.in_llm.views import Array, made_view, numpy_attention, text_and

PARTS = [(1, "self_attn"), (1, "mlp"), (2, "self_attn")]


def numpy_change(entered: Array, left: Array, absolute: bool) -> Array:
    """Row by row."""
    turned, grown = [], []
    for before, after in zip(entered, left, strict=True):
        cosine = before @ after / np.linalg.norm(before) / np.linalg.norm(after)
        turned.append(np.exp(1 - (abs(cosine) if absolute else cosine)))
        grown.append(np.linalg.norm(after) / np.linalg.norm(before))
    changed: Array = np.array(turned) / sum(turned) * np.array(grown)
    return changed


def states(rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 12, generator=generator), torch.randn(rows, 12, generator=generator)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("absolute", [False, True])
def test_equals_numpy(seed: int, absolute: bool) -> None:
    view = made_view(tokens=26, seed=seed)
    method = TransPrune(layers=(2,), keep_tokens=9, absolute=absolute)
    seen, expected = {}, np.zeros(view.rows)
    for number, key in enumerate(PARTS):
        entered, left = states(view.rows, 10 * seed + number)
        seen[key] = method.watch(PartCall(*key, entered, left, view.visual))
        expected += numpy_change(entered.double().numpy(), left.double().numpy(), absolute)
    visual = view.visual.numpy()
    attention = numpy_attention(view.before)[:, visual[-1] + 1 :, visual].mean((0, 1))  # type: ignore[arg-type]
    scores = expected[visual] / expected[visual].sum() + attention / attention.sum()
    view = made_view(tokens=26, seed=seed, watched=seen)
    np.testing.assert_allclose(method.scores(view).numpy(), scores, atol=1e-6)
    assert float(method.scores(view).sum()) == pytest.approx(2)
    assert method.decide(view).kept.tolist() == text_and(view, np.argsort(-scores)[:9])


def test_change_by_hand() -> None:
    entered = torch.tensor([[1.0, 0.0], [2.0, 0.0], [1.0, 0.0]])
    left = torch.tensor([[3.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])
    e = np.e
    weights = np.array([1, e, e * e]) / (1 + e + e * e)
    np.testing.assert_allclose(change(entered, left, absolute=False).numpy(), weights * [3, 1, 1], atol=1e-6)
    weights = np.array([1, e, 1]) / (2 + e)
    np.testing.assert_allclose(change(entered, left, absolute=True).numpy(), weights * [3, 1, 1], atol=1e-6)


def test_a_row_of_zeros_counts_as_turned_by_a_right_angle() -> None:
    zero, one = torch.zeros(1, 3), torch.ones(1, 3)
    changed = change(torch.cat([zero, one, zero]), torch.cat([one, zero, zero]), absolute=False)
    assert changed.tolist() == [0.0, 0.0, 0.0]
    assert change(torch.cat([one, one]), torch.cat([one, zero]), absolute=False)[0] > 0


def test_published_stages() -> None:
    method = TransPrune()
    assert method.cuts(32) == (8, 10, 13)
    assert [method.count(cut, 32, 576) for cut in range(3)] == [504, 360, 72]
    watched = method.watched(32)
    assert [layer for layer, part in watched if part == "mlp"] == [7, 8, 9, 10, 11, 12]
    assert len(watched) == 12


class Recorded(TransPrune):
    """Also keeps what it was shown."""

    def watch(self, call: PartCall) -> torch.Tensor:
        shown.append(call)
        return super().watch(call)

    def decide(self, view: PromptView) -> Decision:
        decided.append(view)
        return super().decide(view)


shown: list[PartCall] = []
decided: list[PromptView] = []


def test_a_model_shows_what_goes_into_its_parts_and_comes_out() -> None:
    shown.clear()
    decided.clear()
    model, ids = small_decoder(), prompt()
    with torch.no_grad():
        stock = model(ids, output_hidden_states=True).hidden_states
        with attach(model, Recorded(layers=(2, 3), keep_tokens=6), locate):
            model(ids)
    assert [(call.layer, call.part) for call in shown] == [
        (layer, part) for layer in (1, 2) for part in ("self_attn", "mlp")
    ]
    layer = model.model.layers[1]
    attended, fed = shown[:2]
    torch.testing.assert_close(attended.entered, layer.input_layernorm(stock[1])[0])
    # what the parts give, added to what entered the layer, is what enters the next
    torch.testing.assert_close(stock[1][0] + attended.left + fed.left, stock[2][0], atol=1e-5, rtol=0)
    first, second = decided
    assert list(first.watched) == [(1, "self_attn"), (1, "mlp")]
    assert list(second.watched) == [(call.layer, call.part) for call in shown]
    kept = Recorded(layers=(2, 3), keep_tokens=6).decide(first).kept
    torch.testing.assert_close(second.watched[1, "mlp"], first.watched[1, "mlp"][kept])
    assert len(shown[2].entered) == len(kept)


def test_each_prompt_of_a_batch_is_shown_without_its_padding() -> None:
    method = Recorded(layers=(2, 3), keep_tokens=6)
    prompts = prompt(seed=5), prompt(before=2, after=4, seed=6)
    model = small_decoder()
    found = []
    for given in (padded(*prompts), *({"input_ids": ids} for ids in prompts)):
        decided.clear()
        with attach(model, method, locate), torch.no_grad():
            model(**given)
        found.append(list(decided))
    for number in range(2):
        for cut in range(2):
            together, alone = found[0][2 * cut + number], found[1 + number][cut]
            assert together.prompt == number
            assert alone.prompt == 0
            for key, seen in alone.watched.items():
                torch.testing.assert_close(together.watched[key], seen, atol=1e-5, rtol=0)


def test_nothing_is_watched_where_everything_stays() -> None:
    shown.clear()
    with attach(small_decoder(), Recorded(keep_ratio=1.0), locate), torch.no_grad():
        small_decoder()(prompt())
        small_decoder()(torch.tensor([[5, 6, 7]]))
    assert shown == []


@pytest.mark.parametrize("options", [{"absolute": 1}, {"layers": (2, 1)}, {"keep_ratio": 0}])
def test_options_that_cannot_be_meant(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        TransPrune(**options)
