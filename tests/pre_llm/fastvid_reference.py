"""FastVID written out in float64 numpy, one token at a time: slow, plain, and sharing no code with ours."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def fastvid_reference(
    features: Floats,
    saliency: Floats,
    frame_features: Floats,
    *,
    form: str,
    keep: int,
    c: int,
    tau: float,
    d: float,
    p: int,
    beta: float,
    ignore: float = 0.95,
    neighbors: int = 4,
) -> dict[int, Floats]:
    """Kept token -> value, for ``features`` (frames, tokens, channels) with ``keep`` tokens a frame."""
    frames, tokens, _ = features.shape
    unit = frame_features / np.linalg.norm(frame_features, axis=1, keepdims=True)
    similarity = (unit[:-1] * unit[1:]).sum(1)
    cuts = {int(i) for i in np.argsort(similarity, kind="stable")[: c - 1]}
    cuts |= {i for i in range(frames - 1) if similarity[i] < tau}
    kept: dict[int, Floats] = {}
    start = 0
    for stop in [*(cut + 1 for cut in sorted(cuts)), frames]:
        alike = [i + 1 < stop - start and similarity[start + i] >= ignore for i in range(stop - start)]
        salient, context = _shares(form, keep, tokens, d, p, alike)
        part = _segment(
            features[start:stop], saliency[start:stop], salient, context, form, beta, neighbors, keep, d
        )
        kept.update({token + start * tokens: value for token, value in part.items()})
        start = stop
    return kept


def _spread(total: int, places: int) -> list[int]:
    return [total // places + (1 if i < total % places else 0) for i in range(places)]


def _shares(
    form: str, keep: int, tokens: int, d: float, p: int, alike: list[bool]
) -> tuple[list[int], list[int]]:
    """Salient tokens and anchors of each frame; ``alike[i]`` = frame i is nearly the next one."""
    frames = len(alike)
    holding = [i for i in range(frames) if form != "qwen2_5_vl" or not alike[i]]
    anchor_frames = holding[::-1][::p]
    salient, context = [0] * frames, [0] * frames
    if form == "llava_onevision":
        for i in range(frames):
            salient[i] = keep - int(keep * d)
        for i in anchor_frames:
            context[i] = int(keep * d) * frames // len(anchor_frames)
        return salient, context
    total = keep * frames
    in_context = int(total * d)
    if form == "qwen2_5_vl":
        in_context = max(in_context, 1)
    for i, n in zip(anchor_frames, _spread(in_context, len(anchor_frames)), strict=True):
        context[i] = min(n, tokens // 2) if form == "qwen2_5_vl" and frames > 1 else n
    for i, n in zip(holding, _spread(total - in_context, len(holding)), strict=True):
        salient[i] = min(n, tokens - context[i]) if form == "qwen2_5_vl" and frames > 1 else n
    return salient, context


def _segment(
    x: Floats,
    saliency: Floats,
    salient: list[int],
    context: list[int],
    form: str,
    beta: float,
    neighbors: int,
    keep: int,
    d: float,
) -> dict[int, Floats]:
    frames, tokens, channels = x.shape
    flat = x.reshape(-1, channels)
    kept: dict[int, Floats] = {}
    for frame in range(frames):
        for token in np.argsort(-saliency[frame], kind="stable")[: salient[frame]]:
            kept[frame * tokens + int(token)] = flat[frame * tokens + int(token)]
    free = [token for token in range(frames * tokens) if token not in kept]
    blended: dict[int, Floats] = {}
    for frame in range(frames):
        if context[frame] == 0:
            continue
        rest = [token for token in free if token // tokens == frame]
        score = _density_peaks(flat[rest], neighbors)
        anchors = [rest[i] for i in np.argsort(-score, kind="stable")[: context[frame]]]
        if form != "llava_onevision":
            anchors.sort()
        members = [token for token in free if form == "llava_onevision" or token not in anchors]
        if form == "llava_onevision" and context[frame] == int(keep * d):
            members = rest
        joined: dict[int, list[int]] = {anchor: [] for anchor in anchors}
        for token in members:
            cosine = [_cosine(flat[token], flat[anchor]) for anchor in anchors]
            joined[anchors[int(np.argmax(cosine))]].append(token)
        for anchor, group in joined.items():
            weight = max(1 / (len(group) + 1), beta)
            mean = flat[group].mean(0) if group else flat[anchor]
            blended[anchor] = weight * flat[anchor] + (1 - weight) * mean
    return {**kept, **blended}


def _density_peaks(x: Floats, neighbors: int) -> Floats:
    squared = ((x[:, None] - x[None]) ** 2).sum(-1) / x.shape[1]
    nearest = np.sort(squared, axis=1)[:, :neighbors]
    density = np.exp(-nearest.mean(1))
    score = np.empty(len(x))
    for i in range(len(x)):
        denser = squared[i, density > density[i]]
        score[i] = np.sqrt(denser.min() if len(denser) else squared.max()) * density[i]
    return score


def _cosine(a: Floats, b: Floats) -> Any:
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)
