"""Replays recorded cases. Methods that cut the clip into segments and cluster what is in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from streamprune.budget import Budget
from streamprune.ops.segments import cluster_labels, runs_of_equal, settle_labels, static_windows
from streamprune.ops.similarity import adjacent_cosine
from streamprune.ops.temporal import previous_cosine
from streamprune.pre_llm.flashvid import FlashVID
from streamprune.pre_llm.prunevid import static_places
from streamprune.reduction import Reduction
from streamprune.tokens import VideoGrid
from tests.goldens.adapters.fastvid import cuts_tie, grid_of, with_row_ends
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
    case.same("windows", torch.tensor([[start, stop - 1] for start, stop in segments]))
    assert saved == float(case.arrays["out_total_saved"])
    emitted = reduction.index[reduction.order]
    frame, place = emitted // grid.tokens_per_frame, emitted % grid.tokens_per_frame
    static = torch.zeros(len(emitted), dtype=torch.bool)
    for start, stop in segments:
        if stop - start > 1:
            still = (similarity[start : stop - 1] > hp["tau"]).all(0)
            static |= (frame == start) & still[place]
    case.same("kind", (~static).long())
    if not case.exact:
        _compare_holitom_but_for_ties(case, reduction, static, segments)
        return
    case.same("kept", emitted)
    if hp["newline"] == "grid":
        newline = torch.linspace(-1, 1, features.shape[-1])
        case.close("values", with_row_ends(reduction, newline)[1])
    else:
        case.close("values", reduction.features[reduction.order])


def _compare_holitom_but_for_ties(
    case: Case, reduction: Reduction, static: torch.Tensor, segments: list[tuple[int, int]]
) -> None:
    """A density of one neighbour is the same everywhere, one of two is for tokens nearest each other.

    So it is with as few static clusters in a segment. How many there are is certain even so, and which of the
    other tokens stay.
    """
    emitted = reduction.index[reduction.order]
    frame = emitted // reduction.grid.tokens_per_frame
    certain = ~static
    for start, stop in segments:
        inside = static & (frame >= start) & (frame < stop)
        if case.settled and min(int(inside.sum()), case.hp["K"]) > 2:
            certain |= inside
    np.testing.assert_array_equal(emitted[certain], case.arrays["out_kept"][certain.numpy()], err_msg=case.id)
    if case.hp["newline"] != "grid":
        expected = case.arrays["out_values"]
        limit = TOLERANCE * float(np.abs(expected).max())
        ours = reduction.features[reduction.order][certain].numpy()
        np.testing.assert_allclose(ours, expected[certain.numpy()], atol=limit, rtol=0, err_msg=case.id)


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
        frame_neighbors=hp["k"],
    )
    frames = features.flatten(1, 2)
    labels = cluster_labels(frames.mean(1), max(1, int(grid.frames * hp["gamma"])), hp["k"])
    settled = settle_labels(labels)
    if case.exact:
        case.same("labels_raw", labels)
    segments = runs_of_equal(settled)
    if not case.density_ties:
        case.same("labels_refined", settled)
    case.same("window_sizes", [stop - start for start, stop in segments])
    static = torch.stack([static_places(frames[start:stop], hp["tau"]) for start, stop in segments])
    case.same("static_mask", static)
    _compare_clusters(case, reduction)
    emitted = reduction.index[reduction.order]
    frame, place = emitted // grid.tokens_per_frame, emitted % grid.tokens_per_frame
    inside = [(frame >= start) & (frame < stop) for start, stop in segments]
    still = [mask[place] for mask in static]
    case.same("static_sizes", [int((a & b).sum()) for a, b in zip(inside, still, strict=True)])
    case.same("dynamic_sizes", [int((a & ~b).sum()) for a, b in zip(inside, still, strict=True)])


def _compare_clusters(case: Case, reduction: Reduction) -> None:
    """Which tokens became one, and as what; where densities tie, in whatever order."""
    assert len(reduction) == len(case.arrays["out_values"]), case.id
    position = reduction.order.argsort()
    assign = position[reduction.source]
    values = reduction.features[reduction.order]
    if case.density_ties:
        if not case.settled:
            return
        recorded = torch.from_numpy(case.arrays["out_assign"]).flatten()
        pairs = torch.unique(torch.stack([recorded, assign]), dim=1)
        assert torch.equal(pairs[0], torch.arange(len(reduction))), f"{case.id}: other clusters"
        assign, values = recorded, values[pairs[1]]
    case.same("assign", assign.reshape(reduction.grid.frames, -1))
    case.close("values", values)


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
    means = features.flatten(1, 2).mean(1)
    segments = method.segments(means)
    if not case.exact and cuts_tie(adjacent_cosine(means), segments):
        assert len(segments) == np.count_nonzero(case.arrays["out_segment_sizes"]), case.id
        return
    # of too few transitions the release cuts some twice, which adds segments of no frame
    sizes = case.arrays["out_segment_sizes"]
    np.testing.assert_array_equal([stop - start for start, stop in segments], sizes[sizes > 0], case.id)
    if case.exact:
        case.same("kept", reduction.index)
        case.close("values", reduction.features)
    else:
        budget = Budget(keep_ratio=hp["retention_ratio"])
        picked = replace(method, budget=budget).frame_budget(grid).salient
        _compare_but_for_ties(case, reduction, picked)


def _compare_but_for_ties(case: Case, reduction: Reduction, picked: int) -> None:
    """Where a frame's merged tokens are one cluster (all its densities tie) only the mean is the same.

    Two clusters look at one neighbour, and two tokens that are each other's nearest tie: counts only, and so
    where densities are 0 and where rounding alone changes what stays.
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
        elif len(ours) - picked == 2 or not case.settled or _densities_vanish(theirs):
            continue
        else:
            np.testing.assert_array_equal(reduction.index.numpy()[inside], kept[recorded], err_msg=case.id)
        np.testing.assert_allclose(ours, theirs, atol=limit, rtol=0, err_msg=f"{case.id}: frame {frame}")


def _densities_vanish(values: npt.NDArray[np.float32]) -> bool:
    """Whether points may be so far apart that densities are 0 in float32: the sums of long trees are."""
    farthest = 4 * float(np.square(values).mean(1).max(initial=0))
    return farthest > 80


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
