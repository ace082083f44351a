"""Entries on disk: whole or not at all, bounded in bytes, shared by processes, damaged ones made anew."""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from streamprune.cache.feature_store import FeatureStore
from streamprune.errors import InvalidValueError, StorageError

DEMOS = Path(__file__).resolve().parents[2] / "demos"
KILLS = 5
ABOUT: dict[str, Any] = {"pts": [0.0, 0.5], "source": "ä.mp4"}


def _tensors(seed: int, numbers: int = 250) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(2, numbers, generator=generator)
    return {"features": values.transpose(0, 1), "half": values.bfloat16(), "empty": values[:, :0]}


def _same(store: FeatureStore, key: str, seed: int) -> bool:
    entry = store.get(key)
    if entry is None:
        return False
    expected = _tensors(seed)
    assert entry.about == ABOUT
    assert entry.tensors.keys() == expected.keys()
    return all(torch.equal(entry.tensors[name], expected[name]) for name in expected)


def test_what_was_stored_comes_back_to_anybody(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "new" / "folder", 10**6)
    assert store.get("a") is None
    assert store.put("a", _tensors(1), ABOUT)
    assert _same(store, "a", 1)
    assert _same(FeatureStore(store.folder, 10**6), "a", 1)
    assert store.put("a", _tensors(2), ABOUT)
    assert _same(store, "a", 2)
    store.clear()
    assert store.get("a") is None
    assert store.size_bytes() == 0


def test_the_longest_unused_goes_first(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, 10**6)
    store.put("a", _tensors(0), ABOUT)
    one = store.size_bytes()
    store = FeatureStore(tmp_path, 3 * one)
    for age, key in enumerate("abc"):
        store.put(key, _tensors(age), ABOUT)
        os.utime(tmp_path / f"{key}.safetensors", (1000 + age, 1000 + age))
    assert _same(store, "a", 0), "used now"
    store.put("d", _tensors(3), ABOUT)
    assert store.get("b") is None
    assert all(_same(store, key, seed) for key, seed in (("a", 0), ("c", 2), ("d", 3)))
    assert store.size_bytes() <= store.max_bytes


def test_what_is_too_large_is_not_stored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = FeatureStore(tmp_path, 100)
    with caplog.at_level(logging.WARNING):
        assert not store.put("a", _tensors(0), ABOUT)
    assert "more than the store's bound of 100" in caplog.text
    assert list(tmp_path.iterdir()) == []


def _damage(path: Path, how: str) -> None:
    raw = bytearray(path.read_bytes())
    if how == "cut":
        raw = raw[: len(raw) // 2]
    elif how == "empty":
        raw = bytearray()
    elif how == "one bit":
        raw[-5] ^= 1
    elif how == "noise":
        raw[:200] = os.urandom(200)
    elif how == "other version":
        raw = raw.replace(b'"format":"1"', b'"format":"0"')
    path.write_bytes(raw)


@pytest.mark.parametrize("how", ["cut", "empty", "one bit", "noise", "other version"])
def test_what_is_damaged_is_missing_and_made_anew(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = FeatureStore(tmp_path, 10**6)
    store.put("a", _tensors(0), ABOUT)
    _damage(tmp_path / "a.safetensors", how)
    with caplog.at_level(logging.WARNING):
        assert store.get("a") is None
    assert "is damaged and is made anew" in caplog.text
    assert not (tmp_path / "a.safetensors").exists()
    store.put("a", _tensors(1), ABOUT)
    assert _same(store, "a", 1)


def test_what_cannot_be_written_costs_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        assert not FeatureStore(tmp_path / "file" / "below", 10**6).put("a", _tensors(0), ABOUT)
    assert "cannot be stored" in caplog.text
    with pytest.raises(StorageError, match="is a file; give a folder"):
        FeatureStore(tmp_path / "file", 10**6)


def test_leavings_of_killed_processes_are_cleared(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, 10**6)
    old, fresh = tmp_path / ".x.safetensors.1.2.3.part", tmp_path / ".y.safetensors.1.2.3.part"
    for path in (old, fresh):
        path.mkdir()
        (path / ".tmp1").write_bytes(b"half")
    os.utime(old, (1000, 1000))
    store.put("a", _tensors(0), ABOUT)
    assert (old.exists(), fresh.exists()) == (False, True), "the other may still be written"


@pytest.mark.parametrize("key", ["", "a/b", "..", "a b", "ä"])
def test_keys_are_no_paths(tmp_path: Path, key: str) -> None:
    with pytest.raises(InvalidValueError, match="key must be"):
        FeatureStore(tmp_path, 10**6).get(key)


@pytest.fixture
def processes() -> Any:
    """Processes that share nothing but the folder; forked where that is possible, which is quick."""
    return multiprocessing.get_context("fork" if sys.platform.startswith("linux") else "spawn")


def test_a_killed_writer_leaves_whole_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DEMOS))
    soak = importlib.import_module("cache_soak")
    method = "fork" if sys.platform.startswith("linux") else "spawn"
    seen = soak.kill_writers(tmp_path, KILLS, start_method=method, say=lambda said: None)
    assert seen.faults() == []
    assert seen.kills == KILLS <= seen.entries


def _fill_the_disk(folder: str, bound: int) -> None:
    import resource

    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bound, bound))
    store = FeatureStore(folder, 10**7)
    stored = store.put("big", _tensors(0, 8_000), ABOUT)
    left = sorted(path.name for path in Path(folder).iterdir())
    small = store.put("small", _tensors(1, 20), ABOUT)
    os._exit(0 if (stored, left, small) == (False, [".lock", "before.safetensors"], True) else 1)


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, processes: Any) -> None:
    FeatureStore(tmp_path, 10**7).put("before", _tensors(2, 20), ABOUT)
    process = processes.Process(target=_fill_the_disk, args=(str(tmp_path), 20_000))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert FeatureStore(tmp_path, 10**7).get("before") is not None


def _hammer(folder: str, seed: int) -> None:
    torch.set_num_threads(1)
    store = FeatureStore(folder, 30_000)  # room for a few
    for turn in range(30):
        key = (seed + turn) % 6
        if not _same(store, f"k{key}", key):
            store.put(f"k{key}", _tensors(key), ABOUT)


def test_several_processes_may_share_it(tmp_path: Path, processes: Any) -> None:
    workers = [processes.Process(target=_hammer, args=(str(tmp_path), seed)) for seed in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert FeatureStore(tmp_path, 30_000).size_bytes() <= 30_000
