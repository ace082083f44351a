"""``streamprune doctor``: every part is looked at, and what is broken is told with what to do."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from streamprune.cli import app, examination
from streamprune.cli import doctor as command
from streamprune.cli.examination import Finding, examine
from streamprune.models.checkpoint_files import EMBEDDED
from streamprune.models.families import FAMILIES

AREAS = ["installation", "devices", "video", "extras", "attention", "families", "models", "disk"]


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> list[Finding]:
    return list(examine(tmp_path_factory.mktemp("cache")))


def named(findings: list[Finding], name: str) -> Finding:
    (found,) = [finding for finding in findings if finding.name == name]
    return found


def test_this_installation_is_sound(findings: list[Finding]) -> None:
    assert list(dict.fromkeys(finding.area for finding in findings)) == AREAS
    assert [finding for finding in findings if finding.state == "broken"] == []
    needed = {finding.name for finding in findings if finding.area == "installation"}
    assert {"python", "torch", "transformers", "av", "numpy"} <= needed
    assert named(findings, "torch").detail == importlib.metadata.version("torch")
    assert "h264" in named(findings, "codecs").detail
    assert named(findings, "usable").detail.startswith("eager, sdpa")
    assert named(findings, "supported").detail.split(", ") == sorted(FAMILIES)


def test_the_shipped_models_answer(findings: list[Finding]) -> None:
    models = [finding for finding in findings if finding.area == "models"]
    assert [finding.name for finding in models] == list(EMBEDDED)
    assert all(finding.state == "ok" and " s)" in finding.detail for finding in models)


def test_what_is_missing_comes_with_its_install_command(findings: list[Finding]) -> None:
    extras = [finding for finding in findings if finding.area == "extras"]
    assert {"torchcodec", "faiss", "opencv", "decord", "accelerate"} <= {one.name for one in extras}
    for finding in extras:
        assert (finding.state == "missing") == finding.hint.startswith("pip install ")


def only(part: Iterator[Finding], name: str) -> Finding:
    return named(list(part), name)


def test_packages_out_of_range_or_absent_or_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    real, lost = importlib.metadata.version, importlib.metadata.PackageNotFoundError

    def version(name: str) -> str:
        if name == "av":
            raise lost(name)
        return {"transformers": "4.57.0", "torch": "2.13.0+cu126"}.get(name) or real(name)

    def load(name: str) -> Any:
        if name == "safetensors":
            raise OSError("a library is missing")

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(examination, "import_module", load)
    found = list(examination.installation())
    old = named(found, "transformers")
    assert (old.state, old.hint) == ("broken", "pip install 'transformers<6,>=5.18'")
    assert old.detail == "4.57.0 is not in <6,>=5.18"
    assert (named(found, "av").state, named(found, "av").detail) == ("broken", "not installed")
    assert named(found, "torch").state == "ok"
    assert named(found, "safetensors").state == "broken"
    assert "OSError: a library is missing" in named(found, "safetensors").detail


def test_a_gpu_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        name = "Some GPU"
        total_memory = 80 * 2**30

    cuda = "torch.cuda."
    for name, value in (("is_available", True), ("device_count", 1), ("is_bf16_supported", True)):
        monkeypatch.setattr(cuda + name, lambda value=value: value)
    monkeypatch.setattr(cuda + "get_device_properties", lambda number: Properties)
    assert only(examination.devices(), "cuda:0").detail == "Some GPU, 80 GB, bfloat16"
    monkeypatch.setattr(cuda + "is_available", lambda: False)
    assert only(examination.devices(), "cuda").state == "missing"


def test_a_codec_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("av.codecs_available", {"h264", "vp9"})
    found = list(examination.codecs())
    assert named(found, "codecs").detail == "h264, vp9"
    assert [one.name for one in found if one.state == "missing"] == ["hevc", "av1"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = only(examination.disk(tmp_path / "file" / "below"), "cache folder")
    assert (found.state, "--cache-dir" in found.hint) == ("missing", True)
    later = tmp_path / "not" / "yet"
    assert only(examination.disk(later), "cache folder").state == "ok"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"], "nothing is left behind"


def test_what_is_held_in_the_cache_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "a.safetensors").write_bytes(bytes(3 * 2**20))
    assert "(3 MB held, " in only(examination.disk(tmp_path), "cache folder").detail


def test_a_wrong_answer_is_broken_and_a_failing_part_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Sayer:
        text = "no"

        def ask(self, *given: Any, **settings: Any) -> Sayer:
            return self

    def fail() -> None:
        raise RuntimeError("half installed")

    monkeypatch.setattr("streamprune.pipelines.offline.load", lambda name: Sayer())
    monkeypatch.setattr("streamprune.models.attention_kinds.usable_attention", fail)
    monkeypatch.setattr(examination, "installation", lambda: iter(()))
    found = list(examine(tmp_path))
    wrong, lost = named(found, "embedded"), named(found, "attention")
    assert (wrong.state, "the answer is" in wrong.hint) == ("broken", True)
    assert (lost.state, lost.detail) == ("broken", "RuntimeError: half installed")
    assert found[-1].area == "disk"


GOOD = Finding("video", "pyav", "ok", "18.1.0")
OPTIONAL = Finding("extras", "faiss", "missing", "not installed", "pip install 'streamprune[faiss]'")
BAD = Finding("installation", "torch", "broken", "not installed", "pip install 'torch>=2.9'")


@pytest.mark.parametrize(("found", "code"), [([GOOD, OPTIONAL], 0), ([BAD, GOOD, OPTIONAL], 1)])
def test_the_command(found: list[Finding], code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def examined(folder: Path | None) -> Iterator[Finding]:
        given.append(folder)
        yield from found

    monkeypatch.setattr(command, "examine", examined)
    shown = CliRunner().invoke(app, ["doctor", "--cache-dir", "somewhere"])
    told = CliRunner().invoke(app, ["doctor", "--json"])
    assert shown.exit_code == told.exit_code == code
    assert given == [Path("somewhere"), None]
    for finding in found:
        assert finding.name in shown.stdout
        assert finding.hint in shown.stdout
    facts = json.loads(told.stdout)
    assert facts == {"ok": code == 0, "findings": [finding.to_dict() for finding in found]}
