"""lmms-eval itself, offline, on clips of the embedded world: its accuracy is that of ``ask``.

Runs in an environment of its own: make test-lmms-eval
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from lmms_eval.api.instance import Instance, unwrap_generation_output
from lmms_eval.models import get_model

from streamprune.embedded import world
from streamprune.errors import InvalidValueError, UnknownNameError, UnsupportedModelError
from streamprune.integrations.lmms_eval_model import StreampruneModel
from streamprune.pipelines.offline import VideoLLM, load
from streamprune.report.record import circumstances, write_record

ROOT = Path(__file__).resolve().parents[2]
TASKS = Path(__file__).parent / "lmms_eval_task"
SEEDS = range(310_000, 310_004)
QUESTIONS = 6
FRAMES = 16
RECIPES: dict[str, dict[str, Any]] = {"none": {}, "fastvid": {"recipe": "fastvid", "keep_ratio": 0.25}}
Row = dict[str, Any]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """Questions about four clips, in an order in which no two of the same clip stand together."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "demos"))
        make_clips = import_module("make_clips")
    folder = tmp_path_factory.mktemp("clips")
    found = []
    for seed in SEEDS:
        clip = world.clip(seed, frames=FRAMES, split="eval", questions=QUESTIONS)
        path = folder / f"{seed}.mp4"
        make_clips.write_clip(clip, path, Fraction(1, 2))
        found += [
            {"video": str(path), "question": one.text, "answer": one.answer, "number": number}
            for number, one in enumerate(clip.questions)
        ]
    return sorted(found, key=lambda row: (row["number"], row["video"]))


@pytest.fixture(scope="module")
def folder(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tasks with their questions, as ``--include_path`` wants them."""
    tasks = tmp_path_factory.mktemp("tasks")
    questions = tasks / "questions.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copy(TASKS / "world.py", tasks)
    for name in ("world.yaml", "rounds.yaml"):
        (tasks / name).write_text((TASKS / name).read_text().replace("QUESTIONS", str(questions)))
    return tasks


@pytest.fixture(scope="module")
def vlm() -> VideoLLM:
    return load("embedded")


@pytest.fixture(scope="module")
def runs() -> Iterator[Row]:
    """The figures of every run, which become the record when all are there."""
    found: Row = {}
    yield found
    path = os.environ.get("RECORD")
    if path and sorted(found) == sorted(RECIPES):
        said = circumstances(["make", "test-lmms-eval"])
        names = {"lmms_eval": version("lmms_eval"), "model": "embedded"}
        write_record(path, {"integration": "lmms_eval", **said, **names, "runs": found})


def evaluated(folder: Path, out: Path, task: str, **arguments: Any) -> tuple[Row, list[Row], list[str]]:
    """What lmms-eval writes: results and samples; and the command that made it."""
    given = ",".join(f"{name}={value}" for name, value in arguments.items())
    command = [
        sys.executable, "-m", "lmms_eval", "--model", "streamprune", "--model_args", given, "--tasks", task,
        "--include_path", str(folder), "--device", "cpu", "--output_path", str(out), "--log_samples",
        "--batch_size", str(arguments.get("batch_size", 1)),
    ]  # fmt: skip
    offline = {
        **os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(out / "hub"),
        "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip
    run = subprocess.run(command, env=offline, cwd=out.parent, capture_output=True, text=True, timeout=400)
    found, logged = list(out.rglob("*_results.json")), list(out.rglob("*_samples_*.jsonl"))
    # it ends with status 0 whatever happened
    assert (len(found), len(logged)) == (1, 1), run.stdout[-3000:] + run.stderr[-5000:]
    (results,), (samples,) = found, logged
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    return json.loads(results.read_text()), lines, command[1:]


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_its_accuracy_is_that_of_ask(
    recipe: str, rows: list[Row], folder: Path, vlm: VideoLLM, runs: Row, tmp_path: Path
) -> None:
    how = RECIPES[recipe]
    results, samples, command = evaluated(
        folder, tmp_path / "out", "streamprune_world", pretrained="embedded", num_frames=FRAMES, **how
    )
    by_video: dict[str, list[Row]] = {}
    for row in rows:
        by_video.setdefault(row["video"], []).append(row)
    texts: dict[tuple[str, str], str] = {}
    for video, asked in by_video.items():
        answers = vlm.ask(
            video, [row["question"] for row in asked], num_frames=FRAMES, max_new_tokens=8, **how
        )
        texts |= {(video, answer.question): answer.text for answer in answers}
    said = [
        (rows[line["doc_id"]]["video"], rows[line["doc_id"]]["question"], line["filtered_resps"])
        for line in samples
    ]
    assert sorted(said) == sorted((*key, text) for key, text in texts.items())
    right = [texts[row["video"], row["question"]] == row["answer"] for row in rows]
    accuracy = results["results"]["streamprune_world"]["accuracy,none"]
    assert accuracy == pytest.approx(sum(right) / len(rows))
    assert len(samples) == len(rows) == len(SEEDS) * QUESTIONS
    assert accuracy > 0.5, "a model that guesses would agree with itself, too"
    tokens = sum(line["token_counts"][0]["input_tokens"] for line in samples) / len(samples)
    shown = [part if part.startswith("-") or "/" not in part else Path(part).name for part in command]
    runs[recipe] = {
        "command": " ".join(["python", *shown]), **how, "questions": len(rows), "accuracy": accuracy,
        "accuracy_of_ask": sum(right) / len(rows), "prompt_tokens": tokens,
    }  # fmt: skip


def test_rounds_go_on_from_what_was_answered(folder: Path, rows: list[Row], tmp_path: Path) -> None:
    results, samples, _ = evaluated(
        folder, tmp_path / "out", "streamprune_rounds", pretrained="embedded", num_frames=4
    )
    assert results["results"]["streamprune_rounds"]["rounds,none"] == 2
    assert len(samples) == len(rows)


@pytest.fixture
def encodings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the videos that were encoded, in order."""
    found: list[str] = []
    encode = VideoLLM.encode

    def noted(self: VideoLLM, video: Any, **settings: Any) -> Any:
        found.append(Path(video).name)
        return encode(self, video, **settings)

    monkeypatch.setattr(VideoLLM, "encode", noted)
    return found


def _requests(rows: list[Row], generation: Row) -> tuple[list[Instance], Row]:
    """The requests that lmms-eval makes of ``rows``, and its table of documents."""
    from tests.integrations.lmms_eval_task.world import doc_to_messages

    requests = [
        Instance(
            request_type="generate_until",
            arguments=("", doc_to_messages, generation, number, "task", "test"),
            idx=0,
            metadata={"task": "task", "doc_id": number, "repeats": 1},
        )
        for number in range(len(rows))
    ]
    return requests, {"task": {"test": rows}}


@pytest.mark.parametrize("batch_size", [1, 4])
def test_every_video_is_encoded_once(
    rows: list[Row], vlm: VideoLLM, encodings: list[str], batch_size: int
) -> None:
    model = StreampruneModel(num_frames=4, batch_size=batch_size)
    requests, model.task_dict = _requests(rows, {"max_new_tokens": 8, "until": ["\n\n"]})
    found = [unwrap_generation_output(one) for one in model.generate_until(requests)]
    assert sorted(encodings) == sorted({Path(row["video"]).name for row in rows})
    for row, (text, counts) in list(zip(rows, found, strict=True))[::5]:
        answer = vlm.ask(Path(row["video"]), str(row["question"]), num_frames=4, max_new_tokens=8)
        assert text == answer.text
        assert counts is not None
        assert (counts.input_tokens, counts.output_tokens) == (
            answer.stats.prompt_tokens, answer.stats.new_tokens
        )  # fmt: skip


def test_what_it_does_not_do_is_told() -> None:
    assert get_model("streamprune") is StreampruneModel
    with pytest.raises(UnknownNameError, match=r"unknown model argument 'keep_raito'.*'keep_ratio'"):
        StreampruneModel.create_from_arg_string("keep_raito=0.5", {"batch_size": 1})
    with pytest.raises(InvalidValueError, match="batch_size must be an integer of at least 1, got 'auto'"):
        StreampruneModel.create_from_arg_string("pretrained=embedded", {"batch_size": "auto"})
    with pytest.raises(InvalidValueError, match="need a method that chooses what stays"):
        StreampruneModel(keep_ratio=0.5)
    with pytest.raises(UnsupportedModelError, match="for generated answers only"):
        StreampruneModel(num_frames=4).loglikelihood([])
