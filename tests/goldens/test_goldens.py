"""Our methods against recorded outputs of the released code.

``pytest tests/goldens --goldens-dir DIR`` replays another folder of the same format. A folder of recordings
that nothing replays is skipped with a reason and named at the end of the run; among the cases of this
repository that is a failure.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.goldens.adapters import ADAPTERS
from tests.goldens.case import Case, cases_in
from tests.goldens.decision import decide

HERE = Path(__file__).parent
RECORDED = HERE / "recorded"


def test_recorded(case: Case) -> None:
    replay = ADAPTERS.get(case.folder)
    if replay is None:
        said = f"goldens not covered: no adapter for {case.folder!r} in tests/goldens/adapters"
        if case.path.is_relative_to(RECORDED):
            pytest.fail(said)
        pytest.skip(said)
    replay(case)


def test_a_full_budget_is_decided_as_a_release_does() -> None:
    attention = torch.tensor([0.2, 0.4, 0.1, 0.3]).reshape(1, 2, 2)
    signals = {"received_attention": attention, "keys": torch.eye(4).reshape(1, 2, 2, 4)}
    decided = decide(
        torch.eye(4).reshape(1, 2, 2, 4), "visionzip", keep_tokens=4, signals=signals, dominant=2
    )
    assert decided.index[decided.order].tolist() == [1, 3, 0, 2]


def test_the_index_lists_the_recorded_cases() -> None:
    index = json.loads((RECORDED / "index.json").read_text(encoding="utf-8"))
    listed = {f"{folder}-{name}" for folder, cases in index.items() for name in cases}
    assert listed == {case.id for case in cases_in(RECORDED)}
    assert ADAPTERS.keys() == index.keys()


def _run(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "test_goldens.py")]
    command += ["-k", "test_recorded", "--goldens-dir", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=HERE.parents[1], env=environment, capture_output=True, text=True, check=False
    )


def test_another_folder_is_replayed_and_what_is_unknown_is_named(tmp_path: Path) -> None:
    shutil.copytree(RECORDED / "fastvid_signal_qwen", tmp_path / "fastvid_signal_qwen")
    shutil.copytree(RECORDED / "fastvid_signal_qwen", tmp_path / "unheard_of")
    spoilt = tmp_path / "fastvid_signal_qwen" / "case2.npz"
    with np.load(spoilt) as file:
        arrays = dict(file)
    arrays["out_frame_attn"] = arrays["out_frame_attn"][:, ::-1]
    np.savez(spoilt, **arrays)
    done = _run(tmp_path)
    assert done.returncode == 1, done.stdout
    assert "1 failed, 1 passed, 2 skipped" in done.stdout
    assert "goldens not covered: unheard_of" in done.stdout.splitlines()


def test_a_folder_without_recordings_is_refused(tmp_path: Path) -> None:
    done = _run(tmp_path)
    assert done.returncode not in (0, 5), done.stdout
    assert "no METHOD/CASE.npz below" in done.stdout + done.stderr
