"""What one answer of a candidate took and lost, and what many of them say about it. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any, Self

_Z = 1.959964  # 95 %, two-sided
# by so much loyalty differs from question to question as long as nothing is known about it
_GRADED_SPREAD = 0.1


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One answer of a candidate, beside the full model's.

    Attributes:
        loss: right answers of the full model less its own, in {-1, 0, 1}; without a known answer one minus
            loyalty, in [0, 1].
        scored: whether the right answer was known.
        ttft_ratio: its time to the first token over the full model's just before; None where the full model
            was not asked just before.
        memory_bytes: what it needed beside the model.
        tokens_kept: visual tokens that entered the language model.
        agreement: share of the full model's words that it would have chosen, too; None where it was scored.
        text: what it said.
    """

    loss: float
    scored: bool
    ttft_ratio: float | None
    memory_bytes: int
    tokens_kept: int
    agreement: float | None = None
    text: str = ""

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Out of a line of a journal."""
        return cls(**{name: row[name] for name in cls.__dataclass_fields__})


@dataclass(frozen=True, kw_only=True)
class FullTrial:
    """One answer of the full model.

    Attributes:
        right: whether it was; None where no answer is known.
        ttft_ms: time from the file to the first token.
        memory_bytes, tokens_kept: as of :class:`Trial`.
        text: what it said.
        words: (token id, its likelihood) of the answer, the end included; empty where it was scored.
    """

    right: bool | None
    ttft_ms: float
    memory_bytes: int
    tokens_kept: int
    text: str
    words: tuple[tuple[int, float], ...] = ()

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Out of a line of a journal."""
        found = {name: row[name] for name in cls.__dataclass_fields__}
        return cls(**found | {"words": tuple((int(one), float(share)) for one, share in row["words"])})


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> Estimate:
        """All three times ``factor``."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True)
class Spread:
    """Mean of losses, and how uncertain it is, before any finite number of questions is thought of.

    The uncertainty is never nothing: to the questions with known answers one is added in halves on either
    side, as Agresti and Min do for paired shares, so that three right answers of three prove little.

    Source: Agresti and Min, Statistics in Medicine 24 (2005), 729-740.
    """

    mean: float
    centre: float
    error: float
    count: int
    scored: float

    @classmethod
    def of(cls, trials: Sequence[Trial]) -> Self:
        """Of the losses of ``trials``, which may be none."""
        losses = [trial.loss for trial in trials]
        scored = fmean(trial.scored for trial in trials) if trials else 1.0
        weight = len(losses) + 2 * scored
        centre = sum(losses) / weight
        unseen = scored + (1 - scored) * _GRADED_SPREAD**2
        variance = (sum(loss * loss for loss in losses) + unseen) / weight - centre * centre
        error = math.sqrt(max(variance, 0.0) / weight)
        return cls(fmean(losses) if losses else 0.0, centre, error, len(losses), scored)

    def estimate(self) -> Estimate:
        """In points, with the interval for questions like these, widened by Student's t."""
        reach = _student(max(self.count - 1, 1)) * self.error
        # loyalty is lost at worst: only right answers can be gained
        low, high = max(0.0 - self.scored, self.centre - reach), min(1.0, self.centre + reach)
        return Estimate(self.mean, min(low, self.mean), max(high, self.mean)).scaled(100)


def _student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, to two digits."""
    exact = {1: 12.71, 2: 4.30, 3: 3.18}
    if freedom in exact:
        return exact[freedom]
    return _Z + (_Z**3 + _Z) / (4 * freedom) + (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / (96 * freedom**2)


def middle(values: Sequence[float]) -> Estimate:
    """The median, with the order statistics that hold it with 95 %; of fewer than six all there are."""
    ordered = sorted(values)
    count = len(ordered)
    rank = max(0, math.floor(count / 2 - _Z * math.sqrt(count) / 2)) if count >= 6 else 0
    return Estimate(median(ordered), ordered[rank], ordered[count - 1 - rank])


def ttft_estimate(trials: Sequence[Trial], full_ms: float) -> Estimate | None:
    """Time to the first token: the median ratio to the full model, times the full model's median."""
    ratios = [trial.ttft_ratio for trial in trials if trial.ttft_ratio is not None]
    return middle(ratios).scaled(full_ms) if ratios else None
