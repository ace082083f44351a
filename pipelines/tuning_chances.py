"""How likely each candidate is the best one, by what has been measured so far. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from streamprune.pipelines.tuning_figures import Spread, Trial
from streamprune.pipelines.tuning_targets import QUANTITIES, Targets

Floats = NDArray[np.float64]

_SAMPLES = 600
# what misses a bound is behind everything that meets all of them
_BEHIND = 1e12
# how far two medians of a ratio lie apart that were taken of one or two answers
_LEAST_SPREAD = 0.02


@dataclass(frozen=True)
class Ladder:
    """Candidates that differ in the share they keep alone, from the smallest share to the largest.

    Args:
        members: their numbers.
        shares: what they keep.
    """

    members: tuple[int, ...]
    shares: tuple[float, ...]

    @property
    def landmarks(self) -> tuple[int, ...]:
        """Both ends and the middle, which tell most of all others."""
        last = len(self.members) - 1
        return tuple(self.members[place] for place in sorted({0, last // 2, last}))


@dataclass(frozen=True)
class Chances:
    """Of every candidate.

    Attributes:
        best: probability of being the best.
        meets: probability of meeting the targets.
        order: sorts them by what the targets leave free, as it will probably be.
    """

    best: Floats
    meets: Floats
    order: Floats


@dataclass(frozen=True)
class Standing:
    """What is known of every candidate.

    Args:
        trials: of each candidate, by the number of the question.
        ladders: every candidate is in one of them.
        questions: how many there are.
        full_times: of the full model to its first token, in milliseconds.
    """

    trials: Sequence[Mapping[int, Trial]]
    ladders: Sequence[Ladder]
    questions: int
    full_times: Sequence[float]

    @property
    def full_ms(self) -> float:
        """Their median."""
        return median(self.full_times)

    def values(self, number: int) -> tuple[float, float, float] | None:
        """(loss in points, ttft_ms, memory_bytes) of a candidate as measured; None before it answers."""
        found = list(self.trials[number].values())
        ratios = [trial.ttft_ratio for trial in found if trial.ttft_ratio is not None]
        if not ratios:
            return None
        loss = 100 * sum(trial.loss for trial in found) / len(found)
        return loss, median(ratios) * self.full_ms, max(trial.memory_bytes for trial in found)

    def chances(self, targets: Targets, seed: int) -> Chances:
        """How likely each candidate meets ``targets``, and is the best, were all questions asked.

        Losses and times are drawn as they may turn out; on a ladder losses fall as more is kept. In each
        draw the best is what meets ``targets`` and comes first in their order, or misses them by least.
        """
        draws = np.random.default_rng(seed)
        loss = 100 * self._losses(draws)
        ttft = self._times(draws)
        memory = np.broadcast_to(self._memory(), loss.shape)
        drawn = dict(zip(QUANTITIES, (loss, ttft, memory), strict=True))
        missed = np.zeros_like(loss)
        for name, bound in zip(QUANTITIES, targets.bounds, strict=True):
            if bound is not None:
                missed += np.maximum(drawn[name] - bound, 0) / max(bound, 1.0)
        first = drawn[targets.objective]
        order = first / max(float(first.max()), 1e-9)
        for name in QUANTITIES:  # decides between equal ones
            order = order + 1e-6 * drawn[name] / max(float(drawn[name].max()), 1e-9)
        best = np.where(missed > 0, _BEHIND * (1 + missed), order).argmin(1)
        shares = np.bincount(best, minlength=len(self.trials)) / _SAMPLES
        return Chances(shares, (missed == 0).mean(0), np.median(order, 0))

    def _losses(self, draws: np.random.Generator) -> Floats:
        """(samples, candidates) what the losses over all questions may be."""
        spreads = [Spread.of(list(found.values())) for found in self.trials]
        # what all questions were asked of is no longer uncertain
        left = np.array([math.sqrt(1 - spread.count / self.questions) for spread in spreads])
        centres = [spread.centre if room else spread.mean for spread, room in zip(spreads, left, strict=True)]
        error = np.array([spread.error for spread in spreads]) * left
        noise = draws.standard_normal((_SAMPLES, len(spreads)))
        drawn: Floats = np.array(centres) + error * noise
        for ladder in self.ladders:
            members = list(ladder.members)
            half = drawn[::2, members]
            falling = _falling(half, 1 / np.maximum(error[members], 1e-3) ** 2)
            drawn[::2, members] = np.where(left[members] > 0, falling, half)
        return drawn

    def _times(self, draws: np.random.Generator) -> Floats:
        """(samples, candidates) times to the first token; endless where nothing is known."""
        centre, error = np.full(len(self.trials), np.inf), np.zeros(len(self.trials))
        for number, found in enumerate(self.trials):
            ratios = [trial.ttft_ratio for trial in found.values() if trial.ttft_ratio]
            if ratios:
                centre[number], error[number] = self._middle(ratios)
        centre = self._between(centre)
        ratio = np.exp(centre + error * draws.standard_normal((_SAMPLES, len(self.trials))))
        # the full model's own time is what all ratios are multiplied with
        full, uncertain = self._middle(self.full_times)
        clock = np.exp(full + uncertain * draws.standard_normal((_SAMPLES, 1)))
        times: Floats = clock * ratio
        return times

    def _middle(self, values: Sequence[float]) -> tuple[float, float]:
        """Logarithm of the median of ``values``, and how far that of all questions may be from it."""
        logs = [math.log(value) for value in values]
        middle = median(logs)
        spread = max(1.4826 * median(abs(one - middle) for one in logs), _LEAST_SPREAD)
        left = max(0.0, 1 - len(logs) / self.questions)
        return middle, 1.25 * spread * math.sqrt(left / len(logs))

    def _memory(self) -> Floats:
        """Most bytes of each candidate."""
        most = [
            max((trial.memory_bytes for trial in found.values()), default=np.inf) for found in self.trials
        ]
        return self._between(np.array(most, dtype=float))

    def _between(self, values: Floats) -> Floats:
        """``values`` with those that were not measured, endless, put between what was on their ladder."""
        filled = values.copy()
        for ladder in self.ladders:
            known = [place for place, one in enumerate(ladder.members) if np.isfinite(values[one])]
            if known:
                shares = [ladder.shares[place] for place in known]
                there = [values[ladder.members[place]] for place in known]
                filled[list(ladder.members)] = np.interp(ladder.shares, shares, there)
        return filled


def _falling(rows: Floats, weight: Floats) -> Floats:
    """The nearest rows that never rise: weighted isotonic regression by its formula of minima and maxima."""
    count = rows.shape[1]
    sums = np.concatenate([np.zeros((len(rows), 1)), np.cumsum(rows * weight, axis=1)], axis=1)
    weights = np.concatenate([[0.0], np.cumsum(weight)])
    found = np.empty_like(rows)
    for place in range(count):
        least = np.full(len(rows), np.inf)
        for start in range(place + 1):
            means = [
                (sums[:, end] - sums[:, start]) / (weights[end] - weights[start])
                for end in range(place + 1, count + 1)
            ]
            least = np.minimum(least, np.max(means, axis=0))
        found[:, place] = least
    return found
