"""Batches on Ray Data, on clusters of this machine: ``make test-ray`` runs this in an environment of its own.

With RECORD=FILE what was seen is written there.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from streamprune.embedded import world
from streamprune.errors import InvalidValueError
from streamprune.pipelines.batch import run_batch
from streamprune.report.record import circumstances, write_record

ROOT = Path(__file__).resolve().parents[2]
SETTINGS: dict[str, Any] = {"recipe": "streamprune", "keep_ratio": 0.25, "num_frames": 8}
OPTIONS = ("--recipe", "streamprune", "--keep-ratio", "0.25", "--num-frames", "8")
CLIPS, QUESTIONS = 24, 3
MOST_SECONDS = 240


@pytest.fixture(scope="module")
def figures() -> Iterator[dict[str, Any]]:
    """What the tests saw; written down in the end, if anybody wants that."""
    seen: dict[str, Any] = {}
    yield seen
    path = os.environ.get("RECORD")
    if path and len(seen) == 4:
        said = circumstances(["make", "test-ray"])
        write_record(path, {"integration": "ray", **said, "ray": version("ray"), **seen})


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions about clips of the embedded world, and one about a video that is not there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "demos"))
        make_clips = import_module("make_clips")
    folder = tmp_path_factory.mktemp("jobs")
    lines = []
    for number in range(CLIPS):
        clip = world.clip(number, frames=8, split="eval", questions=QUESTIONS)
        make_clips.write_clip(clip, folder / f"{number}.mp4", Fraction(1, 2))
        lines += [{"video": f"{number}.mp4", "question": one.text} for one in clip.questions]
    lines.append({"video": "gone.mp4", "question": "who?"})
    path = folder / "jobs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def local(jobs: Path) -> bytes:
    """What the local engine answers."""
    done = run_batch(jobs, jobs.with_name("local.jsonl"), workers=1, threads=1, **SETTINGS)
    assert len(done.failed) == 1
    return done.output.read_bytes()


def command(jobs: Path, output: Path, *more: str) -> list[str]:
    arguments = ["batch", str(jobs), "-o", str(output), "--engine", "ray", "--workers", "2", *OPTIONS, *more]
    return [sys.executable, "-m", "streamprune", *arguments]


def test_a_cluster_for_the_run_answers_as_the_local_engine(
    jobs: Path, local: bytes, figures: dict[str, Any]
) -> None:
    output = jobs.with_name("own.jsonl")
    ran = subprocess.run(command(jobs, output), capture_output=True, text=True, timeout=MOST_SECONDS)
    assert ran.returncode == 1, "one video is not there"
    assert "gone.mp4" in ran.stderr
    assert f"{CLIPS * QUESTIONS} of {CLIPS * QUESTIONS + 1} questions are answered" in ran.stdout
    assert output.read_bytes() == local
    figures["own_cluster"] = {"questions": CLIPS * QUESTIONS + 1, "same_bytes_as_local": True}


def test_a_killed_run_goes_on_where_it_was(jobs: Path, local: bytes, figures: dict[str, Any]) -> None:
    output = jobs.with_name("killed.jsonl")
    with subprocess.Popen(command(jobs, output), start_new_session=True, stderr=subprocess.DEVNULL) as run:
        ends = time.monotonic() + MOST_SECONDS
        while not output.exists() or output.read_bytes().count(b"\n") < 5:
            assert time.monotonic() < ends, "no answers came"
            assert run.poll() is None, "the run ended before it could be killed"
            time.sleep(0.01)
        os.killpg(run.pid, signal.SIGKILL)
    found = output.read_bytes().count(b"\n")
    assert 5 <= found < CLIPS * QUESTIONS
    done = run_batch(jobs, output, engine="ray", workers=1, **SETTINGS)
    assert done.found in (found, found - 1), "a line may have been cut off"
    assert done.work.questions == done.questions - done.found, "nothing is asked twice"
    assert output.read_bytes() == local
    figures["killed"] = {"answers_before": done.found, "asked_after": done.work.questions, "same_bytes": True}


def test_a_running_cluster_is_used_and_left_running(
    jobs: Path, local: bytes, figures: dict[str, Any]
) -> None:
    ray = import_module("ray")
    context = ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False)
    try:
        address = context.address_info["gcs_address"]
        output = jobs.with_name("address.jsonl")
        there = subprocess.run(
            command(jobs, output, "--address", address), capture_output=True, text=True, timeout=MOST_SECONDS
        )
        assert there.returncode == 1, there.stderr
        assert output.read_bytes() == local
        # a program that is connected already stays so
        done = run_batch(jobs, jobs.with_name("same.jsonl"), engine="ray", workers=2, limit=6, **SETTINGS)
        assert done.failed == ()
        assert ray.is_initialized()
        assert ray.cluster_resources()["CPU"] == 8
    finally:
        ray.shutdown()
    figures["by_address"] = {"same_bytes_as_local": True, "cluster_left_running": True}


def test_an_address_without_a_cluster_is_told_within_seconds(jobs: Path, figures: dict[str, Any]) -> None:
    def answer_as_a_web_page(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(100)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    output = jobs.with_name("nowhere.jsonl")
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer_as_a_web_page, args=(server,))
        thread.start()
        listens, silent = f"127.0.0.1:{server.getsockname()[1]}", "127.0.0.1:1"
        for address, told in ((silent, "refused"), (listens, "what listens there is none"), ("auto", "find")):
            with pytest.raises(InvalidValueError) as caught:
                run_batch(jobs, output, engine="ray", address=address, **SETTINGS)
            assert f"no Ray cluster at address {address!r}: " in str(caught.value)
            assert told in str(caught.value)
        thread.join()
    figures["no_cluster_told"] = True
