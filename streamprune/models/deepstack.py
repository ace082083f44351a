"""Rows that some families add to visual tokens after their first layers, for a prompt that has lost some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, eq=False)
class Deepstack:
    """What is still to be added above a cut.

    Attributes:
        places: (batch, rows) bool, the rows of the call that get something.
        embeds: by layer, (places, width) what is added to what leaves it.
    """

    places: torch.Tensor
    embeds: dict[int, torch.Tensor]

    @classmethod
    def take(cls, kwargs: dict[str, Any], first: int) -> Deepstack | None:
        """Take what belongs above layer ``first`` out of a language model's ``kwargs``; None: nothing."""
        embeds: Sequence[torch.Tensor] | None = kwargs.get("deepstack_visual_embeds")
        if embeds is None or len(embeds) <= first:
            return None
        kwargs["deepstack_visual_embeds"] = embeds[:first]
        later = {number: embeds[number] for number in range(first, len(embeds))}
        return cls(kwargs["visual_pos_masks"], later)

    def add(self, number: int, states: torch.Tensor, index: torch.Tensor | None) -> torch.Tensor:
        """(batch, left, width) ``states`` as they enter layer ``number``, with what the one below adds.

        Args:
            index: (batch, left) which row of the call each one is; None = all of them.
        """
        if number - 1 not in self.embeds:
            return states
        places = self.places.to(states.device)
        embeds = self.embeds[number - 1].to(states)
        of_row = (places.flatten().cumsum(0) - 1).reshape(places.shape)
        if index is not None:
            places, of_row = places.gather(1, index), of_row.gather(1, index)
        added = states.clone()
        added[places] = added[places] + embeds[of_row[places]]
        return added
