"""METok's trimming of caches on a clip whose events and attention are written down by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from streamprune.kv.metok import METokCache
from streamprune.kv.view import LayerView
from tests.kv.made_view import chosen, view_of

# two tokens of text, three events of two frames with four tokens each, two tokens of text
EVENTS, FRAMES, TOKENS = 3, 6, 4
VISUAL = range(2, 2 + FRAMES * TOKENS)
LENGTH = VISUAL.stop + 2


def _clip(paid: list[float], *, layer: int = 9, depth: int = 28) -> LayerView:
    """A view whose last two queries pay ``paid`` to the visual entries, and the rest to text."""
    rest = (1 - sum(paid)) / 4
    row = torch.tensor([rest, rest, *paid, rest, rest])
    queries = torch.zeros(LENGTH, LENGTH)
    queries[-2:] = row.log()
    queries[-2, -1] = 0  # not seen by the query before it
    values = torch.zeros(LENGTH, 8)
    for place in VISUAL:
        frame = (place - 2) // TOKENS
        values[place, frame // 2] = 1.0
        values[place, 7] = 0.1 * (frame % 2)
    view = view_of(torch.eye(LENGTH), values, queries, layer=layer, depth=depth)
    places = torch.arange(LENGTH)
    text = (places < 2) | (places >= VISUAL.stop)
    segments = torch.where(text, -1, (places - 2) // TOKENS)
    return dataclasses.replace(view, segments=segments.expand(1, 1, LENGTH))


def _paid(event_shares: tuple[float, float, float]) -> list[float]:
    """Later tokens of an event get a little more."""
    steps = [share * (1 + place / 100) for share in event_shares for place in range(2 * TOKENS)]
    return [step * 0.8 / sum(steps) for step in steps]


POLICY = METokCache(num_cuts=2, num_key_events=1, event_ratio=0.76)


def test_layers_keep_everything_then_key_events_then_text() -> None:
    text = {0, 1, LENGTH - 2, LENGTH - 1}
    paid = _paid((0.2, 0.6, 0.2))
    assert POLICY.replace(_clip(paid, layer=2), entry_bytes=1) is None
    left = math.ceil(0.76 * 8)
    final = math.ceil(0.76 * left)
    expected = sorted(text | set(range(2 + 2 * 8 - final, 2 + 2 * 8)))
    for layer in (3, 18):
        assert chosen(POLICY, _clip(paid, layer=layer)) == [expected]
    for layer in (19, 27):
        assert chosen(POLICY, _clip(paid, layer=layer)) == [sorted(text)]
    moved = dataclasses.replace(POLICY, first_layer=0, text_from_layer=1)
    assert chosen(moved, _clip(paid, layer=0, depth=2)) == [expected]
    assert chosen(moved, _clip(paid, layer=1, depth=2)) == [sorted(text)]


def test_the_event_with_the_frame_looked_at_most_is_key() -> None:
    paid = _paid((0.2, 0.2, 0.2))
    # one frame of the last event
    paid = [share * (3 if place >= 20 else 0.5) for place, share in enumerate(paid)]
    (kept,) = chosen(POLICY, _clip(paid))
    assert {place for place in kept if place in VISUAL} <= set(range(18, 26))


def test_a_budget_fills_up_stage_by_stage() -> None:
    paid = _paid((0.2, 0.5, 0.3))
    both, first = 6, 7
    other = math.ceil(0.38 * 8)
    of_text = 4
    for visual, expected in (
        (4, [0, 4, 0]),
        (both, [0, 6, 0]),
        (first + 2 * other, [4, 7, 4]),
        (first + 2 * other + 3, [4, 8, 6]),
    ):
        (kept,) = chosen(dataclasses.replace(POLICY, keep_tokens=of_text + visual), _clip(paid))
        counts = [sum(2 + 8 * event <= place < 10 + 8 * event for place in kept) for event in range(3)]
        assert counts == expected
        assert len(kept) == of_text + visual


def test_answers_and_later_questions_drop_nothing_as_published() -> None:
    view = _clip(_paid((0.2, 0.6, 0.2)))
    assert POLICY.limit(dataclasses.replace(view, new=2), 1) == view.held
    step = dataclasses.replace(view, new=1)
    assert dataclasses.replace(POLICY, decoding="hold").choose(step, 1) is None
    assert METokCache(keep_ratio=1.0).keeps_all
    assert not METokCache().keeps_all


def test_only_text_behind_the_video_is_asked() -> None:
    view = _clip(_paid((0.2, 0.6, 0.2)))
    assert view.queries is not None
    queries = view.queries.clone()
    queries[..., :-2, :] = 50 * torch.randn(LENGTH - 2, LENGTH, generator=torch.Generator().manual_seed(0))
    other = dataclasses.replace(view, queries=queries)
    assert chosen(POLICY, other) == chosen(POLICY, view)
    alone = dataclasses.replace(view, queries=queries[..., -1:, :])
    assert POLICY.query_rows(LENGTH) == LENGTH
    assert chosen(dataclasses.replace(POLICY, window=1), alone) == chosen(POLICY, view)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"first_layer": -1}, "first_layer must be at least 0"),
        ({"text_from_layer": -1}, "text_from_layer must be at least 0"),
        ({"first_layer": 5, "text_from_layer": 4}, "first_layer=5 must be no more than text_from_layer=4"),
        ({"event_ratio": 0.0}, r"event_ratio must be in \(0, 1\]"),
        ({"num_cuts": -1}, "num_cuts must be at least 0"),
        ({"num_key_events": 0}, "num_key_events must be at least 1"),
        ({"window": 0}, "window must be at least 1"),
    ],
)
def test_options_out_of_range(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        METokCache(**options)  # type: ignore[arg-type]
