"""Batches: each question answered once, in order, whatever dies; workers here answer without a model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from streamprune.errors import (
    InvalidTypeError,
    InvalidValueError,
    ModelError,
    RecipeError,
    StorageError,
    StreampruneError,
    UnknownNameError,
)
from streamprune.pipelines import batch_process
from streamprune.pipelines.batch import BatchReport, run_batch
from streamprune.pipelines.batch_settings import BatchSettings, groups_of
from streamprune.pipelines.jobs import JobLine, read_jobs
from streamprune.pipelines.journal import Journal

MADE_WORKER = (sys.executable, str(Path(__file__).with_name("made_worker.py")))
ASK = f"""
import sys
from streamprune.__main__ import main
from streamprune.pipelines import batch_process
batch_process.COMMAND = {MADE_WORKER!r}
main()
"""


@pytest.fixture(autouse=True)
def _made_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_process, "COMMAND", MADE_WORKER)


def write_jobs(folder: Path, *videos: str, questions: int = 3) -> Path:
    """``questions`` questions about each video, those of one video apart from each other."""
    path = folder / "jobs.jsonl"
    lines = [
        {"id": f"{video}-{number}", "video": f"{video}.mp4", "question": f"what about {number}?"}
        for number in range(questions)
        for video in videos
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def rows_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.read_text().splitlines()]


def ask(jobs: Path, name: str = "answers.jsonl", **settings: Any) -> tuple[BatchReport, list[dict[str, Any]]]:
    output = jobs.with_name(name)
    done = run_batch(jobs, output, **{"workers": 2, **settings})
    return done, rows_of(output)


def test_every_question_is_answered_once_in_the_order_of_the_jobs(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path, *"abcdef")
    told: list[tuple[str, int, int]] = []
    done, rows = ask(jobs, progress=lambda *step: told.append(step))
    assert [row["id"] for row in rows] == [job.id for job in read_jobs(jobs)]
    assert rows[1] == {
        "id": "b-0",
        "video": "b.mp4",
        "question": "what about 0?",
        "text": "b: what about 0?",
        "run": rows[0]["run"],
    }
    assert (done.questions, done.found, done.failed, done.work.deaths) == (18, 0, (), 0)
    assert (done.work.videos, done.work.questions) == (6, 18), "a video is encoded once"
    assert told == [("answer", number, 18) for number in range(19)]
    ask(jobs, "alone.jsonl", workers=1, threads=1, videos_per_batch=4)
    assert (tmp_path / "alone.jsonl").read_bytes() == (tmp_path / "answers.jsonl").read_bytes()


def test_workers_are_as_many_as_devices_or_half_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = write_jobs(tmp_path, *"abcd", questions=1)

    def started_by_default(name: str, **settings: Any) -> int:
        return ask(jobs, name, workers=None, **settings)[0].work.workers

    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert started_by_default("cores.jsonl") == 3
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert started_by_default("devices.jsonl") == 2
    assert started_by_default("device.jsonl", device="cuda:1") == 1
    assert started_by_default("cpu.jsonl", device="cpu") == 3
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert started_by_default("few.jsonl", device="cpu") == 4, "no more than there are videos"


def test_questions_are_grouped_by_what_is_shown() -> None:
    def job(name: str, video: str, **part: Any) -> JobLine:
        return JobLine(id=name, video=Path(video), question="q", **part)

    jobs = [job("1", "a"), job("2", "b"), job("3", "a"), job("4", "a", end_seconds=2.0), job("5", "b")]
    groups = groups_of(jobs, BatchSettings())
    assert [[asked.id for asked in group.questions] for group in groups] == [["1", "3"], ["2", "5"], ["4"]]
    assert [group.end_seconds for group in groups] == [None, None, 2.0]
    by_question = groups_of(jobs, BatchSettings(frames="quota", num_frames=2))
    assert [len(group.questions) for group in by_question] == [1] * 5


def test_settings_survive_their_way_to_a_worker() -> None:
    settings = BatchSettings(frames="scene", num_frames=3, max_new_tokens=5, device="cpu")
    assert BatchSettings.from_plain(json.loads(json.dumps(settings.to_plain()))) == settings


def test_only_what_is_missing_is_asked_again(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path, *"abcd")
    ask(jobs, "whole.jsonl")
    whole = (tmp_path / "whole.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    # of each video one answer is there, and one line was cut off
    (tmp_path / "answers.jsonl").write_bytes(b"".join(reversed(lines[:4])) + lines[7][:-9])
    done, _ = ask(jobs)
    assert (done.found, done.work.questions, done.work.videos) == (4, 8, 4)
    assert (tmp_path / "answers.jsonl").read_bytes() == whole
    done, _ = ask(jobs)
    assert (done.found, done.work.workers) == (12, 0), "nobody is started for nothing"


def test_more_jobs_and_a_limit_go_on_with_the_same_file(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path, "a", "b")
    done, rows = ask(jobs, limit=2)
    assert [row["id"] for row in rows] == ["a-0", "b-0"]
    assert done.questions == 2
    write_jobs(tmp_path, "z", "a", "b")
    done, rows = ask(jobs)
    assert (done.questions, done.found) == (9, 2)
    assert [row["id"] for row in rows] == [job.id for job in read_jobs(jobs)]


def started(jobs: Path, *options: str) -> subprocess.Popen[bytes]:
    """A batch in a process of its own, with a group of processes of its own."""
    arguments = ["batch", jobs, "-o", jobs.with_name("answers.jsonl"), "--workers", "2", *options]
    command = [sys.executable, "-c", ASK, *map(str, arguments)]
    return subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def wait_for_lines(output: Path, count: int) -> None:
    ends = time.monotonic() + 60
    while not output.exists() or output.read_bytes().count(b"\n") < count:
        assert time.monotonic() < ends, "no answers came"
        time.sleep(0.002)


def wait_until_ended(workers: list[psutil.Process]) -> None:
    """Workers end with their parent, though nobody may have asked yet what became of them."""

    def lives(worker: psutil.Process) -> bool:
        try:
            return bool(worker.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    ends = time.monotonic() + 60
    while any(map(lives, workers)):
        assert time.monotonic() < ends, "workers outlive their parent"
        time.sleep(0.002)


@pytest.fixture
def undisturbed(tmp_path: Path) -> bytes:
    ask(write_jobs(tmp_path, *"abcdefghij", questions=8), "undisturbed.jsonl")
    return (tmp_path / "undisturbed.jsonl").read_bytes()


def test_a_run_that_is_killed_again_and_again_ends_as_an_undisturbed_one(
    tmp_path: Path, undisturbed: bytes
) -> None:
    output = tmp_path / "answers.jsonl"
    for lines in (7, 40):
        with started(tmp_path / "jobs.jsonl") as run:
            wait_for_lines(output, lines)
            workers = psutil.Process(run.pid).children(recursive=True)
            os.killpg(run.pid, signal.SIGKILL)
        assert len(workers) == 2
        wait_until_ended(workers)
        assert output.read_bytes() != undisturbed
    done, _ = ask(tmp_path / "jobs.jsonl")
    assert done.found >= 40
    assert output.read_bytes() == undisturbed


def test_ctrl_c_leaves_what_is_done(tmp_path: Path, undisturbed: bytes) -> None:
    with started(tmp_path / "jobs.jsonl") as run:
        wait_for_lines(tmp_path / "answers.jsonl", 10)
        workers = psutil.Process(run.pid).children(recursive=True)
        run.send_signal(signal.SIGINT)
        assert run.stderr is not None
        said = run.stderr.read().decode()
    assert (run.returncode, said.strip()) == (130, "Error: interrupted")
    wait_until_ended(workers)
    done, _ = ask(tmp_path / "jobs.jsonl")
    assert done.found >= 10
    assert (tmp_path / "answers.jsonl").read_bytes() == undisturbed


def test_a_worker_that_dies_is_replaced_and_nothing_is_lost(tmp_path: Path) -> None:
    done, rows = ask(write_jobs(tmp_path, "a", "once", "c", "once2", "e"))
    assert done.failed == ()
    assert done.work.deaths == 2
    assert [row["text"].partition(":")[0] for row in rows] == ["a", "once", "c", "once2", "e"] * 3


@pytest.mark.parametrize("workers", [1, 2])
def test_a_video_that_kills_workers_twice_is_given_up_alone(tmp_path: Path, workers: int) -> None:
    jobs = write_jobs(tmp_path, "a", "kill", "crash", "missing", "e", questions=2)
    done, rows = ask(jobs, workers=workers)
    answered = [row["id"] for row in rows if "text" in row]
    # the first question about each was answered before the second one killed
    assert answered == ["a-0", "kill-0", "crash-0", "e-0", "a-1", "e-1"]
    failed = dict(done.failed)
    assert list(failed) == ["missing-0", "kill-1", "crash-1", "missing-1"]
    assert failed["missing-0"] == "missing.mp4: no such file"
    assert failed["kill-1"] == "kill.mp4: 2 workers died at it, the last of SIGSEGV"
    assert failed["crash-1"].endswith("2 workers died at it, the last with exit code 1: last words")
    assert done.work.deaths in (3, 4), "two each, and the first may have been at both"

    again, _ = ask(jobs)
    assert (again.failed, again.work.questions) == (done.failed, 0), "told again, not tried again"
    retried, _ = ask(jobs, retry_failed=True, workers=workers)
    assert (retried.found, retried.work.questions, retried.failed) == (6, 4, done.failed)


def test_what_is_wrong_with_every_video_ends_the_run_and_keeps_what_was_done(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path, "a", "b", "fatal", questions=1)
    with pytest.raises(RecipeError, match="with this recipe"):
        ask(jobs, workers=1)
    assert [row["id"] for row in rows_of(tmp_path / "answers.jsonl")] == ["a-0", "b-0"]


def test_workers_that_die_while_they_load_are_not_started_for_ever(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"while they load the model 'dies'.*no room for the model"):
        ask(write_jobs(tmp_path, "a"), model="dies")


@pytest.mark.parametrize(
    ("settings", "error", "told"),
    [
        ({"workers": 0}, InvalidValueError, "workers must be at least 1"),
        ({"threads": 0}, InvalidValueError, "threads must be at least 1"),
        ({"limit": 0}, InvalidValueError, "limit must be at least 1"),
        ({"videos_per_batch": 0}, InvalidValueError, "videos_per_batch must be at least 1"),
        ({"engine": "rey"}, UnknownNameError, "Did you mean 'ray'"),
        ({"address": "127.0.0.1:6379"}, InvalidValueError, "give engine='ray', too"),
        ({"retry_failed": 1}, InvalidValueError, "retry_failed must be True or False"),
        ({"recipe": "fastvidd"}, UnknownNameError, "'fastvid'"),
        ({"keep_ratio": 0.5}, InvalidValueError, "need a method"),
        ({"backend": "pyavv"}, UnknownNameError, "'pyav'"),
        ({"temperature": 1.0}, InvalidValueError, "give seed="),
        ({"cache_bytes": "much"}, StreampruneError, "cache_bytes"),
        ({"frames": 8}, InvalidTypeError, "name of a frames method"),
    ],
)
def test_settings_that_cannot_be_meant_leave_no_file(
    tmp_path: Path, settings: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises((error, InvalidTypeError), match=told):
        ask(write_jobs(tmp_path, "a"), **settings)
    assert not (tmp_path / "answers.jsonl").exists()


def test_an_output_of_other_settings_or_jobs_is_left_alone(tmp_path: Path) -> None:
    jobs, output = write_jobs(tmp_path, "a", "b"), tmp_path / "answers.jsonl"
    ask(jobs)
    before = output.read_bytes()
    with pytest.raises(InvalidValueError, match="another run"):
        ask(jobs, num_frames=4)
    write_jobs(tmp_path, "a")
    with pytest.raises(InvalidValueError, match="'b-0', which is none of the jobs"):
        ask(jobs)
    jobs.write_text(jobs.read_text() + '{"id": "b-0", "video": "c.mp4", "question": "what about 0?"}\n')
    with pytest.raises(InvalidValueError, match="'b-0' that is about another video"):
        ask(jobs)
    assert output.read_bytes() == before


@pytest.fixture
def busy_output(tmp_path: Path) -> Iterator[Path]:
    with Journal.open(tmp_path / "answers.jsonl", run="x"):
        yield tmp_path / "answers.jsonl"


def test_an_output_that_is_being_written_or_cannot_be_is_told_before_any_work(
    tmp_path: Path, busy_output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_process, "COMMAND", ("nobody may be started",))
    jobs = write_jobs(tmp_path, "a")
    with pytest.raises(InvalidValueError, match="another process"):
        run_batch(jobs, busy_output, workers=1)
    with pytest.raises(StorageError, match=r"jobs\.jsonl"):
        run_batch(jobs, jobs / "answers.jsonl", workers=1)


def test_jobs_of_a_program_are_checked_like_those_of_a_file(tmp_path: Path) -> None:
    job = JobLine(id="x", video=tmp_path / "a.mp4", question="q")
    output = tmp_path / "answers.jsonl"
    done = run_batch([job], output, workers=1)
    assert (done.questions, rows_of(output)[0]["video"]) == (1, str(tmp_path / "a.mp4"))
    with pytest.raises(InvalidValueError, match="'x' twice"):
        run_batch([job, job], output)
    with pytest.raises(InvalidValueError, match="at least one question"):
        run_batch([], output)
