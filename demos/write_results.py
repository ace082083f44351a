"""Write demos/RESULTS.md from the recorded results, so that no figure is typed by hand.

python demos/write_results.py
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from live_figures import live_markdown
from measured_figures import measured_markdown

from streamprune.registry import list_methods
from streamprune.report.families import families_markdown
from streamprune.report.needles import ages_markdown, needles_markdown
from streamprune.report.retention import costs_markdown, groups_markdown, models_markdown, retention_markdown
from streamprune.report.speed import llm_markdown, overhead_markdown, speed_markdown
from streamprune.report.tables import methods_markdown

RESULTS = Path(__file__).parent / "results"
TEMPLATE = RESULTS / "page.template.md"
PAGE = Path(__file__).parent / "RESULTS.md"
README = Path(__file__).parents[1] / "README.md"
# of the budgets that memories were measured with, the one that is shown in full
STREAM_BYTES = 32_000_000
SHOWN_INSIDE = ("fastv", "pyramiddrop", "sparsevlm", "btp", "adaptinfer", "framefusion")
# of everything measured, what the README shows
SHOWN = ("random", "stride", "pool", "fastvid", "holitom", "divprune", "vidcom2", "streamprune", "oracle")


def read(name: str) -> dict[str, Any]:
    """One record."""
    record: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    # what stands beside a recipe at as many tokens is in the tables as a recipe of its own
    own = [row for row in record.get("rows", ()) if "equal_to" not in row]
    return record | {"rows": own} if "rows" in record else record


def page() -> str:
    """The whole page."""
    losses, why, speed = read("reducer_losses"), read("global_questions"), read("reducer_speed")
    inside, caches, qwen = map(read, ("in_llm_losses", "kv_losses", "kv_losses_qwen"))
    llm, heavy, steps = map(read, ("llm_speed", "llm_overhead", "llm_steps"))
    streams = read("stream_needles")
    full = losses["full"]
    return TEMPLATE.read_text(encoding="utf-8").format(
        questions=f"{losses['questions']:,}",
        frames=losses["frames"],
        tokens=losses["tokens"],
        full=_share(full),
        all=retention_markdown(losses),
        tenth=groups_markdown(losses, 0.1),
        twentieth=groups_markdown(losses, 0.05),
        losses_command=losses["command"],
        losses_when=_when(losses),
        recipes=", ".join(why["recipes"]),
        motion=_shares(why["motion"]),
        count=_shares(why["count"]),
        cuts=_shares(why["cuts"]),
        table=speed_markdown(speed["rows"]),
        speed_command=speed["command"],
        speed_when=_when(speed),
        inside=costs_markdown(inside),
        inside_command=inside["command"],
        inside_full=_share(inside["full"]),
        inside_questions=inside["questions"],
        caches=costs_markdown(caches),
        caches_command=caches["command"],
        caches_full=_share(caches["full"]),
        qwen=costs_markdown(qwen),
        qwen_command=qwen["command"],
        qwen_full=_share(qwen["full"]),
        inside_when=_when(inside),
        llm=llm_markdown(llm["rows"]),
        llm_command=llm["command"],
        heavy=overhead_markdown(heavy["rows"]),
        heavy_command=heavy["command"],
        steps=overhead_markdown(steps["rows"]),
        steps_command=steps["command"],
        llm_when=_when(llm),
        **_streams(streams),
    )


def _streams(record: dict[str, Any]) -> dict[str, Any]:
    """What the page says of memories."""
    return {
        "streams": record["streams"],
        "stream_frames": f"{record['frames']:,}",
        "stream_questions": record["questions"],
        "stream_context": record["context_tokens"],
        "stream_clip": record["context_frames"],
        "needles": needles_markdown(record),
        "stream_size": f"{STREAM_BYTES / 1e6:g} MB",
        "ages": ages_markdown(record, STREAM_BYTES),
        "stream_command": record["command"],
        "stream_when": _when(record),
    }


def _only(record: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return record | {"rows": [row for row in record["rows"] if row["recipe"] in names]}


def _shares(entries: dict[str, Any]) -> str:
    rows = [f"| {key} | {_share(entry)} | {entry['count']} |" for key, entry in entries.items()]
    return "\n".join(["| what is left | right | questions |", "| --- | --: | --: |", *rows]) + "\n"


def _share(entry: dict[str, Any]) -> str:
    return f"{100 * entry['accuracy']:.1f} ({100 * entry['low']:.1f}-{100 * entry['high']:.1f})"


def _when(record: dict[str, Any]) -> str:
    return f"{record['date']}, {record['processor']}, {record['cores']} cores, torch {record['torch']}"


def readme(text: str) -> str:
    """``text`` with its marked tables made anew: the registry, and some methods' losses and speeds."""
    losses, speed = read("reducer_losses"), read("reducer_speed")
    inside, caches, qwen = read("in_llm_losses"), read("kv_losses"), read("kv_losses_qwen")
    tables = {
        "families": families_markdown(read("families")),
        "inside": costs_markdown(_only(inside, SHOWN_INSIDE)),
        "caches": models_markdown({"embedded": caches, "embedded-qwen": qwen}),
        "llm": llm_markdown(read("llm_speed")["rows"]),
        "needles": needles_markdown(read("stream_needles")),
        "live": live_markdown(read),
        "measured": measured_markdown(read),
        "methods": methods_markdown(row for row in list_methods() if isinstance(row.target, str)),
        "losses": retention_markdown(
            losses | {"rows": [row for row in losses["rows"] if row["recipe"] in SHOWN]}
        ),
        "speed": speed_markdown(
            [row for row in speed["rows"] if row["released_units"] or row["method"] in SHOWN]
        ),
    }
    for name, table in tables.items():
        start = text.index(f"<!-- {name} -->\n") + len(f"<!-- {name} -->\n")
        text = text[:start] + table + text[text.index(f"<!-- /{name} -->") :]
    return text


def main() -> None:
    """Write both files."""
    for path, text in ((PAGE, page()), (README, readme(README.read_text(encoding="utf-8")))):
        path.write_text(text, encoding="utf-8")
        print(f"written: {path}")


if __name__ == "__main__":
    main()
