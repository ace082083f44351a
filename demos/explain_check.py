"""How long an explanation takes, with the two answers it is about, and how large its page is.

python demos/explain_check.py --json demos/results/explain.json
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import streamprune as sp
from streamprune.pipelines.explanation import explain
from streamprune.pipelines.made_video import write_made_video
from streamprune.report.record import circumstances, write_record

FRAMES, RECIPE, KEEP_RATIO, QUESTION = 64, "holitom", 0.2, "which shape is red?"


def main() -> None:
    """Explain a few times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of which the median counts")
    parser.add_argument("--json", type=Path, help="write the record here")
    arguments = parser.parse_args()
    vlm = sp.load("embedded")
    took, pages = [], []
    with tempfile.TemporaryDirectory() as folder:
        video = write_made_video(Path(folder) / "made.mp4")
        page = Path(folder) / "report.html"
        for _ in range(arguments.rounds + 1):  # the first to warm up
            started = time.perf_counter()
            found = explain(vlm, video, QUESTION, recipe=RECIPE, keep_ratio=KEEP_RATIO, num_frames=FRAMES)
            explained = time.perf_counter()
            found.save(page)
            pages.append(time.perf_counter() - explained)
            took.append(time.perf_counter() - started)
        size = page.stat().st_size
    record = {
        "demo": "explain_check",
        **circumstances(["python", *sys.argv]),
        "frames": FRAMES,
        "recipe": RECIPE,
        "keep_ratio": KEEP_RATIO,
        "seconds": round(statistics.median(took[1:]), 3),
        "page_seconds": round(statistics.median(pages[1:]), 3),
        "page_bytes": size,
    }
    print(f"{FRAMES} frames: {record['seconds']} s with both answers, {size / 1e6:.2f} MB")
    if arguments.json is not None:
        write_record(arguments.json, record)


if __name__ == "__main__":
    main()
