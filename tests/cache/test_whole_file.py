"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from streamprune.cache import whole_file
from streamprune.cache.whole_file import leavings, owner_runs, remove_leavings, write_whole

TENSORS = {"a": torch.arange(6.0)}


def test_a_file_is_replaced_and_nothing_else_stays(tmp_path: Path) -> None:
    target = tmp_path / "[a].safetensors"
    for number in (1, 2):
        write_whole(target, {"a": TENSORS["a"] * number}, {"number": str(number)})
        assert torch.equal(load_file(target)["a"], TENSORS["a"] * number)
    assert os.listdir(tmp_path) == [target.name]


def test_what_is_cut_short_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.safetensors"
    write_whole(target, TENSORS, {})
    before = target.read_bytes()

    def full(tensors: object, path: Path, metadata: object) -> None:
        path.with_name(".tmp of the library").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(whole_file, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(target, TENSORS, {})
    assert (os.listdir(tmp_path), target.read_bytes()) == ([target.name], before)


def test_leavings_are_told_by_whose_they_are(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    names = {owner: f".[a].b.{owner}.7.9.part" for owner in (ended.pid, os.getpid())}
    for name in names.values():
        (tmp_path / name).mkdir()
        (tmp_path / name / ".tmp1").write_bytes(b"half")
    (tmp_path / f".other.{ended.pid}.7.9.part").mkdir()
    found = {path.name: owner_runs(path) for path in leavings(tmp_path, "[a].b")}
    assert found == {names[ended.pid]: False, names[os.getpid()]: True}
    assert len(leavings(tmp_path)) == 3
    remove_leavings(tmp_path / names[ended.pid])
    assert len(leavings(tmp_path)) == 2
