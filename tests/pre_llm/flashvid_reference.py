"""FlashVID written out in float64 numpy, one token at a time: slow, plain, and sharing no code with ours."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Kept = list[tuple[int, Floats]]


def flashvid_reference(
    x: Floats,
    attention: Floats,
    *,
    total: int,
    alpha: float,
    selection: str,
    link: float,
    num_segments: int,
    cut: float,
    neighbors: int = 7,
    as_released: bool = True,
) -> Kept:
    """(token, value) of everything kept of ``x`` (frames, tokens, channels), by token.

    ``total`` is the budget of a frame.
    """
    salient = math.ceil(total * alpha)
    kept: Kept = []
    for start, stop in _segments(x.mean(1), num_segments, cut):
        offset = start * x.shape[1]
        part = _segment(
            x[start:stop],
            attention[start:stop],
            salient,
            total - salient,
            selection,
            link,
            neighbors,
            as_released,
        )
        kept += [(token + offset, value) for token, value in part]
    return sorted(kept, key=lambda pair: pair[0])


def _cosine(a: Floats, b: Floats) -> Floats:
    a = a / np.linalg.norm(a, axis=-1, keepdims=True)
    b = b / np.linalg.norm(b, axis=-1, keepdims=True)
    result: Floats = a @ b.T
    return result


def _segments(looks: Floats, num_segments: int, cut: float) -> list[tuple[int, int]]:
    similarity = _cosine(looks, looks).diagonal(1)
    cuts = {i for i, s in enumerate(similarity) if s < cut}
    for i in np.argsort(similarity, kind="stable"):
        if len(cuts) + 1 < num_segments:
            cuts.add(int(i))
    edges = [0, *(i + 1 for i in sorted(cuts)), len(looks)]
    return list(itertools.pairwise(edges))


def _pick(x: Floats, attention: Floats, middle: Floats, count: int, selection: str) -> list[int]:
    if count == 0:
        return []
    if selection == "attn":
        return sorted(int(i) for i in np.argsort(-attention, kind="stable")[:count])
    # rounded, so that two tokens that are each other's nearest tie
    distance = np.round(1 - _cosine(x, x), 10)
    np.fill_diagonal(distance, 0)
    if selection != "div":
        distance = distance * attention
    if selection == "attn_div_v2":
        distance = distance * (x @ middle)
    second = np.sort(distance, axis=0)[min(1, len(x) - 1)]
    picks = [int(second.argmax())]
    while len(picks) < count:
        nearest = distance[picks].min(0)
        if selection != "attn_div_v2":
            nearest[picks] = -1
        picks.append(int(nearest.argmax()))
    return sorted(picks)


def _segment(
    x: Floats,
    attention: Floats,
    salient: int,
    merged: int,
    selection: str,
    link: float,
    neighbors: int,
    as_released: bool,
) -> Kept:
    frames, tokens, _ = x.shape
    picks = [_pick(x[t], attention[t], x.mean((0, 1)), salient, selection) for t in range(frames)]
    kept: Kept = [(t * tokens + i, x[t, i]) for t in range(frames) for i in picks[t]]
    if merged == 0:
        return kept
    free = [[i for i in range(tokens) if i not in picks[t]] for t in range(frames)]
    if frames == 1 and as_released:
        free = [list(range(tokens))]
    best: dict[tuple[int, int], tuple[float, int]] = {}
    for t in range(1, frames):
        cosine = _cosine(x[t], x[t - 1])
        for i in free[t]:
            if free[t - 1]:
                parent = max(free[t - 1], key=lambda j: (cosine[i, j], -j))
                best[t, i] = (float(cosine[i, parent]), parent)
    room = (salient + merged) * frames
    threshold = link
    if frames * tokens - sum(s > link for s, _ in best.values()) < room:
        threshold = sorted((s for s, _ in best.values()), reverse=True)[frames * tokens - room - 1]
    linked = {place: parent for place, (s, parent) in best.items() if s > threshold}
    total, divisor = x.copy(), np.ones((frames, tokens))
    for t in range(frames - 1, 0, -1):
        for i in free[t]:
            if (t, i) in linked:
                total[t - 1, linked[t, i]] += total[t, i]
                divisor[t - 1, linked[t, i]] += 1 if as_released else divisor[t, i]
    values = total / divisor[..., None]
    left = [[i for i in free[t] if (t, i) not in linked] for t in range(frames)]
    share = merged * frames / sum(map(len, left))
    for t in range(frames):
        clusters = [[i] for i in left[t]]
        if share < 1:
            count = math.ceil(len(left[t]) * share)
            clusters = [[left[t][i] for i in c] for c in _clusters(values[t, left[t]], count, neighbors)]
        kept += [(t * tokens + members[0], values[t, members].mean(0)) for members in clusters]
    return kept


def _clusters(x: Floats, count: int, neighbors: int) -> list[list[int]]:
    """Members of each cluster, the centre first."""
    if count == 0:
        return []
    squares = ((x[:, None] - x[None]) ** 2).mean(-1)
    density = np.exp(-np.sort(squares, axis=1)[:, : min(neighbors, count)].mean(1))
    score = []
    for i in range(len(x)):
        denser = squares[i][density > density[i]]
        score.append(math.sqrt(denser.min() if len(denser) else squares.max()) * density[i])
    centres = [int(i) for i in np.argsort(-np.array(score), kind="stable")[:count]]
    members = {c: [c] for c in centres}
    for i in set(range(len(x))) - set(centres):
        members[min(centres, key=lambda c: float(squares[i, c]))].append(i)
    return list(members.values())
