"""A saved stream goes on as if nothing had happened; what cannot be read says why."""

from __future__ import annotations

import importlib
import json
import os
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import streamprune as sp
from streamprune import errors
from streamprune.cache.rekv import ReKV
from streamprune.embedded.world import Clip, clip
from streamprune.pipelines.live import LiveStream
from streamprune.pipelines.live_snapshot import Snapshot, read_snapshot, write_snapshot
from streamprune.pipelines.offline import VideoLLM
from streamprune.registry import list_methods
from tests.pipelines.test_live_budget import least_bytes

FRAMES = 8
KILLS = 5
SETTINGS: dict[str, Any] = {"memory": "rekv", "memory_bytes": 8_000_000, "fps": 2}


@pytest.fixture(scope="module", params=["embedded", "embedded-qwen"])
def any_vlm(request: pytest.FixtureRequest) -> VideoLLM:
    return sp.load(request.param)


@pytest.fixture(scope="module")
def vlm() -> VideoLLM:
    return sp.load("embedded")


@pytest.fixture(scope="module")
def video() -> Clip:
    return clip(9_100, FRAMES, split="eval", questions=4)


@pytest.fixture
def saved(vlm: VideoLLM, video: Clip, tmp_path: Path) -> Path:
    path = tmp_path / "stream.safetensors"
    with vlm.open_stream(**SETTINGS) as live:
        for frame in video.frames[:4]:
            live.push(frame)
        live.save(path)
    return path


def state(live: LiveStream, path: Path) -> Snapshot:
    live.save(path)
    return read_snapshot(path)


@pytest.mark.parametrize(
    "recipe", [None, "streaming_tom", "timechat_online", "encoder:stc"], ids=lambda one: str(one)
)
def test_it_goes_on_as_before(any_vlm: VideoLLM, video: Clip, tmp_path: Path, recipe: str | None) -> None:
    settings = {**SETTINGS, "bucket": recipe == "streaming_tom"}
    if recipe == "streaming_tom":
        settings["keep_tokens"] = 12
    if recipe == "timechat_online":
        settings["threshold"] = 0.3
    with any_vlm.open_stream(recipe, **settings) as live:
        for frame in video.frames[:5]:  # in the midst of a slice of two
            live.push(frame)
        live.ask(video.questions[0].text, remember=True)
        live.save(tmp_path / "half")
        with LiveStream.load(tmp_path / "half", any_vlm) as again:
            assert again.stats().frames == live.stats().frames
            assert again.stats().held == live.stats().held
            for one in (live, again):
                for frame in video.frames[5:]:
                    one.push(frame)
            found, expected = state(again, tmp_path / "again"), state(live, tmp_path / "live")
            assert found.about["state"]["ingest"] == expected.about["state"]["ingest"]
            assert found.tensors.keys() == expected.tensors.keys()
            for name, tensor in expected.tensors.items():
                assert torch.equal(found.tensors[name], tensor), name
            for question in video.questions:
                assert again.ask(question.text).text == live.ask(question.text).text
    assert again.describe() == live.describe()


@pytest.mark.parametrize("memory", [row.name for row in list_methods("memory")])
def test_every_memory_goes_on_as_before(vlm: VideoLLM, video: Clip, tmp_path: Path, memory: str) -> None:
    nbytes = least_bytes(vlm, memory=memory) * 5 // 4
    with vlm.open_stream(memory=memory, memory_bytes=nbytes, gate=False) as live:
        for number in range(10):
            live.push(video.frames[number % FRAMES])
        live.save(tmp_path / "half")
        with LiveStream.load(tmp_path / "half", vlm) as again:
            assert again.stats().tiers == live.stats().tiers
            for one in (live, again):
                one.push(video.frames[2])
                one.push(video.frames[3])
            question = video.questions[0].text
            assert again.ask(question).text == live.ask(question).text
            found, expected = state(again, tmp_path / "again"), state(live, tmp_path / "live")
            assert found.about["state"]["ingest"] == expected.about["state"]["ingest"]
            for name, tensor in expected.tensors.items():
                assert torch.equal(found.tensors[name], tensor), name


def test_times_go_on_behind_the_saved_ones(vlm: VideoLLM, video: Clip, saved: Path) -> None:
    with LiveStream.load(saved, vlm) as live:
        assert live.stats().newest_seconds == 1.5
        pushed = live.push(video.frames[5], 0.0)
        assert (pushed.accepted, pushed.pts_seconds) == (True, 2.0)
        assert live.push(video.frames[6], 0.5).pts_seconds == 2.5


def test_saving_replaces_whole_files(vlm: VideoLLM, video: Clip, saved: Path) -> None:
    with LiveStream.load(saved, vlm) as live:
        live.push(video.frames[6])
        live.save(saved)
        live.save(str(saved))
    with LiveStream.load(str(saved), vlm) as live:
        assert live.stats().frames.seen == 5
    assert os.listdir(saved.parent) == [saved.name]


def rewritten(path: Path, **changes: str) -> None:
    """The file with other entries in its header."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        header = {**(file.metadata() or {}), **changes}
    save_file(tensors, path, metadata=header)


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(bytes(data))


def other_about(path: Path) -> None:
    snapshot = read_snapshot(path)
    about = json.loads(json.dumps(snapshot.about))
    about["options"]["memory"]["name"] = "of_a_plugin"
    write_snapshot(path, Snapshot(snapshot.tensors, about))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1000]), "damaged or cut short"),
        (lambda path: path.write_bytes(b""), "damaged or cut short"),
        (lambda path: path.unlink(), "no such file"),
        (flipped, "its bytes do not add up"),
        (lambda path: rewritten(path, about="{}"), "its bytes do not add up"),
        (lambda path: rewritten(path, kind="feature"), "no saved stream"),
        (lambda path: save_file({"a": torch.zeros(3)}, path), "no saved stream"),
        (lambda path: rewritten(path, version="7"), "version '7' of the format.*update streamprune"),
        (other_about, r"registered.*UnknownNameError.*of_a_plugin"),
    ],
)
def test_what_cannot_be_read(vlm: VideoLLM, saved: Path, damage: Any, message: str) -> None:
    damage(saved)
    with pytest.raises(errors.SnapshotError, match=message) as caught:
        LiveStream.load(saved, vlm)
    assert str(saved) in str(caught.value)
    assert isinstance(caught.value, OSError | ValueError)


def test_another_model(saved: Path) -> None:
    with pytest.raises(errors.SnapshotError, match="saved with the model 'embedded', whose weights"):
        LiveStream.load(saved, sp.load("embedded-qwen"))
    with pytest.raises(errors.SnapshotError, match="in the same dtype"):
        LiveStream.load(saved, sp.load("embedded", dtype="bfloat16"))
    changed = sp.load("embedded")
    with torch.no_grad():
        changed.family.model.get_input_embeddings().weight += 0.01
    with pytest.raises(errors.SnapshotError, match="whose weights"):
        LiveStream.load(saved, changed)


def test_no_model_at_all(saved: Path) -> None:
    with pytest.raises(errors.InvalidTypeError, match="vlm must be a VideoLLM"):
        LiveStream.load(saved, "embedded")  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidTypeError, match="path must be the path of a file"):
        LiveStream.load(7, sp.load("embedded"))  # type: ignore[arg-type]


def test_a_full_disk_leaves_the_old_file(vlm: VideoLLM, video: Clip, saved: Path) -> None:
    before = saved.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with LiveStream.load(saved, vlm) as live:
        live.push(video.frames[6])
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            with pytest.raises(errors.StorageError, match="what was there before is untouched"):
                live.save(saved)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert saved.read_bytes() == before
        assert os.listdir(saved.parent) == [saved.name]
        live.save(saved)
    with pytest.raises(errors.StorageError, match="cannot save"), LiveStream.load(saved, vlm) as live:
        live.save(saved.parent / "nowhere" / "file")


@dataclass(frozen=True, kw_only=True)
class Mine(ReKV):
    """A memory that nobody has registered."""


def test_a_memory_of_ones_own_needs_a_name(vlm: VideoLLM, video: Clip, tmp_path: Path) -> None:
    with vlm.open_stream(memory=Mine(), memory_bytes=8_000_000) as live:
        live.push(video.frames[0])
        with pytest.raises(errors.RecipeError, match="Mine is not registered"):
            live.save(tmp_path / "file")
        sp.register_method(Mine, "mine", stage="memory")
        try:
            live.save(tmp_path / "file")
            with LiveStream.load(tmp_path / "file", vlm) as again:
                assert again.describe()["memory"]["name"] == "mine"
        finally:
            sp.unregister_method("mine", stage="memory")


def test_killed_while_it_saves(vlm: VideoLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend("demos")
    soak = importlib.import_module("save_soak")
    monkeypatch.setattr(soak, "_LONGEST_SECONDS", 0.2)
    seen = soak.kill_savers(tmp_path, KILLS, vlm, say=lambda text: None)
    assert (seen.kills, seen.loaded, seen.faults()) == (KILLS, KILLS, [])
    assert len(os.listdir(tmp_path)) <= 2, "what killed processes leave is cleared up by the next one"
