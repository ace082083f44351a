"""The search of tune on made-up measurements, whose truth is known: what it finds, and what that costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from streamprune.errors import InvalidValueError
from streamprune.pipelines.tuning_chances import Ladder, Standing, _falling
from streamprune.pipelines.tuning_figures import FullTrial, Spread, Trial, middle
from streamprune.pipelines.tuning_search import Outcome, Search
from streamprune.pipelines.tuning_targets import QUANTITIES, Targets

SHARES = (0.05, 0.1, 0.15, 0.25, 0.35, 0.5)
RECIPES = 7
COUNT = RECIPES * len(SHARES)
LADDERS = [Ladder(tuple(range(first, first + len(SHARES))), SHARES) for first in range(0, COUNT, len(SHARES))]


@dataclass
class World:
    """Recipes of different quality and speed: questions are hard or easy, times and their clock are noisy."""

    seed: int
    questions: int
    loss: NDArray[np.float64] = field(init=False)
    ttft: NDArray[np.float64] = field(init=False)
    asked: int = 0

    def __post_init__(self) -> None:
        self._noise = np.random.default_rng([self.seed, 1])
        draws = np.random.default_rng([self.seed, 0])
        hard = draws.random(self.questions)
        rows, times = [], []
        for _ in range(RECIPES):
            quality, slow = draws.uniform(0.02, 0.25), draws.uniform(0, 0.12)
            for share in SHARES:
                lost = min(0.8, 0.35 * quality * (0.25 / share) ** 1.2)
                level = 0.6 * hard + 0.4 * draws.random(self.questions)
                rows.append((level > np.quantile(level, 1 - lost)).astype(float))
                times.append(0.3 + 0.7 * share + slow * (0.3 + share))
        self.loss, self.ttft = np.array(rows), np.array(times)

    def memory(self, candidate: int) -> int:
        return int(1e6 * (SHARES[candidate % len(SHARES)] + 0.02))

    def __call__(
        self, question: int, candidates: Sequence[int], *, timed: bool
    ) -> tuple[FullTrial, Mapping[int, Trial]]:
        self.asked += len(candidates) + timed
        clock = float(100 * np.exp(self._noise.normal(0, 0.1)))
        full = FullTrial(right=True, ttft_ms=clock, memory_bytes=1_020_000, tokens_kept=576, text="")
        return full, {one: self._trial(one, question, timed) for one in candidates}

    def _trial(self, candidate: int, question: int, timed: bool) -> Trial:
        ratio = float(self.ttft[candidate] * np.exp(self._noise.normal(0, 0.1))) if timed else None
        lost = float(self.loss[candidate, question])
        return Trial(
            loss=lost, scored=True, ttft_ratio=ratio, memory_bytes=self.memory(candidate), tokens_kept=1
        )

    def truth(self, candidate: int) -> tuple[float, float, float]:
        return (
            float(100 * self.loss[candidate].mean()),
            float(100 * self.ttft[candidate]),
            float(self.memory(candidate)),
        )

    def best(self, targets: Targets) -> int:
        met = [one for one in range(COUNT) if not targets.excess(self.truth(one))]
        return min(met, key=lambda one: targets.order(self.truth(one)))

    def search(self, targets: Targets, budget: float = 0.25) -> Outcome:
        most = int(budget * (COUNT + 1) * self.questions)
        return Search(LADDERS, self.questions, targets, most, self, seed=self.seed).run()


@pytest.mark.parametrize(
    "targets", [Targets(max_loss=5), Targets(ttft_ms=55), Targets(memory_bytes=200_000, ttft_ms=60)]
)
def test_finds_a_point_within_5_percent_of_the_best_at_a_quarter_of_the_cost(targets: Targets) -> None:
    for seed in range(10):
        world = World(seed, 200)
        found = world.search(targets)
        assert found.chosen is not None
        assert world.asked == found.answers <= 0.25 * (COUNT + 1) * 200
        value, best = world.truth(found.chosen), world.truth(world.best(targets))
        if targets.objective == "loss":  # accuracy retained, of which the best has most
            assert 100 - value[0] >= 0.95 * (100 - best[0])
        else:
            place = QUANTITIES.index(targets.objective)
            assert value[place] <= 1.05 * best[place]
        # its loss is exact: every question was asked of it
        assert len(found.standing.trials[found.chosen]) == 200
        assert targets.max_loss is None or value[0] <= targets.max_loss


def test_a_search_repeats_exactly() -> None:
    first, second = (World(3, 60).search(Targets(max_loss=5)) for _ in range(2))
    assert first == second


def test_nobody_is_asked_the_same_twice_and_the_whole_budget_finds_the_best() -> None:
    world = World(5, 40)
    asked: set[tuple[int, int]] = set()

    def ask(
        question: int, candidates: Sequence[int], *, timed: bool
    ) -> tuple[FullTrial, Mapping[int, Trial]]:
        pairs = {(question, one) for one in candidates}
        assert not pairs & asked
        asked.update(pairs)
        return world(question, candidates, timed=timed)

    targets = Targets(memory_bytes=300_000)
    found = Search(LADDERS, 40, targets, 10_000, ask).run()
    assert found.chosen is not None
    assert world.truth(found.chosen)[0] == world.truth(world.best(targets))[0]


def test_what_cannot_be_met_names_the_nearest() -> None:
    world = World(1, 60)
    found = world.search(Targets(max_loss=1, memory_bytes=75_000))
    assert found.chosen is None
    assert len(found.standing.trials[found.nearest]) == 60
    assert world.asked <= 0.25 * (COUNT + 1) * 60


def test_a_budget_that_finds_nothing_is_refused() -> None:
    with pytest.raises(InvalidValueError, match=r"budget must be at least 0\.06 for 42 candidates and 60"):
        World(1, 60).search(Targets(max_loss=1), 0.05)


def test_few_questions_are_asked_of_both_ends_and_the_middle_first() -> None:
    world = World(2, 8)
    first: list[tuple[int, tuple[int, ...]]] = []

    def ask(
        question: int, candidates: Sequence[int], *, timed: bool
    ) -> tuple[FullTrial, Mapping[int, Trial]]:
        first.append((question, tuple(candidates)))
        return world(question, candidates, timed=timed)

    Search(LADDERS, 8, Targets(max_loss=20), 86, ask).run()
    assert first[0] == (0, tuple(n for n in range(COUNT) if n % 6 in (0, 2, 5)))
    assert {one for _, candidates in first[1:] for one in candidates} - set(first[0][1])


def test_shares_of_one_recipe_inform_each_other() -> None:
    rows = np.array([[3.0, 1.0, 2.0, 0.0], [0.0, 1.0, 2.0, 3.0]])
    falling = _falling(rows, np.ones(4))
    assert falling.tolist() == [[3.0, 1.5, 1.5, 0.0], [1.5, 1.5, 1.5, 1.5]]
    # memory and time of what was never asked lie between those of its neighbours
    trial = Trial(loss=0.0, scored=True, ttft_ratio=0.5, memory_bytes=100, tokens_kept=1)
    wide = Trial(loss=0.0, scored=True, ttft_ratio=0.9, memory_bytes=300, tokens_kept=1)
    standing = Standing([{0: trial}, {}, {0: wide}], [Ladder((0, 1, 2), (0.1, 0.2, 0.3))], 4, [100.0])
    assert standing._memory().tolist() == [100, 200, 300]
    chances = standing.chances(Targets(ttft_ms=80), seed=0)
    assert chances.meets[2] < 0.1 < 0.9 < chances.meets[1]
    assert chances.best.sum() == pytest.approx(1)
    assert chances.best[1] > chances.best[2]


def test_the_objective_is_what_has_no_target() -> None:
    assert Targets(max_loss=1).objective == "ttft_ms"
    assert Targets(max_loss=1, ttft_ms=1).objective == "memory_bytes"
    assert Targets(ttft_ms=1).objective == Targets(memory_bytes=1).objective == "loss"
    every = Targets(max_loss=2, ttft_ms=50, memory_bytes=10)
    assert every.objective == "loss"
    assert every.excess((2, 50, 10)) == 0
    assert every.excess((3, 75, 20)) == pytest.approx(0.5 + 0.5 + 1)
    assert every.order((1, 2, 3)) == (1, 2, 3)
    assert Targets(max_loss=1, ttft_ms=1).order((1, 2, 3)) == (3, 1, 2)


def test_intervals_hold_the_truth_and_are_never_of_no_width() -> None:
    def trials(losses: Sequence[float], scored: bool = True) -> list[Trial]:
        return [
            Trial(loss=one, scored=scored, ttft_ratio=None, memory_bytes=1, tokens_kept=1) for one in losses
        ]

    none_lost = Spread.of(trials([0.0] * 20)).estimate()
    assert none_lost.value == 0
    assert -20 < none_lost.low < 0 < none_lost.high < 20
    draws = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        found = Spread.of(trials((draws.random(40) < 0.1).astype(float).tolist())).estimate()
        held += found.low <= 10 <= found.high
    assert held >= 0.9 * 300
    graded = Spread.of(trials(draws.uniform(0, 0.02, 30).tolist(), scored=False)).estimate()
    assert 0 <= graded.low < graded.value < graded.high < 6
    assert middle([5.0, 1.0, 3.0]).value == 3
    ratios = middle(draws.normal(1, 0.1, 100).tolist())
    assert 0.9 < ratios.low < ratios.value < ratios.high < 1.1
