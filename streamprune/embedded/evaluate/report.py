"""The measurements of the embedded model, collected into one JSON-ready dictionary."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamprune.embedded.evaluate.damage import h264, jpeg
from streamprune.embedded.evaluate.memory import memory_table
from streamprune.embedded.evaluate.scoring import (
    CELLS,
    Examinee,
    Seen,
    blind_marks,
    by_type,
    full_marks,
    generated,
    look,
    reduced_marks,
    salient_marks,
    salient_recall,
)
from streamprune.embedded.world import GROUPS, Clip, clip
from streamprune.embedded.world.seeds import Split
from streamprune.metrics.shares import share

QUESTIONS_PER_CLIP = 10
METHODS = ("none", "random", "stride", "pool", "fastvid", "oracle")
KEEP_RATIOS = (0.5, 0.25, 0.1, 0.05)
DAMAGES: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    "h264_crf23": partial(h264, crf=23),
    "h264_crf32": partial(h264, crf=32),
    "jpeg_q50_192px": partial(jpeg, quality=50),
    "jpeg_q50_96px": partial(jpeg, quality=50, side=96),
}
Track = Callable[[Iterable[int], str], Iterable[int]]


def exam(questions: int, frames: int, wording: Split = "eval") -> list[Clip]:
    """Held-out clips with at least ``questions`` questions between them."""
    clips: list[Clip] = []
    while sum(len(c.questions) for c in clips) < questions:
        clips.append(clip(len(clips), frames, "eval", QUESTIONS_PER_CLIP, wording=wording))
    return clips


def _groups(clips: Sequence[Clip], outcomes: Sequence[Sequence[bool]]) -> dict[str, Any]:
    """Accuracy over all questions and per group."""
    types = by_type(clips, outcomes)
    groups: dict[str, list[bool]] = {}
    for name, found in types.items():
        groups.setdefault(GROUPS[name], []).extend(found)
    everything = share(right for found in outcomes for right in found).entry()
    return everything | {group: round(share(found).value, 4) for group, found in sorted(groups.items())}


def _short(examinee: Examinee, clips: Sequence[Clip]) -> dict[str, Any]:
    return _groups(clips, [full_marks(examinee, look(examinee, c)) for c in clips])


def _damaged(examinee: Examinee, clips: Sequence[Clip]) -> dict[str, Any]:
    table = {"clean": _short(examinee, clips)}
    for name, damage in DAMAGES.items():
        table[name] = _groups(
            clips, [full_marks(examinee, look(examinee, c, damage(c.frames))) for c in clips]
        )
    return table


def _retention(
    examinee: Examinee, seen: Sequence[Seen], full: float, methods: Sequence[str], track: Track
) -> dict[str, Any]:
    """Accuracy, retained share of full accuracy and tokens really kept, per method and keep ratio."""
    clips = [s.clip for s in seen]
    table: dict[str, Any] = {}
    for method in methods:
        for ratio in KEEP_RATIOS if method != "none" else (1.0,):
            results = [
                reduced_marks(examinee, seen[i], method, ratio)
                for i in track(range(len(seen)), f"{method} {ratio}")
            ]
            entry = _groups(clips, [found for found, _ in results])
            entry["retained"] = round(entry["accuracy"] / full, 4) if full else 0.0
            entry["tokens_kept"] = round(float(np.mean([kept for _, kept in results])), 2)
            table.setdefault(method, {})[str(ratio)] = entry
    return table


def _saliency(examinee: Examinee, seen: Sequence[Seen]) -> dict[str, Any]:
    """Objects (brief ones apart) that a frame's most salient tokens touch, and answers from them alone."""
    table: dict[str, Any] = {}
    for top in (2, round(0.1 * CELLS)):
        for by in ("saliency", "random"):
            found = [salient_recall(s, top, by) for s in seen]
            table[f"{by}_top{top}"] = {
                "all_objects": share(x for every, _ in found for x in every).entry(),
                "brief_objects": share(x for _, brief in found for x in brief).entry(),
                "answers": share(x for s in seen for x in salient_marks(examinee, s, top, by)).entry(),
            }
    return table


def _agreement(
    examinee: Examinee, clips: Sequence[Clip], outcomes: Sequence[Sequence[bool]]
) -> dict[str, Any]:
    """How often stock ``generate()`` is right exactly where the scored answer was."""
    same = []
    for one, found in zip(clips, outcomes, strict=True):
        answers = generated(examinee, one)
        same += [(a == q.answer) == f for a, q, f in zip(answers, one.questions, found, strict=True)]
    return {"same_verdict": sum(same), "questions": len(same)}


def measure(
    examinee: Examinee, questions: int, frames: int, methods: Sequence[str], track: Track
) -> dict[str, Any]:
    """Run every measurement; see the model card for what each figure means."""
    began = time.process_time()
    clips = exam(questions, frames)
    seen = [look(examinee, clips[i]) for i in track(range(len(clips)), "encode")]
    outcomes = [full_marks(examinee, seen[i]) for i in track(range(len(seen)), "all tokens")]
    full = _groups(clips, outcomes)
    some = clips[: max(1, len(clips) // 4)]
    report: dict[str, Any] = {
        "model": examinee.folder.name,
        "frames": frames,
        "tokens": examinee.architecture.slices(frames) * CELLS,
        "clips": len(clips),
        "full": full,
        "by_type": {name: share(found).entry() for name, found in sorted(by_type(clips, outcomes).items())},
        "blind": _groups(clips, [blind_marks(examinee, s) for s in seen]),
        "retention": _retention(examinee, seen, full["accuracy"], methods, track),
        "saliency": _saliency(examinee, seen),
        "training_wordings": _short(examinee, exam(questions // 4, frames, "train")),
        "damage": _damaged(examinee, some),
        "other_lengths": {str(n): _short(examinee, exam(questions // 4, n)) for n in (4, 8, 24, 32)},
        "memory": memory_table(examinee, questions // 10) if examinee.architecture.uneven_times else {},
        "generate": _agreement(examinee, clips[:5], outcomes[:5]),
    }
    report["cpu_minutes"] = round((time.process_time() - began) / 60, 2)
    return report
