"""``streamprune ask`` on the same video twice: the second time nothing is encoded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from streamprune.cli import app

CLIP = Path(__file__).resolve().parents[1] / "demos" / "clips" / "square_parade.mp4"
ASKED = json.loads(CLIP.with_suffix(".json").read_text())["questions"][0]


@pytest.fixture(autouse=True)
def users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that nothing is in yet."""
    monkeypatch.setenv("STREAMPRUNE_CACHE", str(tmp_path / "users"))
    return tmp_path / "users"


def run(*settings: str | Path) -> Result:
    command = ["ask", str(CLIP), ASKED["question"], "--num-frames", "4", "--json", *map(str, settings)]
    return CliRunner().invoke(app, command)


def told(*settings: str | Path) -> dict[str, Any]:
    """The last answer that is printed."""
    result = run(*settings)
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.stdout)["answers"][-1]["answers"][-1]
    return answer


def test_the_same_video_is_encoded_once(users_folder: Path) -> None:
    first, second = told(), told()
    assert first["text"] == second["text"]
    assert first["stats"]["encode_ms"] > 0
    assert second["stats"]["encode_ms"] == second["stats"]["decode_ms"] == 0
    assert second["stats"]["cache_ms"] > 0
    assert list((users_folder / "features").glob("*.safetensors"))


def test_what_differs_is_encoded() -> None:
    told()
    assert told("--num-frames", "5")["stats"]["encode_ms"] > 0
    assert told("--model", "embedded-qwen")["stats"]["encode_ms"] > 0
    assert told("--fps", "1")["stats"]["encode_ms"] > 0
    assert told("--no-cache")["stats"]["encode_ms"] > 0
    assert told("--keep-ratio", "0.5", "--recipe", "stride")["stats"]["encode_ms"] == 0


def test_without_a_cache_nothing_is_written(users_folder: Path) -> None:
    told("--no-cache")
    assert not users_folder.exists()


def test_another_folder_and_its_bytes(users_folder: Path, tmp_path: Path) -> None:
    told("--cache-dir", tmp_path / "other")
    assert told("--cache-dir", tmp_path / "other")["stats"]["encode_ms"] == 0
    assert not users_folder.exists()
    shutil.rmtree(tmp_path / "other")
    result = run("--cache-dir", tmp_path / "other", "--cache-bytes", "1kB")
    assert result.exit_code == 0
    assert "more than the store's bound of 1000" in result.stderr
    failed = run("--cache-bytes", "lots")
    assert failed.exit_code == 2
    assert "cache_bytes must be bytes" in failed.stderr


def test_a_folder_that_cannot_be_had_is_a_warning_beside_the_answer(users_folder: Path) -> None:
    users_folder.mkdir()
    (users_folder / "features").write_text("in the way")
    result = run()
    assert result.exit_code == 0
    assert json.loads(result.stdout)["answers"][0]["answers"][0]["text"]
    assert "is a file; give a folder; nothing is cached" in result.stderr
    (users_folder / "features").unlink()
    users_folder.rmdir()
    users_folder.write_text("in the way")
    result = run()
    assert result.exit_code == 0
    assert "cannot be stored" in result.stderr


def test_a_named_folder_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "features").write_text("in the way")
    failed = run("--cache-dir", tmp_path)
    assert failed.exit_code == 1
    assert "is a file; give a folder" in failed.stderr


def test_a_conversation_uses_it() -> None:
    told()
    result = CliRunner().invoke(
        app, ["ask", str(CLIP), ASKED["question"], "--num-frames", "4", "--chat", "--json"], input=""
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[0])["stats"]["encode_ms"] == 0
