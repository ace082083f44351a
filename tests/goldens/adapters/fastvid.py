"""Replays recorded cases of FastVID."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch

from streamprune.ops.attention import frame_query_attention
from streamprune.ops.similarity import adjacent_cosine
from streamprune.pre_llm.fastvid import FastVID, Form
from streamprune.reduction import Reduction
from streamprune.tokens import VideoGrid
from tests.goldens.case import Case
from tests.goldens.decision import decide


def grid_of(case: Case) -> VideoGrid:
    """The grid ``T x h x w`` of a case."""
    return VideoGrid(case.hp["T"], case.hp["h"], case.hp["w"])


def fastvid(form: Form) -> Callable[[Case], None]:
    """Replays one released form of FastVID."""

    def replay(case: Case) -> None:
        grid, hp = grid_of(case), case.hp
        options = {
            "form": form,
            "num_segments": hp["c"],
            "similarity_threshold": hp["tau"],
            "context_ratio": hp["d"],
            "anchor_interval": hp["p"],
            "merge_weight_floor": hp["beta"],
        }
        if "ignore" in hp:
            options["ignore_threshold"] = hp["ignore"]
        shape = (grid.frames, grid.rows, grid.cols)
        reduction = decide(
            case.given("x").reshape(*shape, -1),
            "fastvid",
            keep_ratio=hp["r"],
            signals={"saliency": case.given("att").reshape(shape), "frame_features": case.given("ff")},
            **options,
        )
        segments = FastVID(**options).segments(case.given("ff"))
        sizes = [stop - start for start, stop in segments]
        if case.exact or (case.density_ties and case.settled):
            _compare_fastvid(case, grid, reduction, sizes)
        elif cuts_tie(adjacent_cosine(case.given("ff")), segments):
            _compare_fastvid_counts(case, grid, reduction, segments)
        else:
            case.same("segment_sizes", sizes)
            assert len(reduction) == len(case.arrays["out_kept"]), case.id

    return replay


def cuts_tie(similarity: torch.Tensor, segments: list[tuple[int, int]]) -> bool:
    """Whether another transition is as weak as the strongest that was cut, but for rounding."""
    cut = torch.zeros(len(similarity), dtype=torch.bool)
    cut[[stop - 1 for _, stop in segments[:-1]]] = True
    return bool(cut.any() and (~cut).any() and similarity[~cut].min() - similarity[cut].max() < 1e-6)


def _compare_fastvid(case: Case, grid: VideoGrid, reduction: Reduction, segment_sizes: list[int]) -> None:
    case.same("segment_sizes", segment_sizes)
    case.close("similarity", adjacent_cosine(case.given("ff")))
    case.same("kept", reduction.index)
    if case.recorded("values") is not None:
        case.close("values", reduction.features)
    frame_of = reduction.index // grid.tokens_per_frame
    per_frame = torch.bincount(frame_of, minlength=grid.frames)
    if case.recorded("kept_per_frame") is not None:
        case.same("kept_per_frame", per_frame)
    salient = case.recorded("salient_kept")
    if salient is not None:
        unchanged = torch.isin(reduction.index, torch.from_numpy(salient))
        assert torch.equal(reduction.features[unchanged], case.given("x").flatten(0, 1)[salient])
        merged = torch.bincount(frame_of[~unchanged], minlength=grid.frames)
        case.same("salient_per_frame", per_frame - merged)
        case.same("context_per_frame", merged)
    if case.recorded("kept_with_newline") is None:
        places, video_tokens = reduction.index, grid.tokens
    else:
        places, values = with_row_ends(reduction, case.given("newline"))
        case.same("kept_with_newline", places)
        case.close("values_with_newline", values)
        video_tokens = grid.frames * grid.rows * (grid.cols + 1)
    _compare_positions(case, grid, reduction.index, places, video_tokens)


def with_row_ends(reduction: Reduction, newline: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Kept places and values in the layout where a newline token ends every grid row.

    A row's newline stays where the row still has a token.
    """
    cols = reduction.grid.cols
    row = reduction.index // cols
    ends = torch.unique(row) * (cols + 1) + cols
    places, order = torch.cat([reduction.index + row, ends]).sort()
    values = torch.cat([reduction.features, newline.expand(len(ends), -1)])[order]
    return places, values


def _compare_positions(
    case: Case, grid: VideoGrid, index: torch.Tensor, places: torch.Tensor, video_tokens: int
) -> None:
    """Text and kept tokens keep the position they had in the whole prompt."""
    expected = case.recorded("position_ids")
    if expected is None:
        return
    before, after = case.hp["n_pre"], case.hp["n_post"]
    if expected.ndim == 1:
        text_after = before + video_tokens + torch.arange(after)
        case.same("position_ids", torch.cat([torch.arange(before), before + places, text_after]))
        return
    frame, row, col = np.unravel_index(index.numpy(), (grid.frames, grid.rows, grid.cols))
    video = expected[:, before : expected.shape[1] - after] - before
    np.testing.assert_array_equal(video[1:], np.stack([row, col]), err_msg=case.id)
    # the seconds per temporal slice are not recorded; the times must be whole steps of one size
    moved = np.flatnonzero(frame)
    if len(moved):
        np.testing.assert_array_equal(video[0] * frame[moved[0]], frame * video[0][moved[0]], err_msg=case.id)


def _compare_fastvid_counts(
    case: Case, grid: VideoGrid, reduction: Reduction, segments: list[tuple[int, int]]
) -> None:
    """Where to cut is a tie: only the number of segments counts, and what a segment of a length keeps."""
    recorded = case.arrays["out_segment_sizes"]
    assert len(segments) == len(recorded) == case.hp["c"]
    if "per segment length" in str(case.meta.get("compare")):
        edges = [0, *np.cumsum(recorded).tolist()]
        expected = _kept_by_length(case.arrays["out_kept"], list(pairwise(edges)), grid)
        actual = _kept_by_length(reduction.index.numpy(), segments, grid)
        for length in expected.keys() & actual.keys():
            assert actual[length] == expected[length], f"{case.id}: segments of {length} frames"


def _kept_by_length(
    index: np.ndarray[tuple[int, ...], np.dtype[np.int64]], segments: list[tuple[int, int]], grid: VideoGrid
) -> dict[int, set[int]]:
    """For each length of a segment, how many tokens such segments keep."""
    frame = index // grid.tokens_per_frame
    kept: dict[int, set[int]] = {}
    for start, stop in segments:
        kept.setdefault(stop - start, set()).add(int(((frame >= start) & (frame < stop)).sum()))
    return kept


def qwen_frame_signal(case: Case) -> None:
    """Replays the stand-in for a [CLS] row in the last Qwen2.5-VL vision block."""
    attention = frame_query_attention(case.given("q"), case.given("k"), case.hp["T"])
    case.close("frame_attn", attention)
    torch.testing.assert_close(attention.sum(1), torch.ones(case.hp["T"]))


ADAPTERS: dict[str, Callable[[Case], None]] = {
    "fastvid_ov": fastvid("llava_onevision"),
    "fastvid_llavavideo": fastvid("llava_video"),
    "fastvid_qwen25vl": fastvid("qwen2_5_vl"),
    "fastvid_signal_qwen": qwen_frame_signal,
}
