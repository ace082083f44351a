"""Recorded cases that ties decide: what may differ, and what may not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.goldens.adapters import ADAPTERS
from tests.goldens.adapters.fastvid import cuts_tie
from tests.goldens.case import Case

RECORDED = Path(__file__).parent / "recorded"
Arrays = dict[str, npt.NDArray[Any]]


def as_tied(source: str, target: Path, change: Callable[[Arrays], None]) -> Case:
    """The recorded case ``source`` as if densities had tied, after ``change`` of its arrays."""
    with np.load(RECORDED / f"{source}.npz") as file:
        arrays = dict(file)
    compare = {"exact": False, "compare": "density ties are broken at random"}
    arrays["meta"] = np.array(json.dumps({**json.loads(str(arrays["meta"])), **compare}))
    change(arrays)
    path = target / f"{source}.npz"
    path.parent.mkdir()
    np.savez(path, **arrays)
    return Case(path)


def swap_clusters(arrays: Arrays) -> None:
    """Emit the first two clusters of PruneVid the other way round."""
    arrays["out_values"][:2] = arrays["out_values"][1::-1].copy()
    assign = arrays["out_assign"]
    arrays["out_assign"] = np.where(assign < 2, 1 - assign, assign)


def move_token(arrays: Arrays) -> None:
    """Give a token of one of PruneVid's clusters to the next."""
    token = np.unravel_index(np.argmax(arrays["out_assign"] == 1), arrays["out_assign"].shape)
    arrays["out_assign"][token] = 2


def test_clusters_of_one_density_may_come_in_another_order(tmp_path: Path) -> None:
    ADAPTERS["prunevid_merge"](as_tied("prunevid_merge/case2", tmp_path, swap_clusters))


def test_other_clusters_are_a_failure(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="other clusters"):
        ADAPTERS["prunevid_merge"](as_tied("prunevid_merge/case2", tmp_path, move_token))


def test_a_token_that_no_density_decides_must_stay(tmp_path: Path) -> None:
    def change(arrays: Arrays) -> None:
        arrays["out_kept"][-1] -= 1

    with pytest.raises(AssertionError, match="holitom_outer-case2"):
        ADAPTERS["holitom_outer"](as_tied("holitom_outer/case2", tmp_path, change))


def test_nothing_recorded_between_frames_of_one_frame(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", out_similarity=np.zeros((0, 49), np.float32))
    case = Case(tmp_path / "one.npz")
    case.close("similarity", torch.zeros(0, 49))
    with pytest.raises(AssertionError, match="similarity"):
        case.close("similarity", torch.zeros(1, 49))


def test_a_cut_ties_with_a_transition_as_weak() -> None:
    similarity = torch.tensor([0.5, 0.8, 0.8])
    assert cuts_tie(similarity, [(0, 1), (1, 2), (2, 4)])
    assert not cuts_tie(similarity, [(0, 1), (1, 4)])
    assert not cuts_tie(similarity, [(0, 4)])
