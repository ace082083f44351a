"""Replays recorded cases. Methods that cut the clip into segments and cluster what is in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from streamprune.budget import Budget
from streamprune.ops.segments import cluster_labels, runs_of_equal, settle_labels, static_windows
from streamprune.ops.temporal import previous_cosine
from streamprune.pre_llm.flashvid import FlashVID
from streamprune.pre_llm.prunevid import static_places
from streamprune.reduction import Reduction
from streamprune.tokens import VideoGrid
from tests.goldens.adapters.fastvid import grid_of, with_row_ends
from tests.goldens.case import TOLERANCE, Case
from tests.goldens.decision import decide


def _features(case: Case, grid: VideoGrid) -> torch.Tensor:
    return case.given("x").reshape(grid.frames, grid.rows, grid.cols, -1)


def _attention(case: Case, grid: VideoGrid) -> torch.Tensor:
    return case.given("att").reshape(grid.frames, grid.rows, grid.cols)


def holitom(case: Case) -> None:
    """Replays HoliTom before the language model, with one end token or one at each grid row."""
    grid, hp = grid_of(case), case.hp
    features = _features(case, grid)
    reduction = decide(
        features,
        "holitom",
        keep_ratio=hp["r"],
        signals={"received_attention": _attention(case, grid)},
        similarity_threshold=hp["tau"],
        center_weight=hp["beta"],
        neighbors=hp["K"],
        longest_segment=hp["max_window"],
        context_ratio=hp["D_share"],
    )
    similarity = previous_cosine(features.flatten(1, 2))
    case.close("similarity", similarity)
    segments, saved = static_windows(similarity > hp["tau"], longest=hp["max_window"])
    case.same("windows", [[start, stop - 1] for start, stop in segments])
    assert saved == float(case.arrays["out_total_saved"])
    emitted = reduction.index[reduction.order]
    case.same("kept", emitted)
    frame, place = emitted // grid.tokens_per_frame, emitted % grid.tokens_per_frame
    static = torch.zeros(len(emitted), dtype=torch.bool)
    for start, stop in segments:
        if stop - start > 1:
            still = (similarity[start : stop - 1] > hp["tau"]).all(0)
            static |= (frame == start) & still[place]
    case.same("kind", (~static).long())
    if hp["newline"] == "grid":
        newline = torch.linspace(-1, 1, features.shape[-1])
        case.close("values", with_row_ends(reduction, newline)[1])
    else:
        case.close("values", reduction.features[reduction.order])


def prunevid(case: Case) -> None:
    """Replays PruneVid before the language model."""
    grid, hp = grid_of(case), case.hp
    features = _features(case, grid)
    reduction = decide(
        features,
        "prunevid",
        cluster_ratio=hp["beta"],
        similarity_threshold=hp["tau"],
        segment_ratio=hp["gamma"],
        neighbors=hp["k"],
    )
    frames = features.flatten(1, 2)
    labels = cluster_labels(frames.mean(1), max(1, int(grid.frames * hp["gamma"])), hp["k"])
    settled = settle_labels(labels)
    if case.exact:
        case.same("labels_raw", labels)
    segments = runs_of_equal(settled)
    case.same("labels_refined", settled)
    case.same("window_sizes", [stop - start for start, stop in segments])
    static = torch.stack([static_places(frames[start:stop], hp["tau"]) for start, stop in segments])
    case.same("static_mask", static)
    position = torch.empty_like(reduction.order)
    position[reduction.order] = torch.arange(len(reduction))
    case.same("assign", position[reduction.source].reshape(grid.frames, -1))
    case.close("values", reduction.features[reduction.order])
    emitted = reduction.index[reduction.order]
    frame, place = emitted // grid.tokens_per_frame, emitted % grid.tokens_per_frame
    inside = [(frame >= start) & (frame < stop) for start, stop in segments]
    still = [mask[place] for mask in static]
    case.same("static_sizes", [int((a & b).sum()) for a, b in zip(inside, still, strict=True)])
    case.same("dynamic_sizes", [int((a & ~b).sum()) for a, b in zip(inside, still, strict=True)])


def flashvid(case: Case) -> None:
    """Replays FlashVID before the language model."""
    grid, hp = grid_of(case), case.hp
    features = _features(case, grid)
    options: dict[str, Any] = {
        "selection": hp["token_selection_method"],
        "salient_ratio": hp["alpha"],
        "link_threshold": hp["temporal_threshold"],
        "num_segments": hp["min_segment_num"],
        "segment_threshold": hp["segment_threshold"],
        "segmented": hp["do_segment"],
        "complementary": hp["complementary_segment"],
        "expansion": hp["expansion"],
    }
    signals = {"received_attention": _attention(case, grid)}
    reduction = decide(features, "flashvid", keep_ratio=hp["retention_ratio"], signals=signals, **options)
    method = FlashVID(**options)
    segments = method.segments(features.flatten(1, 2).mean(1))
    case.same("segment_sizes", [stop - start for start, stop in segments])
    if case.exact:
        case.same("kept", reduction.index)
        case.close("values", reduction.features)
    else:
        budget = Budget(keep_ratio=hp["retention_ratio"])
        picked = replace(method, budget=budget).frame_budget(grid).salient
        _compare_but_for_ties(case, reduction, picked)


def _compare_but_for_ties(case: Case, reduction: Reduction, picked: int) -> None:
    """Where a frame's merged tokens are one cluster (all its densities tie) only the mean is the same.

    Two clusters look at one neighbour, and two tokens that are each other's nearest tie: counts only.
    """
    limit = TOLERANCE * float(np.abs(case.arrays["out_values"]).max())
    kept, values = case.arrays["out_kept"], case.arrays["out_values"]
    per_frame = reduction.grid.tokens_per_frame
    assert len(reduction) == len(kept)
    for frame in range(reduction.grid.frames):
        inside = reduction.index.numpy() // per_frame == frame
        recorded = kept // per_frame == frame
        ours, theirs = reduction.features.numpy()[inside], values[recorded]
        assert len(ours) == len(theirs), f"{case.id}: frame {frame}"
        if len(ours) - picked == 1:
            ours, theirs = (rows[np.argsort(rows @ np.ones(rows.shape[1]))] for rows in (ours, theirs))
        elif len(ours) - picked == 2:
            continue
        else:
            np.testing.assert_array_equal(reduction.index.numpy()[inside], kept[recorded], err_msg=case.id)
        np.testing.assert_allclose(ours, theirs, atol=limit, rtol=0, err_msg=f"{case.id}: frame {frame}")


def flashvid_pick(case: Case) -> None:
    """Replays FlashVID's choice of attended, diverse tokens in every frame."""
    frames = case.given("x")
    method = FlashVID(selection=case.hp["method"])
    calibration = method.calibration(frames, case.given("att"), frames.mean(1), [(0, len(frames))])
    case.same("kept", method.pick(frames @ frames.transpose(1, 2), calibration, case.hp["keep"]))


ADAPTERS: dict[str, Callable[[Case], None]] = {
    "holitom_outer": holitom,
    "prunevid_merge": prunevid,
    "flashvid_outer": flashvid,
    "flashvid_adts": flashvid_pick,
}
