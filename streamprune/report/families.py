"""Which method runs on which model family, as the table of the README."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def families_markdown(record: Mapping[str, Any]) -> str:
    """One line for the methods of a stage that run on the same families.

    Args:
        record: "families", and "rows" with "stage", "method" and "refused": family -> what it answers.
    """
    families = list(record["families"])
    groups: dict[tuple[str, tuple[str, ...]], list[Mapping[str, Any]]] = {}
    for row in record["rows"]:
        groups.setdefault((row["stage"], tuple(row["refused"])), []).append(row)
    lines = [["stage", "methods", *families], ["---", "---", *(":-:" for _ in families)]]
    for (stage, refused), rows in groups.items():
        names = ", ".join(row["method"] for row in rows)
        lines.append([stage, names, *("no" if family in refused else "yes" for family in families)])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"
