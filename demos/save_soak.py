"""Kill a process again and again while it saves its stream: the last completed snapshot always loads.

    python demos/save_soak.py [--kills 50] [--json demos/results/save_soak.json]

Part of ``make soak``; takes about a minute.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import streamprune as sp
from streamprune.errors import SnapshotError
from streamprune.pipelines.live import LiveStream
from streamprune.pipelines.offline import VideoLLM
from streamprune.report.record import circumstances, write_record

QUESTION = "what color is the circle?"
_SIDE = 96
_LONGEST_SECONDS = 0.5


@dataclass
class Seen:
    """What was found after the kills.

    Attributes:
        kills: processes that were killed while they watched and saved.
        loaded: snapshots that were there after a kill, and answered a question.
        damaged: snapshots that did not load.
        lost: snapshots older than the last one whose saving was over before the kill.
        frames: that the last of them had seen.
    """

    kills: int = 0
    loaded: int = 0
    damaged: int = 0
    lost: int = 0
    frames: int = 0

    def faults(self) -> list[str]:
        """What must not be."""
        found = [f"{self.damaged} snapshots damaged"] if self.damaged else []
        found += [f"{self.lost} completed snapshots lost"] if self.lost else []
        return found + ["nothing was saved"] * (self.frames < self.kills)


def kill_savers(folder: Path, kills: int, vlm: VideoLLM, *, say: Callable[[str], None] = print) -> Seen:
    """Let a process go on with the saved stream, kill it at a random moment, and load; ``kills`` times."""
    processes = multiprocessing.get_context("fork")  # the model is there already
    moments, seen, path = random.Random(kills), Seen(), folder / "stream.safetensors"
    for _ in range(kills):
        completed = processes.Value("i", 0)
        saver = processes.Process(target=_save_for_ever, args=(path, completed, vlm))
        saver.start()
        _wait_for_first(completed, saver)
        time.sleep(moments.uniform(0.0, _LONGEST_SECONDS))
        saver.kill()
        saver.join()
        seen.kills += 1
        try:
            with LiveStream.load(path, vlm) as live:
                live.ask(QUESTION)
                seen.loaded += 1
                seen.frames = live.stats().frames.accepted
                # the kill may have come right after the file was renamed
                seen.lost += seen.frames not in (completed.value, completed.value + 1)
        except SnapshotError as error:
            say(str(error))
            seen.damaged += 1
    say(f"{seen.kills} kills: {seen.loaded} snapshots loaded, the last after {seen.frames} frames")
    return seen


def _wait_for_first(completed: Any, saver: Any) -> None:
    ends = time.monotonic() + 120
    while not completed.value:
        if time.monotonic() > ends or not saver.is_alive():
            saver.kill()
            raise RuntimeError("the process has saved nothing")
        time.sleep(0.01)


def _save_for_ever(path: Path, completed: Any, vlm: VideoLLM) -> None:
    # a forked process has none of its parent's other threads, and would wait for them
    torch.set_num_threads(1)
    settings: dict[str, Any] = {"memory": "rekv", "memory_bytes": "8MB", "gate": False}
    live = LiveStream.load(path, vlm) if path.exists() else vlm.open_stream(**settings)
    noise = np.random.default_rng(0)
    while True:
        live.push(noise.integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8))
        live.save(path)
        completed.value = live.stats().frames.accepted


def main() -> int:
    """Kill, print, write the record; 1 when something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seen = kill_savers(Path(folder), asked.kills, sp.load("embedded"))
    if asked.json is not None:
        said = circumstances([Path(sys.argv[0]).name, *sys.argv[1:]])
        write_record(asked.json, {"demo": "save_soak", **said, **vars(seen), "faults": seen.faults()})
    return 1 if seen.faults() else 0


if __name__ == "__main__":
    sys.exit(main())
