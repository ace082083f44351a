"""Why questions about motion and the number of scenes lose most when few tokens are kept.

For several reducers at keep 0.1 and 0.05: is a moving object's direction told right, by the number of frames
in which a token still shows it; are scenes counted right, by the frames that keep no token, and by whether
both sides of every cut keep one. Takes about a minute on one core.

    python demos/global_questions.py [--json demos/results/global_questions.json]
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from streamprune.embedded.evaluate.suite import Suite
from streamprune.metrics.evidence import purity
from streamprune.metrics.shares import share
from streamprune.recipe import Recipe
from streamprune.report.record import circumstances, write_record

RECIPES = ("random", "stride", "fastvid", "divprune", "fastervlm", "vidcom2", "streamprune")
# a token still shows something when it makes up so much of a kept row, times what it covers of the best view
SHOWS = 0.5


def main() -> None:
    """Measure, print, and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--questions", type=int, default=2000)
    asked = parser.parse_args()
    found: dict[str, dict[str, list[bool]]] = {
        name: defaultdict(list) for name in ("motion", "count", "cuts")
    }
    recipes = [Recipe.named(name) for name in RECIPES]
    suite = Suite(asked.questions, 16, recipes)
    for recipe in recipes:
        for keep_ratio in (0.1, 0.05):
            for clip, reduction, verdicts in suite.answers(recipe, keep_ratio):
                _sort(clip, purity(reduction).reshape(clip.num_frames, -1), verdicts, found)
    record: dict[str, Any] = {
        "demo": "global_questions",
        **circumstances([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "recipes": RECIPES,
        "keep_ratios": (0.1, 0.05),
        **{name: {key: share(table[key]).entry() for key in sorted(table)} for name, table in found.items()},
    }
    for name in found:
        for key, entry in record[name].items():
            bounds = f"{entry['low']:.3f}-{entry['high']:.3f}"
            print(f"{name:<7} {key:<24} {entry['accuracy']:.3f}  ({bounds}, {entry['count']})")
    if asked.json is not None:
        write_record(asked.json, record)


def _sort(clip: Any, kept: Any, verdicts: Any, found: dict[str, dict[str, list[bool]]]) -> None:
    """Put the verdicts of one clip under what is left; ``kept`` is (frames, tokens), see ``purity``."""
    held = (kept >= SHOWS).any(1)
    for verdict in verdicts:
        question = verdict.question
        if question.type == "motion" and question.answer != "still":
            cover = clip.evidence(question).reshape(kept.shape)
            best = cover.max(1)
            frames = int(((cover * kept).max(1) >= SHOWS * best)[best > 0].sum())
            found["motion"][f"{min(frames, 5)}{'+' if frames >= 5 else ''} frames show it"].append(
                verdict.right
            )
        if question.type == "count":
            empty = int((~held).sum())
            found["count"][f"{min(empty, 3)}{'+' if empty >= 3 else ''} frames empty"].append(verdict.right)
            cuts = [scene.stop for scene in clip.script.scenes[:-1]]
            both = bool(np.all([held[cut - 1] and held[cut] for cut in cuts]))
            found["cuts"]["both sides of all kept" if both else "a side of some empty"].append(verdict.right)


if __name__ == "__main__":
    main()
