"""``streamprune bench --against``: what changed since a recorded run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import typer
from rich.console import Console

_GOALS = "goals"
# narrower, ratios would be cut off
_WIDTH = 110


@dataclass(frozen=True)
class Against:
    """The earlier run that a bench is held against; made before anything is measured.

    Attributes:
        name: a file, or "goals".
        before: its record; None for the goals, of which the fitting one is chosen afterwards.
        fail_above: percent by which a ratio may be worse; None: any.
    """

    name: str
    before: Mapping[str, Any] | None
    fail_above: float | None

    @classmethod
    def read(cls, name: str | None, fail_above: float | None, bench: str) -> Against | None:
        """Raises InvalidValueError or StorageError for what cannot be compared with ``bench``."""
        from streamprune.checks import check_number
        from streamprune.errors import InvalidValueError
        from streamprune.metrics.comparison import goal_for, read_record

        if fail_above is not None:
            check_number("fail_above", fail_above, 0, math.inf)
        if name is None:
            if fail_above is not None:
                raise InvalidValueError("--fail-above needs --against: say which run may not be undercut")
            return None
        if name == _GOALS:
            goal_for({"bench": bench, "rows": []})
            return cls(name, None, fail_above)
        return cls(name, read_record(name), fail_above)

    def show(self, record: Mapping[str, Any]) -> None:
        """Print what changed; exits with 1 where ``fail_above`` says so."""
        from streamprune.metrics.comparison import compare, goal_for
        from streamprune.report.bench_change import change_lines, change_table

        name, before = goal_for(record) if self.before is None else (self.name, self.before)
        comparison = compare(record, before, name)
        console = Console(width=max(_WIDTH, Console().width))
        if comparison.changes:
            console.print(f"\nagainst {name}", style="bold", highlight=False, markup=False)
            console.print(change_table(comparison))
        for line in change_lines(comparison):
            console.print(line, highlight=False, markup=False)
        if self.fail_above is None:
            return
        worst = comparison.worst()
        if worst is None:
            _fail(f"--fail-above: nothing could be compared with {name}")
        elif (worst.worse_percent or 0.0) > self.fail_above:
            _fail(f"--fail-above {self.fail_above:g}: {worst.ratio} became {worst.worse_percent:.1f} % worse")


def _fail(why: str) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False).print(why, style="red", markup=False)
    raise typer.Exit(1)
