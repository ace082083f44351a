"""Whole runs of each method, one frame at a time with plain loops, for a tower in numpy float64.

Each takes a frame's tower and options and returns the states read back to all patches.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from tests.encoder.towers import DEPTH, SIDE, Array, NumpyTower, cosine_to_kept, softmax, unit

N = SIDE * SIDE


def bipartite(metric: Array, count: int) -> tuple[list[list[int]], list[int]]:
    """Groups of tokens in the order they leave: unmerged even ones by falling similarity, then odd ones."""
    rows = unit(metric)
    even, odd = list(range(0, len(rows), 2)), list(range(1, len(rows), 2))
    best = {e: max(odd, key=lambda o: (rows[e] @ rows[o], -o)) for e in even}
    ranking = sorted(even, key=lambda e: (-(rows[e] @ rows[best[e]]), e))
    members = {o: [o] for o in odd}
    for e in ranking[:count]:
        members[best[e]].append(e)
    return [[e] for e in ranking[count:]] + [members[o] for o in odd], ranking


def merge(groups: list[list[int]], states: Array, size: Array) -> tuple[Array, Array]:
    """Means weighted by size, and the summed sizes."""
    total = np.array([size[g].sum() for g in groups])
    return np.stack([(states[g] * size[g, None]).sum(0) for g in groups]) / total[:, None], total


def places(groups: list[list[int]], before: list[list[int]]) -> list[list[int]]:
    """The patches each new group stands for."""
    return [[patch for token in group for patch in before[token]] for group in groups]


def spread(states: Array, patches: list[list[int]]) -> Array:
    """Give every patch the states of its group."""
    out = np.empty((N, states.shape[1]))
    for row, group in zip(states, patches, strict=True):
        out[group] = row
    return out


def tome(tower: NumpyTower, frame: torch.Tensor, removed: list[int], proportional: bool) -> Array:
    states, size = tower.begin(frame), np.ones(N)
    patches = [[p] for p in range(N)]
    for layer in range(DEPTH):
        states, (_, keys, _), _ = tower.attend(layer, states, np.log(size) if proportional else None)
        groups, _ = bipartite(keys.mean(0), min(removed[layer], len(states) // 2))
        if min(removed[layer], len(states) // 2):
            states, size = merge(groups, states, size)
            patches = places(groups, patches)
        states = tower.feed(layer, states)
    return spread(states, patches)


def ppt(
    tower: NumpyTower, frame: torch.Tensor, removed: int, threshold: float, layers: list[int]
) -> tuple[Array, list[bool]]:
    states, size = tower.begin(frame), np.ones(N)
    patches, pruned = [[p] for p in range(N)], []
    for layer in range(DEPTH):
        states, (_, keys, values), attention = tower.attend(layer, states, np.log(size))
        if layer in layers:
            tokens = len(states)
            length = np.sqrt((values**2).sum((0, 2)))
            scores = attention.mean(1).sum(0) * length
            scores /= scores.sum()
            pruned.append(bool(scores.var(ddof=1) >= threshold))
            if pruned[-1]:
                kept = sorted(range(tokens), key=lambda t: (-scores[t], t))[: tokens - removed]
                slot = cosine_to_kept(states, kept)
                groups = [[t for t in range(tokens) if slot[t] == s] for s in range(len(kept))]
                states, size = states[kept], size[kept]
            else:
                groups, _ = bipartite(keys.mean(0), removed)
                states, size = merge(groups, states, size)
            patches = places(groups, patches)
        states = tower.feed(layer, states)
    return spread(states, patches), pruned


def atc(tower: NumpyTower, frame: torch.Tensor, share: float, linkage: str, layers: list[int]) -> Array:
    states, size = tower.begin(frame), np.ones(N)
    patches = [[p] for p in range(N)]
    summaries: dict[str, Callable[[Array], np.float64]]
    summaries = {"average": np.mean, "single": np.min, "complete": np.max}
    for layer in range(DEPTH):
        states, (_, keys, _), _ = tower.attend(layer, states, np.log(size))
        if layer in layers:
            rows = unit(keys.mean(0))
            distance = 1 - rows @ rows.T
            groups = [[t] for t in range(len(states))]
            while len(groups) > int(N * share ** (layers.index(layer) + 1)):
                pairs = [(a, b) for a in range(len(groups)) for b in range(a + 1, len(groups))]
                apart = [summaries[linkage](distance[np.ix_(groups[a], groups[b])]) for a, b in pairs]
                a, b = pairs[int(np.argmin(apart))]
                groups[a] = sorted(groups[a] + groups.pop(b))
            groups.sort()
            states, size = merge(groups, states, size)
            patches = places(groups, patches)
        states = tower.feed(layer, states)
    return spread(states, patches)


def saint(tower: NumpyTower, frame: torch.Tensor, threshold: float, least: int, sharp: float) -> Array:
    states = tower.begin(frame)
    patches = [[p] for p in range(N)]
    for layer in range(DEPTH):
        states, (_, keys, _), _ = tower.attend(layer, states)
        rows = unit(keys.mean(0))
        even, odd = list(range(0, len(rows), 2)), list(range(1, len(rows), 2))
        similarity = rows[even] @ rows[odd].T
        scores, drop = [], 0
        for row in similarity:
            alike = row[row >= threshold]
            drop += len(alike) >= least
            excess = alike.mean() - threshold if len(alike) else 0.0
            scores.append(len(alike) * math.exp(sharp * excess) if len(alike) else row.mean())
        if drop:
            ranking = sorted(range(len(even)), key=lambda e: (-scores[e], e))
            members = {o: [o] for o in odd}
            for e in ranking[:drop]:
                members[odd[int(similarity[e].argmax())]].append(even[e])
            groups = [[even[e]] for e in ranking[drop:]] + [members[o] for o in odd]
            states = states[[g[0] for g in groups]]
            patches = places(groups, patches)
        states = tower.feed(layer, states)
    return spread(states, patches)


def flowcut(tower: NumpyTower, frame: torch.Tensor, target: int, interval: int, momentum: float) -> Array:
    states = tower.begin(frame)
    patches = [[p] for p in range(N)]
    score: Array | None = None
    for layer in range(DEPTH):
        states, (_, _, values), attention = tower.attend(layer, states)
        states = tower.feed(layer, states)
        if layer == DEPTH - 1 or (score is not None and len(states) == target):
            continue
        relevance = attention.mean((0, 1))
        similar = softmax((values * values.mean(1, keepdims=True)).sum(-1)).mean(0)
        new = (relevance + similar / similar.sum()) * np.abs(values.mean(0)).sum(-1)
        total = new if score is None else momentum * score + (1 - momentum) * new
        score = total
        left = DEPTH - 2 - layer
        if left % interval:
            continue
        keep = target
        if left:
            entropy = -(relevance * np.log(relevance)).sum() / math.log(len(states))
            spare = (len(states) - target) / math.sqrt(left) * (1 - entropy**2)
            keep = max(target, len(states) - round(spare))
        kept = sorted(sorted(range(len(states)), key=lambda t: (-total[t], t))[:keep])
        slot = cosine_to_kept(states, kept)
        groups = [[t for t in range(len(slot)) if slot[t] == s] for s in range(len(kept))]
        states, score = states[kept], total[kept]
        patches = places(groups, patches)
    return spread(states, patches)


def gtp_vit(tower: NumpyTower, frame: torch.Tensor, removed: int, alpha: float, neighbors: int) -> Array:
    states, size = tower.begin(frame), np.ones(N)
    patches = [[p] for p in range(N)]
    similarity = unit(states) @ unit(states).T
    graph = np.zeros((N, N))
    for a in range(N):
        others = sorted((b for b in range(N) if b != a), key=lambda b: -similarity[a, b])
        graph[a, others[:neighbors]] = 1
        for b in range(N):
            if b != a and abs(a // SIDE - b // SIDE) <= 1 and abs(a % SIDE - b % SIDE) <= 1:
                graph[a, b] = 1
    degree = graph.sum(1)
    graph = graph / np.sqrt(degree[:, None] * degree)
    for layer in range(DEPTH):
        states, _, attention = tower.attend(layer, states, np.log(size))
        score = attention.diagonal(axis1=1, axis2=2).max(0) * attention.sum(1).max(0)
        out = sorted(range(len(states)), key=lambda t: (score[t], t))[:removed]
        kept = [t for t in range(len(states)) if t not in out]
        slot = cosine_to_kept(states, kept)
        groups = [[t for t in range(len(slot)) if slot[t] == s] for s in range(len(kept))]
        share = alpha * graph[np.ix_(kept, out)]
        states, size = states[kept] + share @ states[out], size[kept] + share @ size[out]
        graph = graph[np.ix_(kept, kept)]
        patches = places(groups, patches)
        states = tower.feed(layer, states)
    return spread(states, patches)


def zero_tprune(
    tower: NumpyTower, frame: torch.Tensor, share: float, similar: float, rounds: int, layers: list[int]
) -> Array:
    states = tower.begin(frame)
    patches = [[p] for p in range(N)]
    for layer in range(DEPTH):
        states, (_, keys, _), attention = tower.attend(layer, states)
        states = tower.feed(layer, states)
        if layer not in layers:
            continue
        tokens = len(states)
        votes = np.full((attention.shape[0], tokens), 1 / tokens)
        for _ in range(rounds):
            votes = np.einsum("hi,hij->hj", votes, attention)
        spread_out = (votes * tokens).var(1) / (tokens - 1)
        passing = (spread_out >= 1e-4) & (spread_out <= 0.7)
        chosen = votes[passing] if passing.any() else votes
        rank = np.sqrt((chosen**2).mean(0))
        left = math.floor(tokens * share + 1e-9)
        alike = math.floor((tokens - left) * similar + 1e-9)
        order = sorted(range(tokens), key=lambda t: (-rank[t], t))[: left + alike]
        first, second = order[: len(order) // 2], order[len(order) // 2 :]
        rows = unit(keys.mean(0))
        closest = {t: max(rows[t] @ rows[u] for u in first) for t in second}
        gone = sorted(second, key=lambda t: -closest[t])[:alike]
        kept = sorted(t for t in order if t not in gone)
        slot = cosine_to_kept(states, kept)
        groups = [[t for t in range(tokens) if slot[t] == s] for s in range(len(kept))]
        states = states[kept]
        patches = places(groups, patches)
    return spread(states, patches)


def token_transforming(
    tower: NumpyTower, frame: torch.Tensor, share: float, temperature: float, layers: list[int]
) -> Array:
    states, size, back = tower.begin(frame), np.ones(N), np.eye(N)
    for layer in range(DEPTH):
        states, (_, keys, _), attention = tower.attend(layer, states, np.log(size))
        if layer in layers:
            tokens = len(states)
            received = attention.mean((0, 1))
            count = max(1, math.floor(tokens * share + 1e-9))
            centres = sorted(sorted(range(tokens), key=lambda t: (-received[t], t))[:count])
            rows = unit(keys.mean(0))
            given = softmax(rows @ rows[centres].T / temperature)
            for place, centre in enumerate(centres):
                given[centre] = np.eye(count)[place]
            total = given.T @ size
            states = (given.T * size) @ states / total[:, None]
            size, back = total, back @ given
        states = tower.feed(layer, states)
    return back @ states
