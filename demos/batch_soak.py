"""Kill a batch again and again: is the file that of an undisturbed run? And what does a second worker bring?

    python demos/batch_soak.py [--kills 20] [--clips 90] [--questions 4] [--repeats 3] [--json FILE]

The run is killed with all its processes, at random moments: while models are loaded, and while answers come.
Then runs with one and with two workers take turns, each worker with one thread for decoding and one for the
model. Part of ``make soak``; takes some minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from make_clips import write_clip

from streamprune.embedded import world
from streamprune.pipelines.batch import run_batch
from streamprune.report.record import circumstances, write_record

SETTINGS: dict[str, Any] = {"recipe": "streamprune", "keep_ratio": 0.25}
OPTIONS = ("--recipe", "streamprune", "--keep-ratio", "0.25", "--workers", "2")
AIM = 1.7
# of the kills, those while models are loaded; and the moments of the others after the first new answer
_EARLY_SHARE = 0.2
_EARLY_SECONDS, _LATE_SECONDS = 3.0, 0.5
_MOST_SECONDS = 300


@dataclass
class Killed:
    """What was found after the kills.

    Attributes:
        kills: runs that were killed.
        answers: lines that were there after each.
        orphans: workers that outlived their run.
        asked_last: questions that were left for the last run, which nobody disturbed.
        same: the file in the end is that of an undisturbed run, byte for byte.
    """

    kills: int = 0
    answers: list[int] = field(default_factory=list)
    orphans: int = 0
    asked_last: int = 0
    same: bool = False

    def faults(self) -> list[str]:
        """What must not be."""
        found = [] if self.same else ["the file is not that of an undisturbed run"]
        found += [f"{self.orphans} workers outlived their run"] if self.orphans else []
        return found + ["no run was killed while it answered"] * (len(set(self.answers)) < 2)


def write_jobs(folder: Path, clips: int, questions: int) -> Path:
    """``questions`` about each of so many clips of the embedded world."""
    lines = []
    for seed in range(clips):
        clip = world.clip(seed, frames=16, split="eval", questions=questions)
        write_clip(clip, folder / f"{seed}.mp4", Fraction(1, 2))
        lines += [{"video": f"{seed}.mp4", "question": one.text} for one in clip.questions]
    path = folder / "jobs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def kill_again_and_again(jobs: Path, kills: int, *, say: Callable[[str], None] = print) -> Killed:
    """Kill the same run ``kills`` times, let it finish, and compare with one that nobody disturbed."""
    moments, seen, output = random.Random(kills), Killed(), jobs.with_name("killed.jsonl")
    command = [sys.executable, "-m", "streamprune", "batch", str(jobs), "-o", str(output), *OPTIONS]
    for _ in range(kills):
        early = moments.random() < _EARLY_SHARE
        before = _lines(output)
        with subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL) as run:
            if not early:
                _wait_for_more(output, before, run)
            time.sleep(moments.uniform(0.0, _EARLY_SECONDS if early else _LATE_SECONDS))
            if run.poll() is not None:
                raise RuntimeError("a run was through before it was killed; give more clips")
            workers = psutil.Process(run.pid).children(recursive=True)
            os.killpg(run.pid, signal.SIGKILL)
        seen.kills += 1
        seen.orphans += _outliving(workers)
        seen.answers.append(_lines(output))
    last = run_batch(jobs, output, workers=2, **SETTINGS)
    alone = run_batch(jobs, jobs.with_name("undisturbed.jsonl"), workers=1, threads=1, **SETTINGS)
    seen.asked_last = last.work.questions
    seen.same = output.read_bytes() == alone.output.read_bytes()
    say(f"{seen.kills} kills, after which there were {seen.answers} of {alone.questions} answers")
    say(f"the last run asked {seen.asked_last}; the same bytes as undisturbed: {seen.same}")
    return seen


def _lines(output: Path) -> int:
    return output.read_bytes().count(b"\n") if output.exists() else 0


def _wait_for_more(output: Path, before: int, run: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + _MOST_SECONDS
    while _lines(output) <= before:
        if time.monotonic() > ends or run.poll() is not None:
            raise RuntimeError("no answer came; with more clips there is work for every run")
        time.sleep(0.01)


def _outliving(workers: Sequence[psutil.Process]) -> int:
    """Of ``workers`` those that live a while after their run."""
    ends = time.monotonic() + 30
    while time.monotonic() < ends:
        if not any(map(_lives, workers)):
            return 0
        time.sleep(0.05)
    return sum(map(_lives, workers))


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def take_turns(jobs: Path, repeats: int, *, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Videos a second with one worker and with two, in turn; ratios of the two runs of each turn."""
    turns = []
    for turn in range(repeats):
        told: dict[str, Any] = {"load_average_before": round(os.getloadavg()[0], 2)}
        for workers in (1, 2):
            output = jobs.with_name(f"turn-{turn}-{workers}.jsonl")
            done = run_batch(jobs, output, workers=workers, threads=1, **SETTINGS)
            rates = done.to_dict()
            told[f"videos_per_second_{workers}"] = round(rates["videos_per_second"], 3)
            told[f"questions_per_second_{workers}"] = round(rates["questions_per_second"], 3)
            told[f"model_share_{workers}"] = round(rates["model_share"], 3)
            told[f"decode_share_{workers}"] = round(rates["decode_share"], 3)
            told[f"load_seconds_{workers}"] = round(done.work.load_seconds, 2)
            told[f"wall_seconds_{workers}"] = round(done.wall_seconds, 2)
        told["ratio"] = round(told["videos_per_second_2"] / told["videos_per_second_1"], 3)
        told["wall_ratio"] = round(told["wall_seconds_1"] / told["wall_seconds_2"], 3)
        turns.append(told)
        say(f"turn {turn + 1}: {told}")
    ratios = {name: round(median(one[name] for one in turns), 3) for name in ("ratio", "wall_ratio")}
    say(f"two workers are {ratios['ratio']} times one once models are loaded (aim {AIM}); whole runs "
        f"{ratios['wall_ratio']} times")  # fmt: skip
    return {"aim": AIM, **ratios, "turns": turns}


def main() -> int:
    """Kill, measure, print, write the record; 1 when an answer was lost or a worker left behind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--clips", type=int, default=90)
    parser.add_argument("--questions", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        jobs = write_jobs(Path(folder), asked.clips, asked.questions)
        seen = kill_again_and_again(jobs, asked.kills)
        speed = take_turns(jobs, asked.repeats) if asked.repeats else {}
    if asked.json is not None:
        said = circumstances([Path(sys.argv[0]).name, *sys.argv[1:]])
        about = {"clips": asked.clips, "questions": asked.clips * asked.questions}
        record = {"demo": "batch_soak", **said, **about, **vars(seen), "faults": seen.faults(), **speed}
        write_record(asked.json, record)
    return 1 if seen.faults() else 0


if __name__ == "__main__":
    sys.exit(main())
