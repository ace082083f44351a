"""``streamprune batch``: real workers, what is printed, and one clear message for what is wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from streamprune.cli import app
from streamprune.pipelines import batch_process, batch_ray
from streamprune.pipelines.batch_settings import BatchSettings

CLIPS = Path(__file__).resolve().parents[1] / "demos" / "clips"
ASKED = {
    name: json.loads((CLIPS / f"{name}.json").read_text())["questions"][0]
    for name in ("square_parade", "hidden_digit")
}


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["batch", *map(str, arguments)])


def failed_with(result: Result, code: int, *words: str) -> None:
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    said = re.sub(r"[\s│]+", " ", result.output)
    for word in words:
        assert word in said, said


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    """A question about each clip, one with options, and one about a video that is not there."""
    choice = {"question": "what can be seen?", "options": ["a square", "nothing"], "answer": "A"}
    lines: list[dict[str, Any]] = [
        {"id": name, "video": str(CLIPS / f"{name}.mp4"), "question": asked["question"]}
        for name, asked in ASKED.items()
    ]
    lines.append({"id": "choice", "video": lines[0]["video"], **choice})
    lines.append({"id": "gone", "video": "gone.mp4", "question": "who?"})
    path = tmp_path / "jobs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_workers_with_a_model_answer_and_tell_what_failed(jobs: Path) -> None:
    output, record = jobs.with_name("answers.jsonl"), jobs.with_name("record.json")
    result = run(jobs, "-o", output, "--workers", "1", "--batch", "2", "--num-frames", "8", "--json", record)
    failed_with(
        result,
        1,
        "3 of 4 questions are answered",
        "questions per second",
        "gone: gone.mp4: no such",
        "--retry-failed asks",
    )
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["id"] for row in rows] == [*ASKED, "choice", "gone"]
    assert [row.get("text") for row in rows[:2]] == [asked["answer"] for asked in ASKED.values()]
    assert rows[0]["tokens_in"] == rows[0]["tokens_kept"] == 8 * 36
    assert rows[2]["prompt_tokens"] > rows[0]["prompt_tokens"]
    told = json.loads(record.read_text())
    assert (told["questions"], told["work"]["videos"], told["failed"][0]["id"]) == (4, 3, "gone")
    assert 0 < told["model_share"] <= 1.05
    assert told["questions_per_second"] > told["videos_per_second"] > 0


def test_a_worker_ends_with_whoever_started_it_even_while_it_loads() -> None:
    settings = {"settings": BatchSettings().to_plain(), "number": 0, "threads": 1}
    worker = subprocess.run(
        batch_process.COMMAND, input=json.dumps(settings) + "\n", capture_output=True, text=True, timeout=60
    )
    assert (worker.returncode, worker.stdout, worker.stderr) == (0, "", "")


def test_ray_that_is_not_there_is_told(jobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = (jobs, "-o", jobs.with_name("answers.jsonl"), "--engine", "ray")
    monkeypatch.setitem(sys.modules, "ray.data", None)
    failed_with(run(*command), 1, "pip install 'streamprune[ray]'")

    def nothing_there(**settings: Any) -> None:
        raise ConnectionError("could not find any running Ray instance")

    there = SimpleNamespace(is_initialized=lambda: False, init=nothing_there)
    monkeypatch.setattr(batch_ray, "_ray", lambda: there)
    for address, said in (
        ("127.0.0.1:1", "no Ray cluster at address '127.0.0.1:1'"),
        ("ray://127.0.0.1:1", "ray start --head"),
        ("somewhere", "address must be HOST:PORT"),
        ("auto", "could not find any running Ray instance"),
    ):
        failed_with(run(*command, "--address", address), 2, said)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ([], 2, "Missing argument"),
        (["jobs.jsonl"], 2, "Missing option '--output'"),
        (["no.jsonl", "-o", "a.jsonl"], 1, "no.jsonl: no such file"),
        (["empty.jsonl", "-o", "a.jsonl"], 2, "holds no jobs"),
        (["wrong.jsonl", "-o", "a.jsonl"], 2, "line 2: unknown field 'vidoe'. Did you mean 'video'"),
        (["jobs.jsonl", "-o", "jobs.jsonl/a.jsonl"], 1, "cannot write"),
        (["jobs.jsonl", "-o", "jobs.jsonl"], 2, "line 1 of 'jobs.jsonl' is none of a journal"),
        (["jobs.jsonl", "-o", "a.jsonl", "--workers", "0"], 2, "workers must be at least 1, got 0"),
        (["jobs.jsonl", "-o", "a.jsonl", "--batch", "0"], 2, "videos_per_batch must be at least 1, got 0"),
        (["jobs.jsonl", "-o", "a.jsonl", "--engine", "rey"], 2, "'rey' is not one of 'local', 'ray'"),
        (["jobs.jsonl", "-o", "a.jsonl", "--address", "auto"], 2, "engine='ray'"),
        (["jobs.jsonl", "-o", "a.jsonl", "--recipe", "fastvidd"], 2, "Did you mean 'fastvid'"),
        (["jobs.jsonl", "-o", "a.jsonl", "--keep-ratio", "1.5"], 2, "keep_ratio must be in (0, 1]"),
    ],
)
def test_what_is_asked_wrongly_is_told_before_anybody_works(
    jobs: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, told: str
) -> None:
    monkeypatch.setattr(batch_process, "COMMAND", ("nobody may be started",))
    monkeypatch.chdir(jobs.parent)
    before = jobs.read_bytes()
    Path("empty.jsonl").touch()
    line = '{"video": "a.mp4", "question": "q"}\n'
    Path("wrong.jsonl").write_text(line + line.replace("video", "vidoe"))
    failed_with(run(*arguments), code, told)
    assert jobs.read_bytes() == before
