"""Real H.264 files, a real (tiny, trained) video LLM: every token against a tenth of them.

make demo
"""

from __future__ import annotations

import json
import tempfile
from fractions import Fraction
from pathlib import Path
from statistics import median

from make_clips import CLIPS, write_clip
from rich.console import Console
from rich.table import Table

import streamprune as sp
from streamprune.embedded import world

RECIPE, KEEP_RATIO = "streamprune", 0.1
console = Console(highlight=False, width=110)


def show(vlm: sp.VideoLLM, path: Path, num_frames: int) -> tuple[int, int, int]:
    """Ask everything known about one clip both ways: (questions, right with all, right with a tenth)."""
    asked = json.loads(path.with_suffix(".json").read_text())["questions"]
    questions = [item["question"] for item in asked]
    video = vlm.encode(path, num_frames=num_frames)
    full = vlm.ask(video, questions)
    kept = vlm.ask(video, questions, recipe=RECIPE, keep_ratio=KEEP_RATIO)
    table = Table(title=f"{path.name}: {video.tokens.grid.frames} frames", title_justify="left")
    for column in ("question", "expected", "all tokens", f"{RECIPE} {KEEP_RATIO}"):
        table.add_column(column)
    right = [0, 0]
    for item, *answers in zip(asked, full, kept, strict=True):
        marks = []
        for i, answer in enumerate(answers):
            good = answer.text == item["answer"]
            right[i] += good
            marks.append(f"[{'green' if good else 'red'}]{answer.text}[/]")
        table.add_row(item["question"], item["answer"], *marks)
    console.print(table)
    before, after = full[-1].stats, kept[-1].stats
    prefill_ms = [median(answer.stats.prefill_ms for answer in answers) for answers in (full, kept)]
    console.print(
        f"saved: visual tokens {before.tokens_in} -> {after.tokens_kept}, "
        f"LLM prefill {prefill_ms[0]:.1f} -> {prefill_ms[1]:.1f} ms (median), "
        f"{before.prefill_flops / after.prefill_flops:.1f}x fewer FLOPs,\n"
        f"KV cache {before.kv_bytes / 1024:.0f} -> {after.kv_bytes / 1024:.0f} KB; "
        f"reducing took {after.reduce_ms:.1f} ms\n"
    )
    return len(asked), right[0], right[1]


def main() -> None:
    """Two shipped clips and one of more than five minutes, made now."""
    vlm = sp.load("embedded")
    vlm.ask(sorted(CLIPS.glob("*.mp4"))[0], "how many scenes are there?")  # the first run pays for warming up
    with tempfile.TemporaryDirectory() as folder:
        long = Path(folder) / "five_minutes.mp4"
        write_clip(world.clip(20261123, frames=32, split="eval", questions=4), long, Fraction(10))
        films = [(path, 16) for path in sorted(CLIPS.glob("*.mp4"))] + [(long, 32)]
        scores = [show(vlm, path, frames) for path, frames in films]
    asked, full, kept = map(sum, zip(*scores, strict=True))
    console.print(
        f"{asked} questions: {full} right with every token, {kept} right with {RECIPE} at {KEEP_RATIO}"
    )


if __name__ == "__main__":
    main()
