"""Which candidate is asked how many questions: successive halving within a budget. Needs no torch.

Every candidate answers a few questions; of many candidates and few questions only the ends and the middle of
every recipe's shares. Then the half that is most likely the best answers twice as many as before, then a
quarter, and so on; whoever looks best by then is asked next, also one that was passed over before. So much
of the budget is always held back that a candidate which probably meets the targets can be asked everything.

Source: successive halving is that of Karnin, Koren and Somekh, ICML 2013; here candidates are ranked by the
probability of being the best, in which the shares of one recipe inform each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from streamprune.errors import InvalidValueError
from streamprune.pipelines.tuning_chances import Chances, Ladder, Standing
from streamprune.pipelines.tuning_figures import FullTrial, Trial
from streamprune.pipelines.tuning_targets import Targets

# of what asking everybody everything takes, where nobody says how much
_BUDGET = 0.25
# share of the budget that goes into the first look
_FIRST_SHARE = 0.25
# a candidate is not asked further when it is less likely than this to be the best
_HOPELESS = 0.02
# one that is about to be asked everything meets the targets with this probability, if any does
_PROBABLY = 0.7
# answers that were timed beside the full model's, from which on its time is known well enough
_ENOUGH_TIMES = 5


class Ask(Protocol):
    """Lets candidates answer a question."""

    def __call__(
        self, question: int, candidates: Sequence[int], *, timed: bool
    ) -> tuple[FullTrial, Mapping[int, Trial]]:
        """The full model's answer and those of ``candidates``.

        With ``timed`` the full model is asked just before, once more if it has answered before.
        """


def count_answers(budget: float | None, candidates: int, questions: int) -> int:
    """Most answers that the share ``budget`` allows; None is a quarter, or the least that is needed."""
    every = (candidates + 1) * questions
    if budget is None:
        return max(_least(candidates, questions), int(_BUDGET * every))
    answers = int(budget * every + 1e-9)
    check_answers(answers, candidates, questions)
    return answers


def _least(candidates: int, questions: int) -> int:
    """A question to every candidate, and every question to one of them and to the full model."""
    return candidates + 2 * questions - 1


def check_answers(answers: int, candidates: int, questions: int) -> None:
    """Refuse so few ``answers`` that nothing can be found."""
    least, every = _least(candidates, questions), (candidates + 1) * questions
    if answers < least:
        raise InvalidValueError(
            f"budget must be at least {least / every:.2f} for {candidates} candidates and {questions} "
            f"questions: it allows {answers} answers of {every}, and {least} are needed to look at every "
            "candidate once and to check one; raise it (--budget), or name fewer candidates"
        )


@dataclass(frozen=True)
class Outcome:
    """What a search found.

    Attributes:
        standing: all that was measured.
        full: the full model's answers, by question.
        chosen: the best candidate that answered every question and meets the targets; None when none does.
        nearest: the one that misses them by least, of those that answered the most questions.
        answers: answers that were given, the full model's included.
    """

    standing: Standing
    full: Mapping[int, FullTrial]
    chosen: int | None
    nearest: int
    answers: int


class Search:
    """One search.

    Args:
        ladders: the candidates, 0, 1, ..., each in one ladder.
        questions: how many there are; they are asked in their order.
        targets: what is looked for.
        answers: at most so many are asked for, the full model's included.
        ask: gets them.
        seed: of the draws that chances are computed by.
        tell: called with the answers given and the most there will be.

    Raises InvalidValueError when ``answers`` are too few.
    """

    def __init__(
        self,
        ladders: Sequence[Ladder],
        questions: int,
        targets: Targets,
        answers: int,
        ask: Ask,
        *,
        seed: int = 0,
        tell: Callable[[int, int], None] | None = None,
    ) -> None:
        self._ladders, self._questions, self._targets = ladders, questions, targets
        self._count = sum(len(ladder.members) for ladder in ladders)
        self._budget, self._ask, self._seed, self._tell = answers, ask, seed, tell
        self._trials: list[dict[int, Trial]] = [{} for _ in range(self._count)]
        self._full: dict[int, FullTrial] = {}
        self._spent = 0
        check_answers(answers, self._count, questions)

    def run(self) -> Outcome:
        """Search until nobody has a chance any more or the budget is spent."""
        self._extend(self._first_look())
        width = self._count
        while True:
            width = max(1, width // 2)
            plan = self._plan(width)
            if not plan:
                return self._outcome()
            self._extend(plan)

    def _first_look(self) -> dict[int, int]:
        """Some questions for everybody; where there are too few for that, for both ends and the middle."""
        room = _FIRST_SHARE * (self._budget - 2 * self._questions)
        asked = list(range(self._count))
        if room < self._count:
            asked = sorted({one for ladder in self._ladders for one in ladder.landmarks})
        return {one: max(1, min(self._questions, int(room / len(asked)))) for one in asked}

    def _plan(self, width: int) -> dict[int, int]:
        """Who answers up to which question next; nobody when the search is at its end.

        The ``width`` candidates that are most likely the best, twice as many as before, as long as one that
        probably meets the targets can still be asked everything afterwards.
        """
        chances = self._standing().chances(self._targets, self._seed)
        least = 0.0 if width > 1 else _HOPELESS
        hopeful = [one for one in range(self._count) if not self._is_done(one) and chances.best[one] > least]
        hopeful.sort(key=lambda one: (-chances.best[one], one))
        room = self._budget - self._spent
        safest = self._safest(chances, room)
        if safest is None:
            return {}
        for count in range(min(width, len(hopeful)), 0, -1):
            plan = {one: min(self._questions, max(1, 2 * self._asked(one))) for one in hopeful[:count]}
            if self._cost(plan | {safest: self._questions}) <= room:
                return plan
        return {} if self._is_done(safest) else {safest: self._questions}

    def _safest(self, chances: Chances, room: int) -> int | None:
        """Who is asked everything when the budget comes to its end: the best of those that probably meet it.

        One that can be asked everything for ``room`` answers; None when none can.
        """
        able = [one for one in range(self._count) if self._cost({one: self._questions}) <= room]
        likely = [one for one in able if chances.meets[one] >= _PROBABLY]
        if likely:
            return min(likely, key=lambda one: (chances.order[one], one))
        return max(able, key=lambda one: (chances.meets[one], -self._rank(one)[0], -one), default=None)

    def _asked(self, candidate: int) -> int:
        return len(self._trials[candidate])

    def _is_done(self, candidate: int) -> bool:
        return self._asked(candidate) == self._questions

    def _cost(self, plan: Mapping[int, int]) -> int:
        """Answers that ``plan`` takes at most, the full model's included."""
        known = len(self._full)
        new = max(0, max(plan.values()) - known)
        again = 0
        for one, until in plan.items():
            behind = max(0, min(until, known) - self._asked(one))
            again += min(behind, max(0, _ENOUGH_TIMES - self._times(one)))
        own = sum(max(0, until - self._asked(one)) for one, until in plan.items())
        return own + new + again

    def _extend(self, plan: Mapping[int, int]) -> None:
        """Ask every candidate of ``plan`` the questions before its number, one question after the other."""
        for question in range(max(plan.values())):
            self._visit(question, [one for one, until in plan.items() if question < until])

    def _visit(self, question: int, candidates: Sequence[int]) -> None:
        """Ask those of ``candidates`` that have not answered ``question``."""
        waiting = [one for one in candidates if question not in self._trials[one]]
        if not waiting:
            return
        first = question not in self._full
        timed = first or any(self._times(one) < _ENOUGH_TIMES for one in waiting)
        full, trials = self._ask(question, waiting, timed=timed)
        self._full.setdefault(question, full)
        for one, trial in trials.items():
            self._trials[one][question] = trial
        self._spent += len(waiting) + timed
        if self._tell is not None:
            self._tell(min(self._spent, self._budget), self._budget)

    def _times(self, candidate: int) -> int:
        return sum(trial.ttft_ratio is not None for trial in self._trials[candidate].values())

    def _standing(self) -> Standing:
        times = [full.ttft_ms for full in self._full.values()]
        return Standing(self._trials, self._ladders, self._questions, times)

    def _rank(self, candidate: int) -> tuple[float, ...]:
        """Sorts candidates by their figures as they are: by what misses the bounds, then by the targets."""
        values = self._standing().values(candidate)
        if values is None:
            return (math.inf,)
        return (self._targets.excess(values), *self._targets.order(values))

    def _outcome(self) -> Outcome:
        done = [one for one in range(self._count) if self._is_done(one)]
        nearest = min(done, key=self._rank)
        met = self._rank(nearest)[0] == 0
        return Outcome(self._standing(), self._full, nearest if met else None, nearest, self._spent)
