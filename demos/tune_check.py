"""Does ``tune`` find what trying everything finds, at a quarter of the cost?

Every recipe at every share answers every question about clips of the embedded world, once. On those answers
``tune``'s search is then run for several targets, with the questions in several orders, and compared with the
best point of all. At the end one search is run for real, from files on, to see what it takes in seconds.

    python demos/tune_check.py [--json demos/results/tune.json]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from statistics import fmean, median
from typing import Any

import numpy as np
from PIL import Image

import streamprune as sp
from streamprune.embedded.world import clip, upscale
from streamprune.pipelines.jobs import JobLine
from streamprune.pipelines.tuning import Targets, tune
from streamprune.pipelines.tuning_candidates import Candidate, default_candidates, ladders
from streamprune.pipelines.tuning_encoding import full_candidate
from streamprune.pipelines.tuning_figures import FullTrial, Trial
from streamprune.pipelines.tuning_search import Search
from streamprune.pipelines.tuning_targets import QUANTITIES
from streamprune.pipelines.tuning_trials import Examiner
from streamprune.report.record import circumstances, write_record

FRAMES, PER_CLIP, FIRST_SEED = 16, 10, 60_000


@dataclass
class Table:
    """Every answer, by the number of the candidate and of the question."""

    full: list[FullTrial]
    trials: list[list[Trial]]

    @property
    def questions(self) -> int:
        """How many."""
        return len(self.full)

    def values(self, candidate: int) -> tuple[float, float, float]:
        """(loss in points, ttft_ms, memory_bytes) over all questions."""
        found = self.trials[candidate]
        ratio = median(trial.ttft_ratio for trial in found if trial.ttft_ratio is not None)
        full_ms = median(full.ttft_ms for full in self.full)
        loss = 100 * fmean(trial.loss for trial in found)
        return loss, ratio * full_ms, max(trial.memory_bytes for trial in found)


@dataclass
class Replay:
    """Answers out of a table, with the questions in another order."""

    table: Table
    order: list[int]

    def __call__(
        self, question: int, candidates: Sequence[int], *, timed: bool
    ) -> tuple[FullTrial, Mapping[int, Trial]]:
        """As if they were given now."""
        number = self.order[question]
        return self.table.full[number], {one: self.table.trials[one][number] for one in candidates}


def write_clips(folder: Path, count: int) -> list[JobLine]:
    """Clips of held-out seeds as folders of pictures, and their questions with the answers."""
    jobs: list[JobLine] = []
    for number in range(count):
        made = clip(FIRST_SEED + number, FRAMES, "eval", PER_CLIP)
        place = folder / f"clip{number:03d}"
        place.mkdir()
        for index, frame in enumerate(upscale(made.frames, 192)):
            Image.fromarray(frame).save(place / f"{index:03d}.png")
        jobs += [
            JobLine(id=f"{number}.{n}", video=place, question=one.text, answer=one.answer)
            for n, one in enumerate(made.questions)
        ]
    return jobs


def ask_everything(vlm: Any, jobs: Sequence[JobLine], candidates: Sequence[Candidate]) -> tuple[Table, float]:
    """The exhaustive sweep, and the seconds it took."""
    examiner = Examiner(vlm, full_candidate(None), candidates, jobs, 8)
    started = time.perf_counter()
    full, rows = [], []
    for number in range(len(jobs)):
        one, trials = examiner(number, range(len(candidates)), timed=True)
        full.append(one)
        rows.append(trials)
    seconds = time.perf_counter() - started
    return Table(full, [[row[n] for row in rows] for n in range(len(candidates))]), seconds


def compare(
    table: Table, candidates: Sequence[Candidate], targets: Targets, budget: float, orders: int
) -> dict[str, Any]:
    """What searches find for ``targets``, beside the best of all."""
    values = [table.values(n) for n in range(len(candidates))]
    met = [n for n, found in enumerate(values) if not targets.excess(found)]
    best = min(met, key=lambda n: targets.order(values[n])) if met else None
    every = (len(candidates) + 1) * table.questions
    accuracy = 100 * fmean(bool(full.right) for full in table.full)
    gaps: list[float] = []
    shares: list[float] = []
    names: list[str] = []
    for seed in range(orders):
        order = Random(seed).sample(range(table.questions), table.questions)
        search = Search(
            ladders(candidates),
            table.questions,
            targets,
            int(budget * every),
            Replay(table, order),
            seed=seed,
        )
        found = search.run()
        shares.append(found.answers / every)
        if found.chosen is None or best is None:
            names.append("nothing" if found.chosen is None else "something where nothing is")
            gaps.append(0.0 if best is None and found.chosen is None else float("inf"))
            continue
        names.append(f"{candidates[found.chosen].name} {candidates[found.chosen].keep}")
        gaps.append(_gap(targets, values[found.chosen], values[best], accuracy))
    return {
        "targets": targets.describe(),
        "objective": targets.objective,
        "best": None if best is None else f"{candidates[best].name} {candidates[best].keep}",
        "best_values": None if best is None else [round(value, 2) for value in values[best]],
        "meet": len(met),
        "found": {name: names.count(name) for name in dict.fromkeys(names)},
        "searches": orders,
        "within_5_percent": sum(gap <= 0.05 for gap in gaps),
        "median_gap": round(median(gaps), 4),
        "worst_gap": None if max(gaps) == float("inf") else round(max(gaps), 4),
        "most_cost_share": round(max(shares), 4),
        "mean_cost_share": round(fmean(shares), 4),
    }


def _gap(
    targets: Targets, found: tuple[float, float, float], best: tuple[float, float, float], accuracy: float
) -> float:
    """By how much ``found`` is worse: of time and memory a share, of loss a share of the best's accuracy."""
    place = QUANTITIES.index(targets.objective)
    if place:
        return found[place] / best[place] - 1
    return (found[0] - best[0]) / (accuracy - best[0])


def every_target(table: Table, candidates: Sequence[Candidate]) -> list[Targets]:
    """Bounds that some candidates meet and others do not."""
    values = np.array([table.values(n) for n in range(len(candidates))])
    times = [round(float(np.quantile(values[:, 1], share)), 1) for share in (0.25, 0.5)]
    return [
        *(Targets(max_loss=points) for points in (1, 2, 5, 10)),
        *(Targets(ttft_ms=ms) for ms in times),
        *(Targets(memory_bytes=size) for size in (100_000, 200_000, 350_000)),
        *(Targets(max_loss=points, ttft_ms=times[1]) for points in (2, 5, 10)),
    ]


def main() -> None:
    """Measure, print, and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--orders", type=int, default=10)
    parser.add_argument("--budget", type=float, default=0.25)
    asked = parser.parse_args()
    vlm = sp.load("embedded")
    candidates = default_candidates(vlm.family)
    with tempfile.TemporaryDirectory() as folder:
        jobs = write_clips(Path(folder), asked.clips)
        table, seconds = ask_everything(vlm, jobs, candidates)
        rows = []
        for targets in every_target(table, candidates):
            rows.append(compare(table, candidates, targets, asked.budget, asked.orders))
            print(json.dumps(rows[-1]), flush=True)
        live = tune(vlm, jobs, targets=Targets(max_loss=5), budget=asked.budget, max_new_tokens=8)
    searches = sum(row["searches"] for row in rows)
    within = sum(row["within_5_percent"] for row in rows)
    record = {
        "demo": "tune_check",
        **circumstances([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "questions": len(jobs),
        "candidates": len(candidates),
        "recipes": list(dict.fromkeys(one.name for one in candidates)),
        "accuracy": round(fmean(bool(full.right) for full in table.full), 4),
        "exhaustive_answers": (len(candidates) + 1) * len(jobs),
        "exhaustive_seconds": round(seconds, 1),
        "searches": searches,
        "within_5_percent": within,
        "most_cost_share": max(row["most_cost_share"] for row in rows),
        "live": {
            "targets": asdict(live.targets),
            "found": None if live.chosen is None else f"{live.chosen.name} {live.chosen.keep}",
            "values": [round(value, 2) for value in live.point(live.nearest).values],
            "answers": live.answers,
            "cost_share": round(live.answers / live.exhaustive, 4),
            "seconds": round(live.seconds, 1),
            "seconds_share": round(live.seconds / seconds, 4),
        },
        "rows": rows,
    }
    print(f"{within} of {searches} searches within 5 % of the best; live: {json.dumps(record['live'])}")
    if asked.json is not None:
        write_record(asked.json, record)


if __name__ == "__main__":
    main()
