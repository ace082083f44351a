"""Encoded videos on disk: nothing is encoded twice, and nothing that differs is taken for the same."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from streamprune.cache.feature_store import FeatureStore
from streamprune.errors import ContextLengthError, InvalidTypeError, SignalError, SourceNotFoundError
from streamprune.frames import Uniform
from streamprune.pipelines.offline import EncodedVideo, VideoLLM, load
from streamprune.pipelines.stored_encoding import EncodingCache
from tests.models.small_llava import save_small_llava
from tests.models.small_qwen import save_small_qwen
from tests.pipelines.test_offline import QUESTION, count_calls

if TYPE_CHECKING:
    from tests.readers.media import Media

ASKED: dict[str, Any] = {"num_frames": 4, "max_new_tokens": 4}


@pytest.fixture
def video(media: Media, tmp_path: Path) -> Path:
    """A file of one's own, which has stood there for a while."""
    copy = tmp_path / "video.mp4"
    shutil.copy(media("h264.mp4"), copy)
    os.utime(copy, (1_700_000_000, 1_700_000_000))
    return copy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def encoded(vlm: VideoLLM, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each run of the vision tower."""
    return count_calls(monkeypatch, vlm.family, "encode")


def same(one: EncodedVideo, other: EncodedVideo, signals: tuple[str, ...] = ()) -> None:
    """Bit for bit."""
    assert torch.equal(one.tokens.features, other.tokens.features)
    assert one.tokens.features.dtype == other.tokens.features.dtype
    assert one.tokens.grid == other.tokens.grid
    assert (one.pts_seconds, one.source, one.warnings) == (other.pts_seconds, other.source, other.warnings)
    assert (one.encoder, one.tower_share) == (other.encoder, other.tower_share)
    assert set(one.tokens.signals) == set(other.tokens.signals)
    for name in {*one.tokens.signals, *signals}:
        assert torch.equal(one.tokens.signals[name], other.tokens.signals[name]), name
    if one.tokens.carried is not None or other.tokens.carried is not None:
        assert one.tokens.carried is not None
        assert other.tokens.carried is not None
        assert torch.equal(one.tokens.carried, other.tokens.carried)


def test_the_second_question_encodes_nothing(
    vlm: VideoLLM, video: Path, folder: Path, encoded: list[int]
) -> None:
    plain = vlm.ask(video, QUESTION, recipe="fastvid", keep_ratio=0.5, **ASKED)
    runs = len(encoded)
    first = vlm.ask(video, QUESTION, recipe="fastvid", keep_ratio=0.5, cache=folder, **ASKED)
    assert len(encoded) == 2 * runs > 0
    second = vlm.ask(video, QUESTION, recipe="fastvid", keep_ratio=0.5, cache=folder, **ASKED)
    assert len(encoded) == 2 * runs, "out of the cache"
    assert plain.text == first.text == second.text
    assert first.stats.encode_ms > 0
    spent = second.stats
    assert (spent.encode_ms, spent.decode_ms, spent.preprocess_ms, spent.choose_ms) == (0, 0, 0, 0)
    assert spent.cache_ms > 0
    assert plain.stats.cache_ms == 0
    assert (spent.tokens_in, spent.tokens_kept) == (plain.stats.tokens_in, plain.stats.tokens_kept)
    assert second.pts_seconds == plain.pts_seconds


@pytest.mark.parametrize("names", [("saliency", "received_attention"), (), None], ids=str)
def test_what_comes_back_is_what_was_encoded(
    vlm: VideoLLM, video: Path, folder: Path, names: tuple[str, ...] | None
) -> None:
    plain = vlm.encode(video, num_frames=4, signals=names)
    kept = vlm.encode(video, num_frames=4, signals=names, cache=folder)
    back = vlm.encode(video, num_frames=4, signals=names, cache=folder)
    assert (plain.from_cache, kept.from_cache, back.from_cache) == (False, False, True)
    same(plain, kept)
    same(plain, back)


def test_a_signal_that_is_the_features_is_stored_once(vlm: VideoLLM, video: Path, folder: Path) -> None:
    names = vlm.family.available_signals()
    plain = vlm.encode(video, num_frames=4, signals=names)
    vlm.encode(video, num_frames=4, signals=names, cache=folder)
    same(plain, vlm.encode(video, num_frames=4, signals=names, cache=folder))
    place = plain.tokens.features.data_ptr()
    shared = [name for name in names if plain.tokens.signals[name].data_ptr() == place]
    sizes = [path.stat().st_size for name in shared for path in (folder / "features").glob(f"*-{name}.*")]
    assert len(sizes) == len(shared)
    assert all(size < 1000 for size in sizes)


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl"])
def test_every_part_of_a_token_comes_back(tmp_path: Path, video: Path, folder: Path, family: str) -> None:
    vlm = load(save_small_qwen(tmp_path / family, family))
    plain = vlm.encode(video, num_frames=4)
    vlm.encode(video, num_frames=4, cache=folder)
    back = vlm.encode(video, num_frames=4, cache=folder)
    assert back.from_cache
    assert (back.tokens.carried is not None) == (family == "qwen3_vl")
    same(plain, back)
    assert vlm.ask(plain, QUESTION, max_new_tokens=4).text == vlm.ask(back, QUESTION, max_new_tokens=4).text


OTHERWISE: list[dict[str, Any]] = [
    {"num_frames": 5},
    {"num_frames": None, "fps": 3},
    {"start_seconds": 0.5},
    {"end_seconds": 1.0},
    {"frames": "keyframes"},
    {"frames": "scene"},
    {"frames_per_batch": 1},
    {"backend": "opencv"},
    {"recipe": "in_tower.toml"},
]


@pytest.mark.parametrize("other", OTHERWISE, ids=str)
def test_what_is_encoded_otherwise_is_another_entry(
    vlm: VideoLLM, video: Path, folder: Path, other: dict[str, Any], tmp_path: Path
) -> None:
    if "recipe" in other:
        recipe = tmp_path / str(other["recipe"])
        recipe.write_text('keep_ratio = 0.7\n[encoder]\nmethod = "tome"\n')
        other = {"recipe": recipe}
    vlm.encode(video, num_frames=4, cache=folder)
    settings = {"num_frames": 4, "cache": folder, **other}
    assert not vlm.encode(video, **settings).from_cache
    assert vlm.encode(video, **settings).from_cache
    assert vlm.encode(video, num_frames=4, cache=folder).from_cache


def test_another_model_is_another_entry(
    vlm: VideoLLM, small_folder: Path, video: Path, folder: Path, tmp_path: Path
) -> None:
    vlm.encode(video, num_frames=4, cache=folder)
    assert load(small_folder).encode(video, num_frames=4, cache=folder).from_cache
    assert not load(small_folder, dtype="bfloat16").encode(video, num_frames=4, cache=folder).from_cache
    headless = load(save_small_llava(tmp_path / "headless", head=False))
    assert not headless.encode(video, num_frames=4, cache=folder).from_cache
    changed = load(small_folder)
    with torch.no_grad():
        changed.family.model.get_input_embeddings().weight.add_(0.25)
    assert not changed.encode(video, num_frames=4, cache=folder).from_cache


def test_half_precision_comes_back_as_it_was(small_folder: Path, video: Path, folder: Path) -> None:
    half = load(small_folder, dtype="bfloat16")
    plain = half.encode(video, num_frames=4, signals=["saliency"], cache=folder)
    back = half.encode(video, num_frames=4, signals=["saliency"], cache=folder)
    assert back.from_cache
    assert back.tokens.features.dtype == torch.bfloat16
    same(plain, back)


def test_the_content_counts_and_not_the_name(
    vlm: VideoLLM, media: Media, video: Path, folder: Path, tmp_path: Path
) -> None:
    vlm.encode(video, num_frames=4, cache=folder)
    copy = tmp_path / "copy.mp4"
    shutil.copy(video, copy)
    back = vlm.encode(str(copy), num_frames=4, cache=folder)
    assert back.from_cache
    assert back.source == str(copy)
    shutil.copy(media("vfr.mkv"), video)
    assert not vlm.encode(video, num_frames=4, cache=folder).from_cache


def test_methods_share_what_they_read(vlm: VideoLLM, video: Path, folder: Path, encoded: list[int]) -> None:
    vlm.ask(video, QUESTION, recipe="fastvid", keep_ratio=0.5, cache=folder, **ASKED)
    runs = len(encoded)
    for recipe in ("fastvid", "fastervlm", "stc", "pool"):  # none of them reads what is not there
        vlm.ask(video, QUESTION, recipe=recipe, keep_ratio=0.5, cache=folder, **ASKED)
    assert len(encoded) == runs
    plain = vlm.ask(video, QUESTION, recipe="visionzip", keep_ratio=0.5, **ASKED)
    runs = len(encoded)
    new = vlm.ask(video, QUESTION, recipe="visionzip", keep_ratio=0.5, cache=folder, **ASKED)
    assert len(encoded) > runs, "keys and received_attention were not there"
    runs = len(encoded)
    again = vlm.ask(video, QUESTION, recipe="visionzip", keep_ratio=0.5, cache=folder, **ASKED)
    assert len(encoded) == runs
    assert plain.text == new.text == again.text


def test_signals_of_what_came_back_are_computed_late(
    vlm: VideoLLM, video: Path, folder: Path, encoded: list[int]
) -> None:
    plain = vlm.encode(video, num_frames=4)
    vlm.encode(video, num_frames=4, cache=folder)
    back = vlm.encode(video, num_frames=4, cache=folder)
    assert back.from_cache
    same(plain, back, signals=("received_attention", "keys"))
    runs = len(encoded)
    other = vlm.encode(video, num_frames=4, cache=folder)
    assert torch.equal(other.tokens.signals["keys"], plain.tokens.signals["keys"])
    assert len(encoded) == runs, "what was computed late is kept as well"
    assert vlm.ask(other, QUESTION, recipe="visionzip", keep_ratio=0.5).stats.encode_ms > 0


@pytest.mark.parametrize("change", [lambda video: video.write_bytes(b"another"), Path.unlink])
def test_late_signals_of_another_file_are_refused(
    vlm: VideoLLM, video: Path, folder: Path, change: Callable[[Path], None]
) -> None:
    vlm.encode(video, num_frames=4, cache=folder)
    back = vlm.encode(video, num_frames=4, cache=folder)
    change(video)
    with pytest.raises(
        SignalError, match=r"'keys' was not computed .* changed or gone since; encode it again"
    ):
        back.tokens.signals["keys"]


@dataclass(frozen=True, kw_only=True)
class OwnFrames(Uniform):
    """A frames method of a user's own, whose code may change while its options stay."""


def test_what_cannot_be_told_apart_is_not_cached(
    vlm: VideoLLM, video: Path, folder: Path, tmp_path: Path
) -> None:
    frames = np.zeros((4, 32, 32, 3), np.uint8)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    from PIL import Image

    Image.fromarray(frames[0]).save(pictures / "a.png")
    for shown in (frames, pictures):
        for _ in range(2):
            assert not vlm.encode(shown, cache=folder).from_cache
    for _ in range(2):
        assert not vlm.encode(video, frames=OwnFrames(num_frames=2), cache=folder).from_cache
    assert not folder.exists() or FeatureStore(folder / "features", 10**9).size_bytes() == 0
    with pytest.raises(SourceNotFoundError):
        vlm.encode(tmp_path / "none.mp4", cache=folder)


@pytest.mark.parametrize("part", ["features", "signal"])
@pytest.mark.parametrize("how", ["cut", "one bit"])
def test_a_damaged_entry_is_made_anew(
    vlm: VideoLLM, video: Path, folder: Path, part: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings: dict[str, Any] = {"num_frames": 4, "signals": ["saliency"], "cache": folder}
    plain = vlm.encode(video, **settings)
    (path,) = (
        path
        for path in (folder / "features").glob("*.safetensors")
        if ("-saliency" in path.name) == (part == "signal")
    )
    raw = bytearray(path.read_bytes())
    if how == "cut":
        del raw[len(raw) // 2 :]
    else:
        raw[-5] ^= 1
    path.write_bytes(raw)
    with caplog.at_level(logging.WARNING):
        rebuilt = vlm.encode(video, **settings)
    assert "is damaged and is made anew" in caplog.text
    assert not rebuilt.from_cache
    back = vlm.encode(video, **settings)
    assert back.from_cache
    same(plain, rebuilt)
    same(plain, back)


def test_a_cache_that_cannot_be_written_costs_a_warning(
    vlm: VideoLLM, video: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert not vlm.encode(video, num_frames=4, cache=tmp_path / "file" / "below").from_cache
    assert "cannot be stored" in caplog.text
    caplog.clear()
    small = EncodingCache.at(tmp_path / "small", "1kB")
    with caplog.at_level(logging.WARNING):
        assert not vlm.encode(video, num_frames=4, cache=small).from_cache
    assert "more than the store's bound of 1000" in caplog.text


def test_the_cache_stays_within_its_bytes(vlm: VideoLLM, video: Path, folder: Path) -> None:
    first = EncodingCache.at(folder)
    vlm.encode(video, num_frames=4, cache=first)
    bound = 3 * first.store.size_bytes()
    small = EncodingCache.at(folder, bound)
    for frames in range(1, 9):
        vlm.encode(video, num_frames=frames, cache=small)
        assert small.store.size_bytes() <= bound
    assert vlm.encode(video, num_frames=8, cache=small).from_cache
    assert not vlm.encode(video, num_frames=4, cache=small).from_cache


def test_too_long_a_video_is_refused_in_the_cache_too(
    vlm: VideoLLM, bare_vlm: VideoLLM, video: Path, folder: Path
) -> None:
    bare_vlm.encode(video, num_frames=8, signals=(), cache=folder)
    with pytest.raises(ContextLengthError):
        bare_vlm.ask(video, QUESTION, num_frames=8, cache=folder)


def test_threads_may_share_it(vlm: VideoLLM, video: Path, folder: Path) -> None:
    said: list[str] = []
    expected = vlm.ask(video, QUESTION, **ASKED).text

    def ask() -> None:
        said.append(vlm.ask(video, QUESTION, cache=folder, **ASKED).text)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == [expected] * 4
    assert vlm.encode(video, num_frames=4, signals=(), cache=folder).from_cache


def _encode(model: str, video: str, folder: str) -> None:
    torch.set_num_threads(1)
    vlm = load(model)
    for frames in (2, 3, 4):
        vlm.encode(video, num_frames=frames, cache=folder)


def test_processes_may_share_it(vlm: VideoLLM, small_folder: Path, video: Path, folder: Path) -> None:
    processes = multiprocessing.get_context("fork" if sys.platform.startswith("linux") else "spawn")
    arguments = (str(small_folder), str(video), str(folder))
    workers = [processes.Process(target=_encode, args=arguments) for _ in range(3)]  # type: ignore[attr-defined]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    for frames in (2, 3, 4):
        back = vlm.encode(video, num_frames=frames, cache=folder)
        assert back.from_cache
        same(vlm.encode(video, num_frames=frames), back)


def test_a_file_that_changes_while_it_is_encoded_is_not_kept(
    vlm: VideoLLM, video: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = vlm.family.encode

    def changing(*given: Any, **named: Any) -> Any:
        os.utime(video)
        return encode(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(vlm.family, "encode", changing)
        vlm.encode(video, num_frames=4, cache=folder)
    assert not vlm.encode(video, num_frames=4, cache=folder).from_cache


def test_chats_and_lists_of_videos_use_it(
    vlm: VideoLLM, video: Path, folder: Path, encoded: list[int]
) -> None:
    vlm.encode(video, num_frames=4, signals=(), cache=folder)
    runs = len(encoded)
    vlm.chat(video, cache=folder, **ASKED).ask(QUESTION)
    answers = vlm.ask([str(video)] * 2, QUESTION, cache=folder, **ASKED)
    assert len(encoded) == runs
    assert answers[0].text == answers[1].text


@pytest.mark.parametrize("cache", [None, 3, "", b"folder"])
def test_what_is_no_cache_is_refused(vlm: VideoLLM, video: Path, cache: Any) -> None:
    with pytest.raises(InvalidTypeError, match="cache must be True, False, a folder"):
        vlm.ask(video, QUESTION, cache=cache)


def test_true_is_the_users_folder(
    vlm: VideoLLM, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMPRUNE_CACHE", str(tmp_path / "mine"))
    vlm.encode(video, num_frames=4, cache=True)
    assert vlm.encode(video, num_frames=4, cache=tmp_path / "mine").from_cache
    with pytest.raises(ValueError, match="cache_bytes must be bytes"):
        EncodingCache.at(None, "lots")
