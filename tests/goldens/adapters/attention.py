"""Replays recorded cases. Methods that rank tokens by the attention of the vision tower."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from streamprune.budget import Budget
from streamprune.pre_llm.vscan import VScan
from streamprune.reduction import Reduction
from streamprune.tokens import VideoGrid
from tests.goldens.case import Case
from tests.goldens.decision import decide


def emitted_within_frames(reduction: Reduction) -> torch.Tensor:
    """(frames, kept per frame) place in its own frame of each kept token, in the order of the release."""
    emitted = reduction.index[reduction.order].reshape(reduction.grid.frames, -1)
    return emitted % reduction.grid.tokens_per_frame


def emitted_values(reduction: Reduction) -> torch.Tensor:
    """(frames, kept per frame, channels) features in the order of the release."""
    values = reduction.features[reduction.order]
    return values.reshape(reduction.grid.frames, -1, values.shape[-1])


def visionzip_video(case: Case) -> None:
    """Replays VisionZip as adapted to towers without a [CLS] token."""
    hp = case.hp
    shape = (hp["T"], hp["h"], hp["w"])
    reduction = decide(
        case.given("x").reshape(*shape, -1),
        "visionzip",
        keep_tokens=hp["T"] * (hp["dominant"] + hp["contextual"]),
        signals={
            "received_attention": case.given("att").reshape(shape),
            "keys": case.given("metric").reshape(*shape, -1),
        },
        dominant=hp["dominant"],
    )
    _compare_visionzip(case, reduction)


def visionzip_clip(case: Case) -> None:
    """Replays VisionZip on rows of [CLS] + patches: a grid of one row per frame, [CLS] first."""
    hp = case.hp
    attention = case.given("cls_attn").sum(1)
    reduction = decide(
        case.given("hidden")[:, None],
        "visionzip",
        keep_tokens=hp["T"] * (hp["dominant"] + hp["contextual"]),
        signals={
            "received_attention": torch.nn.functional.pad(attention, (1, 0))[:, None],
            "keys": case.given("metric")[:, None],
        },
        form="clip",
        dominant=hp["dominant"],
    )
    _compare_visionzip(case, reduction)
    rank_of_row = torch.empty_like(reduction.order)
    rank_of_row[reduction.order] = torch.arange(len(reduction)) % (len(reduction) // hp["T"])
    joined = rank_of_row[reduction.source].reshape(hp["T"], -1) - hp["dominant"]
    member = torch.ones_like(joined, dtype=torch.bool)
    member.scatter_(1, emitted_within_frames(reduction), False)
    case.same("assign", joined[member].reshape(hp["T"], -1))


def _compare_visionzip(case: Case, reduction: Reduction) -> None:
    emitted = emitted_within_frames(reduction)
    case.same("dominant_index", emitted[:, : case.hp["dominant"]])
    case.same("contextual_index", emitted[:, case.hp["dominant"] :])
    case.close("values", emitted_values(reduction))


def vispruner(case: Case) -> None:
    """Replays VisPruner on encoder features."""
    hp = case.hp
    shape = (hp["T"], hp["h"], hp["w"])
    features = case.given("x").reshape(*shape, -1)
    reduction = decide(
        features,
        "vispruner",
        keep_tokens=hp["T"] * hp["keep"],
        signals={"saliency": case.given("att").reshape(shape), "encoder_features": features},
        important_ratio=hp["important_ratio"],
    )
    case.same("kept", emitted_within_frames(reduction))


def hiprune_llava(case: Case) -> None:
    """Replays HiPrune on CLIP towers, where a count is given."""
    hp = case.hp
    _compare_hiprune(case, hp["T"], keep_tokens=hp["T"] * hp["keep"])


def hiprune_qwen(case: Case) -> None:
    """Replays HiPrune on Qwen2.5-VL, where a share of one image is given."""
    _compare_hiprune(case, 1, keep_ratio=case.hp["ratio"], form="qwen2_5_vl")


def _compare_hiprune(case: Case, frames: int, **options: Any) -> None:
    shape = (frames, case.hp["h"], case.hp["w"])
    reduction = decide(
        torch.zeros(*shape, 1),
        "hiprune",
        signals={
            "received_attention_middle": case.given("received_mid").reshape(shape),
            "received_attention": case.given("received_deep").reshape(shape),
        },
        anchor_ratio=case.hp["alpha"],
        **options,
    )
    case.same("kept", emitted_within_frames(reduction).reshape(case.arrays["out_kept"].shape))


def holov(case: Case) -> None:
    """Replays HoloV; its zero rows end each frame, ours end the video."""
    hp = case.hp
    shape = (hp["T"], hp["h"], hp["w"])
    reduction = decide(
        case.given("x").reshape(*shape, -1),
        "holov",
        keep_tokens=hp["T"] * hp["keep"],
        signals={"saliency": case.given("att").reshape(shape)},
        num_chunks=hp["chunks"],
    )
    index = reduction.index[reduction.order].reshape(hp["T"], -1)
    case.same("kept", torch.where(index < 0, -1, index % reduction.grid.tokens_per_frame))
    case.close("values", emitted_values(reduction))


def vscan_llava(case: Case) -> None:
    """Replays the first stage of VScan on CLIP towers."""
    hp = case.hp
    shape = (hp["T"], hp["h"], hp["w"])
    reduction = decide(
        case.given("x").reshape(*shape, -1),
        "vscan",
        keep_tokens=hp["T"] * hp["keep"],
        signals={
            "received_attention_shallow": case.given("cls_shallow").reshape(shape),
            "received_attention": case.given("cls_deep").reshape(shape),
        },
        window=hp["window"],
    )
    case.same("kept", emitted_within_frames(reduction))
    case.close("values", emitted_values(reduction))


def vscan_qwen(case: Case) -> None:
    """Replays the local scan and the merge of VScan on Qwen2.5-VL: all of the budget goes to the windows."""
    hp = case.hp
    grid = VideoGrid(1, hp["h"], hp["w"])
    attention = case.given("att").reshape(1, grid.rows, grid.cols)
    options: dict[str, Any] = {"form": "qwen2_5_vl", "window": hp["window"], "local_ratio": 1.0}
    picked = VScan(**options, budget=Budget(keep_tokens=hp["keep"])).local_scan(attention.flatten(1), grid)
    case.same("kept_in_pick_order", picked[0])
    reduction = decide(
        case.given("x").reshape(*attention.shape, -1),
        "vscan",
        keep_tokens=hp["keep"],
        signals={"received_attention_shallow": attention, "received_attention": attention},
        **options,
    )
    assert torch.equal(reduction.index, picked[0].sort().values), case.id
    case.close("values", reduction.features)


ADAPTERS: dict[str, Callable[[Case], None]] = {
    "visionzip_clip": visionzip_clip,
    "visionzip_video": visionzip_video,
    "vispruner": vispruner,
    "hiprune_llava": hiprune_llava,
    "hiprune_qwen": hiprune_qwen,
    "holov": holov,
    "vscan_llava": vscan_llava,
    "vscan_qwen": vscan_qwen,
}
