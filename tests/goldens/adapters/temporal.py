"""Replays recorded cases. Methods that compare a frame with the frames before it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from streamprune.budget import Budget
from streamprune.ops.pixels import patch_change
from streamprune.pre_llm.stc import quiet_channels
from streamprune.pre_llm.vidcom2 import VidCom2, similarities
from streamprune.reduction import Reduction
from streamprune.tokens import VideoGrid, VisualTokens
from tests.goldens.case import Case
from tests.goldens.decision import decide


def grid_of(case: Case) -> VideoGrid:
    """The grid ``T x h x w`` of a case."""
    return VideoGrid(case.hp["T"], case.hp["h"], case.hp["w"])


def features_of(case: Case) -> torch.Tensor:
    """(frames, rows, cols, channels)."""
    grid = grid_of(case)
    return case.given("x").reshape(grid.frames, grid.rows, grid.cols, -1)


def positions(case: Case, index: torch.Tensor, *, time_step: int, text_from: int) -> torch.Tensor:
    """(3, prompt) rotary ids: text as it was before the video, each kept token's own place, text after."""
    before = torch.arange(case.hp["n_pre"]).expand(3, -1)
    frame, row, col = grid_of(case).places(index)
    video = torch.stack([frame * time_step, row, col]) + case.hp["n_pre"]
    after = torch.arange(case.hp["n_post"]).expand(3, -1) + case.hp["n_pre"] + text_from
    return torch.cat([before, video, after], 1)


def compare_kept(case: Case, kept: torch.Tensor) -> None:
    """Which tokens stay, in order; where ties decide that, as in a still video, only how many."""
    if case.exact:
        case.same("kept", kept)
    assert len(kept) == len(case.arrays["out_kept"]), case.id


def compare_per_frame(case: Case, reduction: Reduction) -> None:
    """How many tokens each frame keeps."""
    frame = reduction.grid.places(reduction.index)[0]
    case.same("kept_per_frame", torch.bincount(frame, minlength=reduction.grid.frames))


def evs(case: Case) -> None:
    """Replays EVS; text goes on from the grid's width there, whatever the time ids have reached."""
    grid = grid_of(case)
    reduction = decide(features_of(case), "evs", keep_ratio=1 - case.hp["q"])
    compare_kept(case, reduction.index)
    assert torch.equal(reduction.index[: grid.tokens_per_frame], torch.arange(grid.tokens_per_frame))
    if not case.exact:
        return
    compare_per_frame(case, reduction)
    ids = positions(case, reduction.index, time_step=2, text_from=grid.cols)
    case.same("position_ids", ids)
    case.same("mrope_delta", ids.max() + 1 - ids.shape[1])


def vidcom2(case: Case) -> None:
    """Replays VidCom2 as its authors released it."""
    hp, features = case.hp, features_of(case)
    method = VidCom2(temperature=hp["temp"], budget=Budget(keep_ratio=hp["base_scale"]))
    reduction = method.reduce(VisualTokens.from_grid(features))
    to_video, _ = similarities(features.flatten(1, 2), method.channel_share)
    case.close("frame_scales", method.frame_shares(to_video, hp["base_scale"]))
    compare_kept(case, reduction.index)
    compare_per_frame(case, reduction)


def dycoke(case: Case) -> None:
    """Replays DyCoke's first stage; cut frames come out by rising similarity."""
    reduction = decide(features_of(case), "dycoke", prune_share=case.hp["k_p"])
    compare_kept(case, reduction.index[reduction.order])
    if case.exact:
        case.close("values", reduction.features[reduction.order])


def timechat_online(case: Case) -> None:
    """Replays the differential token drop, of features or of pixels; text goes on where it always would."""
    hp, grid = case.hp, grid_of(case)
    options = {"threshold" if hp["absolute"] else "drop_share": hp["threshold"]}
    if hp["method"] == "pixel":
        change = patch_change(case.given("pixels"), grid, std=hp["clip_std"], slices=hp["temporal_patch"])
        reduction = decide(
            change[..., None],
            "timechat_online",
            compare="pixels",
            signals={"pixel_change": change},
            **options,
        )
    else:
        reduction = decide(features_of(case), "timechat_online", **options)
    compare_kept(case, reduction.index)
    if not case.exact:
        return
    text_from = max(grid.frames, grid.rows, grid.cols)
    case.same("position_ids", positions(case, reduction.index, time_step=1, text_from=text_from))


def stc(case: Case) -> None:
    """Replays the pruner of STC call by call, with the channels that each call compares."""
    hp, features = case.hp, features_of(case)
    options = {"channel_share": hp["channel_keep"], "frames_per_call": hp["frames_per_call"]}
    reduction = decide(features, "stc", keep_tokens=hp["k"] * hp["T"], **options)
    compare_kept(case, reduction.index)
    if not case.exact:
        return
    calls = features.flatten(1, 2).split(hp["frames_per_call"])  # type: ignore[no-untyped-call]
    channels = [quiet_channels(call.flatten(0, 1), hp["channel_keep"])[1] for call in calls]
    case.same("channels", torch.stack(channels))


ADAPTERS: dict[str, Callable[[Case], None]] = {
    "evs": evs,
    "vidcom2": vidcom2,
    "dycoke_ttm": dycoke,
    "timechat_dtd": timechat_online,
    "stc_pruner": stc,
}
