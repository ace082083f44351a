"""The explanation as one page: styles, scripts, pictures and data in it, nothing fetched.

What can be read is in the page's own text; what can be pointed at is drawn by its scripts from the data.
Text from outside (questions, names, answers) is escaped on its way in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from streamprune.report.explain.data import Explanation, Run, TowerReuse
from streamprune.report.tables import readable, stats_rows

_STATIC = Path(__file__).with_name("static")
_SCRIPTS = ("fates.js", "strip.js", "charts.js", "page.js")
# figures under an answer: key in Stats, name, kind
_FIGURES = (
    ("tokens_kept", "tokens to the LLM", "count"),
    ("first_ms", "to the first word", "ms"),
    ("prefill_flops", "LLM operations", "flops"),
    ("kv_bytes", "KV cache", "bytes"),
)
_BEFORE_FIRST_WORD = ("decode_ms", "preprocess_ms", "encode_ms", "choose_ms", "reduce_ms", "prefill_ms")


def page(explanation: Explanation) -> str:
    """The page's HTML."""
    environment = Environment(
        loader=FileSystemLoader(_STATIC), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    data = {
        **explanation.to_dict(),
        "lead": _leads(explanation),
        "first_view": first_view(explanation),
    }
    compact = partial(json.dumps, separators=(",", ":"), allow_nan=False)
    return environment.get_template("page.html").render(
        told=_told(explanation),
        style=_raw("page.css"),
        scripts=[_raw(name) for name in _SCRIPTS],
        data=htmlsafe_json_dumps(data, dumps=compact),
    )


def first_view(explanation: Explanation) -> str:
    """The stage that says most: the last one that let tokens go."""
    if explanation.cache is not None:
        return "cache"
    if explanation.in_llm is not None:
        return "in_llm"
    if explanation.tower is not None and "pre_llm" not in dict(explanation.asked.stages):
        return "tower"
    return "kept"


def _raw(name: str) -> Markup:
    """A file of this package, which needs no escaping."""
    return Markup((_STATIC / name).read_text(encoding="utf-8"))


def _told(explanation: Explanation) -> dict[str, Any]:
    """What stands in the page as text."""
    asked, full, own = explanation.asked, explanation.full, explanation.reduced
    frames, rows, cols = explanation.grid
    per_frame = max(len(pictures) for pictures in explanation.pictures)
    runs = [own] if full is None else [full, own]
    return {
        "question": asked.question,
        "recipe": asked.recipe,
        "video": asked.video,
        "model": asked.model,
        "shape": f"{frames} frames of {rows} x {cols} tokens",
        "per_frame": per_frame,
        "runs": [_run(run, full, explanation) for run in runs],
        "label": own.label,
        "full_label": "" if full is None else full.label,
        "has_full": full is not None,
        "shared": full is not None and explanation.same_frames and explanation.tower is None,
        "warnings": explanation.warnings,
        "notes": explanation.notes,
        "lets_go": explanation.in_llm is not None,
        "segments": explanation.segments.said,
        "attention": "" if explanation.attention is None else explanation.attention.said,
        "columns": [run.label for run in runs],
        "costs": [_cost(label, cells) for label, cells in stats_rows([run.stats for run in runs])],
        "toml": asked.toml.strip(),
        "command": asked.circumstances["command"],
        "facts": [
            {"name": name, "value": value}
            for name, value in asked.circumstances.items()
            if name != "command" and value is not None
        ],
        "explain_ms": readable(explanation.explain_ms, "ms"),
    }


def _run(run: Run, full: Run | None, explanation: Explanation) -> dict[str, Any]:
    """An answer's card."""
    recipe = run is explanation.reduced
    text = str(run.answer["text"])
    compared = recipe and full is not None
    same = full is None or text.strip() == str(full.answer["text"]).strip()
    figures, against = figures_of(run), None if full is None else figures_of(full)
    label = f"With the recipe: {run.label}" if recipe else "Without it: every token"
    if not recipe and not explanation.same_frames:
        label += " of as many frames, evenly spread"
    return {
        "recipe": recipe,
        "label": label,
        "text": text or "(nothing)",
        "same": same,
        "verdict": ("the same answer" if same else "another answer") if compared else "",
        "figures": [
            {
                "name": name,
                "value": readable(figures[key], kind),
                "ratio": _ratio(figures[key], against[key]) if compared and against else "",
            }
            for key, name, kind in _FIGURES
        ],
    }


def _ratio(value: float, whole: float) -> str:
    return f"{value / whole:.2f}x" if whole else ""


def figures_of(run: Run) -> Mapping[str, float]:
    """A run's stats with ``first_ms``, all that went before the first word."""
    return {**run.stats, "first_ms": sum(run.stats[name] for name in _BEFORE_FIRST_WORD)}


def _cost(label: str, cells: list[str]) -> dict[str, Any]:
    ratio = cells[-1] if len(cells) == 3 else ""
    return {
        "label": label,
        "cells": cells[:2],
        "ratio": ratio,
        "less": bool(ratio) and float(ratio) < 0.995,
    }


def _leads(explanation: Explanation) -> dict[str, str]:
    """One sentence about each view."""
    kept, tower = explanation.kept, explanation.tower
    in_llm, cache = explanation.in_llm, explanation.cache
    total = explanation.grid[0] * explanation.grid[1] * explanation.grid[2]
    frames = dict(explanation.asked.stages).get("frames")
    chosen = f"chosen by {frames}" if frames and not explanation.same_frames else "as asked for"
    leads = {
        "pictures": f"The frames as the model was shown them, {chosen}.",
        "kept": f"{kept.method} gives the language model {len(kept.index)} of {total} tokens"
        + (", each a mixture of what went into it." if kept.merges else ", each as it was.")
        + _dropped_attention(explanation),
    }
    if tower is not None:
        what = "recomputed" if isinstance(tower, TowerReuse) else "let through"
        leads["tower"] = (
            f"What {tower.method} {what} in each layer of the vision tower; every place has its token "
            "afterwards, computed or read back."
        )
    if in_llm is not None:
        cuts = " and ".join(map(str, in_llm.cuts))
        leads["in_llm"] = f"What {in_llm.method} lets into each layer; it decides before layer {cuts}."
    if cache is not None:
        leads["cache"] = (
            f"What {cache.method} held in the key-value cache of each layer after the answer; each of "
            f"{cache.heads} heads holds a choice of its own."
        )
    if explanation.attention is not None:
        said = explanation.attention.said
        leads["attention"] = f"Where the question looks when every token is there: {said}."
    return leads


def _dropped_attention(explanation: Explanation) -> str:
    """How much of the question's attention falls on places whose tokens were dropped."""
    attention, source = explanation.attention, explanation.kept.source
    if attention is None or not attention.tokens:
        return ""
    if min(source) >= 0:
        return ""
    lost = sum(share for share, row in zip(attention.tokens, source, strict=True) if row < 0)
    share = f"{100 * lost:.1f}\N{NO-BREAK SPACE}%"
    return f" With every token there, {share} of the question's attention is on dropped ones."
