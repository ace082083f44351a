"""The command line, in-process: right answers, and one clear message for everything asked wrongly."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
import torch
from typer.testing import CliRunner

import streamprune
from streamprune.__main__ import main
from streamprune.cli import app
from streamprune.registry import list_methods

if TYPE_CHECKING:
    from typer.testing import Result

    from tests.readers.media import Media

ROOT = Path(__file__).resolve().parents[1]
CLIP = ROOT / "demos" / "clips" / "square_parade.mp4"
ASKED = json.loads(CLIP.with_suffix(".json").read_text())["questions"]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def failed_with(result: Result, code: int, *words: str) -> None:
    """The command ended with ``code`` and one message that holds every word, and no traceback."""
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    said = re.sub(r"[\s│]+", " ", result.output)
    for word in words:
        assert word in said, said


def test_ask_prints_the_right_answer_and_what_it_cost() -> None:
    result = run("ask", CLIP, ASKED[0]["question"])
    assert result.exit_code == 0, result.output
    assert ASKED[0]["answer"] in result.output
    for label in ("visual tokens kept", "prefill", "LLM prefill FLOPs", "KV cache", "peak memory"):
        assert label in result.output


def test_json_compare_counts_what_both_recipes_kept() -> None:
    questions = [ASKED[0]["question"], ASKED[1]["question"]]
    settings = "--recipe fastvid --keep-ratio 0.1 --compare none --num-frames 8 --json"
    result = run("ask", CLIP, *questions, *settings.split())
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert [recipe["name"] for recipe in told["recipes"]] == ["none", "fastvid"]
    assert [row["question"] for row in told["answers"]] == questions
    full, kept = told["answers"][1]["answers"]
    assert full["stats"]["tokens_kept"] == full["stats"]["tokens_in"] == 8 * 36
    assert 0 < kept["stats"]["tokens_kept"] <= 0.1 * 8 * 36
    assert kept["stats"]["kv_bytes"] < full["stats"]["kv_bytes"]


def test_compare_is_fair_at_the_same_budget() -> None:
    settings = "--recipe stride --keep-tokens 20 --compare random --num-frames 4 --json"
    result = run("ask", CLIP, ASKED[0]["question"], *settings.split())
    assert result.exit_code == 0, result.output
    kept = [row["stats"]["tokens_kept"] for row in json.loads(result.stdout)["answers"][0]["answers"]]
    assert kept == [20, 20]


def test_drawn_answers_repeat_with_a_seed_and_end_where_told() -> None:
    def said(*settings: str) -> str:
        result = run("ask", CLIP, "what color is the circle?", "--num-frames", "4", "--json", *settings)
        assert result.exit_code == 0, result.output
        text: str = json.loads(result.stdout)["answers"][0]["answers"][0]["text"]
        return text

    hot = ("--temperature", "8", "--max-new-tokens", "12")
    first = said(*hot, "--seed", "1")
    assert said(*hot, "--seed", "1") == first != said(*hot, "--seed", "2")
    end = first.split()[1]
    assert said(*hot, "--seed", "1", "--stop", end, "--stop", "zebra") == first[: first.index(end)].strip()


def chat(lines: str, *settings: str) -> Result:
    command = ["ask", str(CLIP), "--chat", "--num-frames", "8", *settings]
    return CliRunner().invoke(app, command, input=lines)


def test_a_conversation_reads_its_questions_line_by_line() -> None:
    first, second = (row["question"] for row in ASKED[:2])
    result = chat(f"{first}\n\n  {second}  \n")
    assert result.exit_code == 0, result.output
    said = result.stdout.splitlines()
    assert [line for line in said if not line.startswith("  ")] == [first, second]
    assert said[1] == f"  {ASKED[0]['answer']}"
    assert result.stderr.count("tokens in") == 2


def test_a_conversation_can_begin_anew_and_end() -> None:
    question, other = (row["question"] for row in ASKED[:2])
    lines = f"{other}\n/reset\n{question}\n/quit\nnever asked\n"
    result = chat(lines, question, "--json", "--recipe", "stride", "--keep-ratio", "0.5")
    assert result.exit_code == 0, result.output
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [answer["question"] for answer in answers] == [question, other, question]
    entered = [answer["stats"]["prompt_tokens"] for answer in answers]
    assert entered[1] < entered[0] / 4, "the video is in the cache"
    assert entered[2] == entered[0]
    assert answers[2]["text"] == answers[0]["text"]
    assert {answer["stats"]["tokens_kept"] for answer in answers} == {8 * 36 // 2}


def test_a_turn_that_fails_is_told_and_the_conversation_goes_on() -> None:
    result = chat(f"{'red ' * 20_000}\n{ASKED[0]['question']}\n", "why?")
    assert result.exit_code == 1
    assert result.stderr.count("Error: the conversation of") == 1
    assert "chat.reset()" in result.stderr
    assert ASKED[0]["question"] in result.stdout


def test_a_conversation_has_one_recipe() -> None:
    failed_with(run("ask", CLIP, "q", "--chat", "--compare", "none"), 2, "--chat", "leave out --compare")


def test_frames_are_chosen_by_what_is_in_them() -> None:
    chosen = run("ask", CLIP, ASKED[0]["question"], "--frames", "scene", "--num-frames", "4")
    assert chosen.exit_code == 0, chosen.output
    figures = dict(re.findall(r"^(frames|choose frames) +([\d.]+)", chosen.output, re.MULTILINE))
    assert figures["frames"] == "4"
    assert float(figures["choose frames"]) > 0


def test_every_question_gets_the_frames_it_would_get_alone() -> None:
    questions = [ASKED[0]["question"], ASKED[1]["question"]]
    settings = ("--frames", "quota", "--num-frames", "3", "--end-seconds", "4", "--json")
    together = json.loads(run("ask", CLIP, *questions, *settings).stdout)["answers"]
    alone = json.loads(run("ask", CLIP, questions[1], *settings).stdout)["answers"][0]
    first, second = (answer["answers"][0] for answer in together)
    assert first["pts_seconds"] != second["pts_seconds"] == alone["answers"][0]["pts_seconds"]
    assert second["text"] == alone["answers"][0]["text"]
    assert len(first["pts_seconds"]) == 3


def test_recipe_file(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        'keep_tokens = 12\n[frames]\nmethod = "uniform"\nnum_frames = 4\n[pre_llm]\nmethod = "stride"\n'
    )
    result = run("ask", CLIP, ASKED[0]["question"], "--recipe", recipe, "--json")
    assert result.exit_code == 0, result.output
    stats = json.loads(result.stdout)["answers"][0]["answers"][0]["stats"]
    assert (stats["frames"], stats["tokens_kept"]) == (4, 12)


def test_version() -> None:
    assert run("--version").output == f"streamprune {streamprune.__version__}\n"


def test_methods_lists_the_registry() -> None:
    told = json.loads(run("methods", "--json").stdout)
    assert [(row["stage"], row["name"]) for row in told] == [(m.stage, m.name) for m in list_methods()]
    assert "fastvid" in run("methods").output
    assert "keyframes" not in run("methods", "--stage", "pre_llm").output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--keep-ratio", "0"], ["keep_ratio", "(0, 1]", "0"]),
        (["--keep-ratio", "1.5"], ["keep_ratio", "1.5"]),
        (["--keep-ratio", "abc"], ["--keep-ratio", "valid number"]),
        (["--keep-ratio", "nan"], ["keep_ratio", "nan"]),
        (["--keep-ratio", "0.5", "--keep-tokens", "5"], ["not both"]),
        (["--keep-tokens", "0"], ["keep_tokens"]),
        (["--keep-ratio", "0.5"], ["need a method that chooses", "fastvid"]),
        (["--recipe", "fastvidd"], ["Did you mean 'fastvid'"]),
        (["--compare", "nonee"], ["Did you mean 'none'"]),
        (["--recipe", "missing.toml"], ["missing.toml"]),
        (["--num-frames", "0"], ["num_frames", "0"]),
        (["--frames", "sceen"], ["Did you mean 'scene'"]),
        (["--frames", "scene", "--fps", "2"], ["frames='scene'", "fps=2", "give one"]),
        (["--frames", "timestamps"], ["times_seconds"]),
        (["--fps", "-1"], ["fps", "-1"]),
        (["--fps", "nan"], ["fps", "nan"]),
        (["--start-seconds", "5", "--end-seconds", "2"], ["start_seconds", "end_seconds"]),
        (["--max-new-tokens", "0"], ["max_new_tokens"]),
        (["--positions", "sideways"], ["sideways"]),
        (["--max-gap", "3"], ["max_gap=3 is for positions='clipped', got 'keep'"]),
        (["--positions", "clipped", "--max-gap", "-1"], ["max_gap must be at least 0"]),
        (["--backend", "pyavv"], ["Did you mean 'pyav'"]),
        (["--device", "toaster"], ["toaster"]),
        (["--dtype", "float31"], ["float31"]),
        (["--temperature", "-1"], ["temperature", "[0, 100]", "-1"]),
        (["--temperature", "0.001"], ["temperature must be 0", "0.01"]),
        (["--top-p", "0.5"], ["top_p", "give temperature"]),
        (["--temperature", "1", "--top-p", "2"], ["top_p", "(0, 1]"]),
        (["--seed", "-1"], ["seed", "at least 0"]),
        (["--stop", ""], ["stop must not hold an empty text"]),
        (["--no-such-option"], ["--no-such-option"]),
    ],
)
def test_usage_errors_exit_with_2(arguments: list[str], words: list[str]) -> None:
    failed_with(run("ask", CLIP, "what color is the circle?", *arguments), 2, *words)


def test_empty_question_and_missing_arguments_are_usage_errors() -> None:
    failed_with(run("ask", CLIP, " "), 2, "question must not be empty")
    failed_with(run("ask", CLIP), 2, "questions")
    failed_with(run("methods", "--stage", "pre_lm"), 2, "Did you mean 'pre_llm'")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("keep_ratio = ", ["not valid TOML"]),
        ("keep_ration = 0.1", ["Did you mean 'keep_ratio'"]),
        ('[pre_llm]\nmethod = "fastvidd"', ["Did you mean 'fastvid'"]),
        ("[pre_llm]\nnum_segments = 3", ["method"]),
        ('pre_llm = "fastvid"', ["[pre_llm]"]),
        ('[pre_llm]\nmethod = "fastvid"\nsegmants = 3', ["option of fastvid", "segmants"]),
        ('[pre_llm]\nmethod = "fastvid"\nkeep_ratio = 0.1', ["keep_ratio belongs at the top"]),
        ('[pre_llm]\nmethod = "fastvid"\nbudget = 0.1', ["budget is not an option"]),
        ("name = 3", ["name must be text"]),
        ("keep_ratio = 0.5\nkeep_tokens = 4", ["not both"]),
    ],
)
def test_malformed_recipe_files(text: str, words: list[str], tmp_path: Path) -> None:
    recipe = tmp_path / "bad.toml"
    recipe.write_text(text)
    failed_with(run("ask", CLIP, "q", "--recipe", recipe), 2, *words)


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _text_file(path: Path) -> Path:
    path = path.with_suffix(".mp4")
    path.write_text("this is no film\n")
    return path


def _empty_file(path: Path) -> Path:
    path = path.with_suffix(".mp4")
    path.touch()
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path / "nowhere.mp4", ["nowhere.mp4", "no such file"]),
        (_folder, ["source", "image"]),
        (_text_file, ["source.mp4"]),
        (_empty_file, ["source.mp4", "empty"]),
    ],
    ids=["missing", "folder without images", "text", "zero bytes"],
)
def test_unreadable_videos_exit_with_1(
    make: Callable[[Path], Path], words: list[str], tmp_path: Path
) -> None:
    failed_with(run("ask", make(tmp_path / "source"), "q"), 1, *words)


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["table", "json"])
def test_damage_is_told_once_and_not_on_stdout(options: list[str], media: Media) -> None:
    done = subprocess.run(
        _command("ask", str(media("truncated.mkv")), "q", "--num-frames", "2", *options),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr.count("the pictures end 2.00 s before the announced end") == 1
    assert "Warning: " in done.stderr
    assert "Warning: " not in done.stdout
    if options:
        assert len(json.loads(done.stdout)["answers"][0]["answers"][0]["warnings"]) == 1


def _model_folder(path: Path, **files: bytes) -> Path:
    config = (ROOT / "streamprune" / "embedded" / "weights" / "config.json").read_bytes()
    path.mkdir()
    (path / "config.json").write_bytes(config)
    for name, content in files.items():
        (path / name.replace("__", ".")).write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: "no-such-model", ["no-such-model"]),
        (lambda path: path, ["model"]),
        (_folder, ["model", "config.json"]),
        (_model_folder, ["model", "weights"]),
        (lambda path: _model_folder(path, pytorch_model__bin=b"\x80\x04"), ["safetensors"]),
        (
            lambda path: _model_folder(path, model__safetensors=b"\x10\0\0\0\0\0\0\0{broken"),
            ["model.safetensors"],
        ),
    ],
    ids=["unknown name", "missing folder", "no config", "no weights", "pickled weights", "corrupt weights"],
)
def test_models_that_cannot_be_loaded_exit_with_1(
    make: Callable[[Path], Path], words: list[str], tmp_path: Path
) -> None:
    failed_with(run("ask", CLIP, "q", "--model", make(tmp_path / "model")), 1, *words)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the GPU that must be missing here")
def test_cuda_without_a_gpu_exits_with_1() -> None:
    failed_with(run("ask", CLIP, "q", "--device", "cuda"), 1, "cuda", "cpu")


def test_a_prompt_beyond_the_context_says_what_to_do() -> None:
    failed_with(run("ask", CLIP, "red " * 20_000), 1, "tokens", "context")


def test_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("streamprune.pipelines.offline.load", interrupt)
    failed_with(run("ask", CLIP, "q"), 130, "interrupted")


def test_interrupt_while_the_command_line_is_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(name: str) -> None:
        raise KeyboardInterrupt

    module = ModuleType("streamprune.cli")
    monkeypatch.setattr(module, "__getattr__", interrupt, raising=False)
    monkeypatch.setitem(sys.modules, "streamprune.cli", module)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "Error: interrupted\n"


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "streamprune", *arguments]


def test_full_disk_and_closed_pipe_end_with_one_message() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            _command("methods"), stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
    pipe = subprocess.Popen(
        _command("methods", "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert pipe.stdout is not None
    assert pipe.stderr is not None
    pipe.stdout.close()
    assert pipe.stderr.read() == ""
    assert pipe.wait(timeout=60) == 1
    pipe.stderr.close()


def _runs(process_id: str) -> bool:
    try:
        return bool(Path(f"/proc/{process_id}/cmdline").read_bytes())  # empty once it has ended
    except OSError:
        return False


def test_ctrl_c_leaves_no_child_and_exits_with_130(tmp_path: Path) -> None:
    """The real command, interrupted the moment its decoder process appears, which may take a while to end."""
    children = Path("/proc/{}/task/{}/children")
    process = subprocess.Popen(
        _command("ask", str(CLIP), "what color is the circle?", "--backend", "decord"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    own = Path(str(children).format(process.pid, process.pid))
    deadline = time.monotonic() + 60
    while not own.read_text().split() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    kids = own.read_text().split() if process.poll() is None else []
    assert kids, "the command never started the decord child"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    deadline = time.monotonic() + 20
    while any(map(_runs, kids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_runs, kids))


def test_ask_smoke_as_a_process() -> None:
    done = subprocess.run(
        _command("ask", str(CLIP), ASKED[0]["question"], "--num-frames", "16"),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ASKED[0]["answer"] in done.stdout
