"""HoliTom's folding against a loop, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from streamprune.in_llm.holitom import HoliTomInner
from streamprune.reduction import weighted_sum
from tests.in_llm.views import made_view, numpy_attention, text_and


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.75])
def test_equals_a_loop(seed: int, ratio: float) -> None:
    view = made_view(tokens=40, seed=seed)
    visual, states = view.visual.numpy(), view.states.double().numpy()
    scores = numpy_attention(view.before)[:, -1, visual].mean(0)  # type: ignore[arg-type]
    chosen = np.sort(np.argsort(-scores)[: round(40 * ratio)])
    unit = states / np.linalg.norm(states, axis=1, keepdims=True)
    expected = states.copy()
    for row in np.setdiff1d(visual, visual[chosen]):
        target = visual[chosen][np.argmax(unit[visual[chosen]] @ unit[row])]
        expected[target] = (expected[target] + states[row]) / 2
    decision = HoliTomInner(keep_ratio=ratio).decide(view)
    assert decision.kept.tolist() == text_and(view, chosen)
    assert decision.entries is not None
    got = weighted_sum(decision.entries, view.states, len(decision.kept))
    np.testing.assert_allclose(got, expected[decision.kept.numpy()], atol=1e-5)


def test_the_last_one_folded_weighs_a_half() -> None:
    states = torch.tensor([[9.0, 1.0], [1.0, 0.0], [2.0, 0.0], [4.0, 0.0], [0.0, 9.0]])
    view = made_view(tokens=3, before=1, after=1, states=states)
    query = view.before.queries(view.last)
    # the first visual token is what the last row looks at
    view.before.all_keys[:] = 0  # type: ignore[attr-defined]
    view.before.all_keys[:, 1] = view.before.queries(view.last, rotated=False)[0, 0]  # type: ignore[attr-defined]
    view.before.angles[:] = 0  # type: ignore[attr-defined]
    assert query.shape == (4, 1, 8)
    view.before.all_queries[:] = view.before.all_queries[:1]  # type: ignore[attr-defined]
    decision = HoliTomInner(keep_tokens=1).decide(view)
    assert decision.kept.tolist() == [0, 1, 4]
    assert decision.entries is not None
    merged = weighted_sum(decision.entries, states, 3)
    torch.testing.assert_close(merged, torch.tensor([[9.0, 1.0], [2.75, 0.0], [0.0, 9.0]]))


def test_the_layer_is_scaled_to_the_depth() -> None:
    assert HoliTomInner().cuts(28) == (18,)
    assert HoliTomInner().cuts(80) == (51,)
    assert HoliTomInner(layer=60).cuts(80) == (60,)
    with pytest.raises(ValueError, match="layer must be at least 1"):
        HoliTomInner(layer=0)
