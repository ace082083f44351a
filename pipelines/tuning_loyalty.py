"""How likely the full model's words still are to a reduced one: loyalty, where no right answer is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch

from streamprune.models.sampling import Sampling

Words = Sequence[tuple[int, float]]


class Listener:
    """Hears how likely each word of one answer was, and says given words in place of the likeliest.

    Args:
        dictated: token ids to say; empty leaves the choice to the model.
    """

    def __init__(self, dictated: Sequence[int] = ()) -> None:
        self._dictated = tuple(dictated)
        self.heard: list[tuple[int, float]] = []
        self.would_say: list[int] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Called with the scores of every next word, (1, words), before one is taken."""
        place = len(self.heard)
        shares = torch.softmax(scores[0].float(), -1)
        likeliest = int(shares.argmax())
        word = self._dictated[place] if place < len(self._dictated) else likeliest
        self.heard.append((word, float(shares[word])))
        self.would_say.append(likeliest)
        if word == likeliest:
            return scores
        forced = torch.full_like(scores, -torch.inf)
        forced[:, word] = 0
        return forced


@dataclass(frozen=True)
class Overheard(Sampling):
    """The most likely word every time, with somebody listening."""

    listener: Listener = field(default_factory=Listener)

    def processors(self, rows: int) -> list[Any]:
        """The listener; it hears one answer."""
        return [self.listener]


def loyalty(full: Words, reduced: Words) -> float:
    """How much of the full model's confidence in its own words is left, in [0, 1].

    Of each word the reduced model's likelihood over the full model's, at most 1, on average; both were told
    the same words before it.
    """
    if not full:
        return 1.0
    pairs = zip(full, reduced, strict=False)
    return fmean(min(1.0, share / max(before, 1e-12)) for (_, before), (_, share) in pairs)


def agreement(full: Words, would_say: Sequence[int]) -> float:
    """Share of the full model's words that the reduced model would have said at their place."""
    pairs = list(zip(full, would_say, strict=False))
    return fmean(word == said for (word, _), said in pairs) if pairs else 1.0
