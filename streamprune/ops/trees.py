"""Trees of tokens: each token linked to the token of the frame before that it is most like."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from streamprune.ops.density import density_clusters
from streamprune.ops.merging import Entries
from streamprune.ops.similarity import gram, inner_products, squared_distances
from streamprune.reduction import weighted_sum

# what takes part in no link; below every cosine
_NONE = -1.0


@dataclass(frozen=True)
class Trees:
    """Tokens linked over time.

    Attributes:
        free: (frames, tokens) bool, tokens that are in some tree.
        linked: (frames, tokens) bool, those that are no roots.
        root: (frames, tokens) int64 flat index of the root of each token's tree.
        size: (frames * tokens,) tokens of the tree rooted there.
        divisor: (frames * tokens,) what the sum of that tree is divided by.
    """

    free: torch.Tensor
    linked: torch.Tensor
    root: torch.Tensor
    size: torch.Tensor
    divisor: torch.Tensor


def best_parents(
    frames: torch.Tensor, scale: torch.Tensor, free: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """For each free token, the free token of the frame before with the highest cosine.

    Args:
        frames: (frames, tokens, channels).
        scale: (frames, tokens) float32, one over the length of each token, 0 for zero tokens.
        free: (frames, tokens) bool.

    Returns:
        The cosine (frames, tokens) float32, -1 in the first frame, for tokens not free and where none is
        free in the frame before; and the token (frames, tokens) int64 of the frame before.
    """
    similarity = torch.full_like(scale, _NONE)
    parent = torch.zeros_like(free, dtype=torch.int64)
    for frame in range(1, len(frames)):
        products = inner_products(frames[frame].float(), frames[frame - 1].float())
        products.mul_(scale[frame - 1]).mul_(scale[frame, :, None])
        products.masked_fill_(~free[frame - 1], _NONE)
        best, parent[frame] = products.max(1)
        similarity[frame] = best.masked_fill(~free[frame], _NONE)
    return similarity, parent


def link_strongest(similarity: torch.Tensor, threshold: float, least_roots: int) -> torch.Tensor:
    """Which tokens are linked to their best parent.

    Args:
        similarity: (frames, tokens) as :func:`best_parents` gives it.
        threshold: tokens with a similarity above it are linked; raised where too few would stay.
        least_roots: tokens that stay unlinked at least, 0 to all of them.
    """
    linked = similarity > max(threshold, _NONE)
    tokens = similarity.numel()
    if tokens - int(linked.sum()) >= least_roots:
        return linked
    if least_roots == tokens:
        return torch.zeros_like(linked)
    values = similarity.flatten().sort(descending=True).values
    return similarity > values[tokens - least_roots - 1]


def roots_of(parent: torch.Tensor, linked: torch.Tensor) -> torch.Tensor:
    """(frames, tokens) int64 flat index of the token at the root of each token's tree.

    Args:
        parent: (frames, tokens) int64 token of the frame before.
        linked: (frames, tokens) bool; the others are roots. None in the first frame.
    """
    root = torch.arange(parent.numel(), device=parent.device).reshape(parent.shape)
    for frame in range(1, len(parent)):
        root[frame] = torch.where(linked[frame], root[frame - 1][parent[frame]], root[frame])
    return root


def cluster_trees(
    features: torch.Tensor, products: torch.Tensor, trees: Trees, clusters: list[int], neighbors: int
) -> tuple[torch.Tensor, Entries]:
    """Cluster the trees rooted in each frame by density; a cluster is the plain mean of its trees.

    Args:
        features: (frames * tokens, channels).
        products: (frames, tokens, tokens) float32 inner products of the tokens of each frame.
        trees: of all frames.
        clusters: for each frame, how many clusters its trees become; as many as trees means none.
        neighbors: how many nearest trees, itself included, make a density; no more than there are clusters.

    Returns:
        The flat index of each cluster's centre, and (row, token, weight), rows being numbered as the centres.
    """
    alive = (trees.free & ~trees.linked).flatten().nonzero()[:, 0]
    sizes = (trees.free & ~trees.linked).sum(1).tolist()
    distances = _distances(features, products, trees, alive, sizes)
    row = torch.empty_like(alive)
    first_of = list(itertools.accumulate(sizes, initial=0))
    centres = []
    done = 0
    for frames, count in _of_one_shape(sizes, clusters):
        first = torch.tensor([first_of[f] for f in frames], device=alive.device)[:, None]
        centre, joined = density_clusters(
            torch.stack([distances[f] for f in frames]), count, min(neighbors, count)
        )
        centres.append(alive[centre + first].flatten())
        row[torch.arange(joined.shape[1], device=alive.device) + first] = (
            joined + torch.arange(len(frames), device=alive.device)[:, None] * count + done
        )
        done += len(frames) * count
    row_of_root = torch.zeros_like(trees.root).flatten().scatter(0, alive, row)
    token = trees.free.flatten().nonzero()[:, 0]
    root = trees.root.flatten()[token]
    members = torch.bincount(row, minlength=done)
    rows = row_of_root[root]
    return torch.cat(centres), (rows, token, 1 / (trees.divisor[root] * members[rows]).float())


def _distances(
    features: torch.Tensor,
    products: torch.Tensor,
    trees: Trees,
    alive: torch.Tensor,
    sizes: list[int],
) -> list[torch.Tensor]:
    """For each frame, squared distances over channels between the trees rooted in it."""
    per_frame = products.shape[1]
    frame_of = alive // per_frame
    # inner products of tokens that took up no other are known already
    changed = torch.unique(frame_of[trees.size[alive] > 1])
    means = _tree_means(features, trees, alive[torch.isin(frame_of, changed)], changed)
    left = iter(torch.split(means, [sizes[frame] for frame in changed.tolist()]))
    known = torch.isin(torch.arange(len(sizes), device=changed.device), changed, invert=True).tolist()
    distances = []
    for frame, places in enumerate(torch.split(alive - frame_of * per_frame, sizes)):
        if not known[frame]:
            inner = gram(next(left))
        elif sizes[frame] == per_frame:
            inner = products[frame]
        else:
            inner = products[frame][places][:, places]
        distances.append(squared_distances(inner).div_(features.shape[1]))
    return distances


def _tree_means(
    features: torch.Tensor, trees: Trees, roots: torch.Tensor, frames: torch.Tensor
) -> torch.Tensor:
    """(roots, channels) float32 sum over divisor of each tree; ``roots`` are all those in ``frames``."""
    if len(roots) == 0:
        return torch.empty(0, features.shape[1], device=features.device)
    per_frame = trees.root.shape[1]
    root = trees.root.flatten()
    token = (trees.free.flatten() & torch.isin(root // per_frame, frames)).nonzero()[:, 0]
    row = torch.searchsorted(roots, root[token])
    weight = 1 / trees.divisor[root[token]].float()
    return weighted_sum((row, token, weight), features.float(), len(roots))


def _of_one_shape(sizes: list[int], clusters: list[int]) -> Iterator[tuple[list[int], int]]:
    """Frames with equally many points and clusters, and that number of clusters."""
    groups: dict[tuple[int, int], list[int]] = {}
    for frame, shape in enumerate(zip(sizes, clusters, strict=True)):
        groups.setdefault(shape, []).append(frame)
    for (_, count), frames in groups.items():
        if count:
            yield frames, count
