"""Rows that are added to visual tokens above a cut."""

from __future__ import annotations

from typing import Any

import torch

from streamprune.models.deepstack import Deepstack


def test_what_lies_below_the_cut_stays_with_the_model() -> None:
    embeds = [torch.full((3, 2), float(number)) for number in range(3)]
    kwargs: dict[str, Any] = {"deepstack_visual_embeds": embeds, "visual_pos_masks": torch.zeros(1, 5)}
    assert Deepstack.take(dict(kwargs), 3) is None
    assert Deepstack.take({}, 1) is None
    taken = Deepstack.take(kwargs, 2)
    assert taken is not None
    assert list(taken.embeds) == [2]
    assert kwargs["deepstack_visual_embeds"] == embeds[:2]


def test_rows_follow_their_tokens() -> None:
    places = torch.tensor([[False, True, True, False], [False, False, True, True]])
    embeds = torch.arange(1.0, 5.0)[:, None]
    deepstack = Deepstack(places, {1: embeds})
    states = torch.zeros(2, 4, 1)
    assert deepstack.add(1, states, None) is states
    whole = deepstack.add(2, states, None)
    assert whole[..., 0].tolist() == [[0, 1, 2, 0], [0, 0, 3, 4]]
    index = torch.tensor([[0, 2, 3], [0, 1, 3]])
    left = deepstack.add(2, states[:, :3], index)
    assert left[..., 0].tolist() == [[0, 2, 0], [0, 0, 4]]
    assert not states.any()
