"""Trees of tokens: each token linked to the token of the frame before that it is most like."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from streamprune.ops.density import density_clusters
from streamprune.ops.merging import Entries
from streamprune.ops.similarity import inner_products, squared_distances
from streamprune.ops.temporal import row_products
from streamprune.reduction import weighted_sum

# what takes part in no link; below every cosine
_NONE = -1.0
# bounds on cosines may be so far off by rounding: the sine of a small angle loses half of its digits
_SLACK = 1e-3


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
    frames: torch.Tensor, products: torch.Tensor, free: torch.Tensor, threshold: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """For each free token, the free token of the frame before with the highest cosine, if above a threshold.

    Angles obey the triangle inequality. So from a token's angle to the same place of the other frame, and the
    angles inside each frame, follow bounds on all angles between the frames; only where they leave doubt are
    inner products computed.

    Args:
        frames: (frames, tokens, channels).
        products: (frames, tokens, tokens) float32 inner products of the tokens of each frame.
        free: (frames, tokens) bool.
        threshold: cosines up to it are of no interest.

    Returns:
        The cosine (frames, tokens) float32, -1 in the first frame, for tokens not free and where no free
        token of the frame before is above the threshold; and that token (frames, tokens) int64.
    """
    squares = products.diagonal(dim1=1, dim2=2)
    scale = torch.where(squares > 0, squares.rsqrt(), 0.0)
    similarity = torch.full_like(scale, _NONE)
    parent = torch.arange(free.shape[1], device=free.device).repeat(len(free), 1)
    before = _cosine_and_sine(products[0], scale[0])
    for frame in range(1, len(frames)):
        here = _cosine_and_sine(products[frame], scale[frame])
        token, other = frames[frame].float(), frames[frame - 1].float()
        same = row_products(token, other) * scale[frame] * scale[frame - 1]
        best = torch.where(free[frame - 1], same, _NONE)
        least = best.clamp(min=threshold) - _SLACK
        doubt = _upper_bounds(before, here, same) > least[:, None]
        doubt &= free[frame - 1]
        doubt &= free[frame, :, None]
        doubt.fill_diagonal_(False)
        row = doubt.any(1).nonzero()[:, 0]
        if len(row):
            # with the same place once more, so that equal cosines are computed equally
            column = ((doubt.any(0) | doubt.any(1)) & free[frame - 1]).nonzero()[:, 0]
            if 2 * len(row) * len(column) > doubt.numel():
                row = column = parent[0]
            exact = inner_products(token[row], other[column])
            exact.mul_(scale[frame - 1][column]).mul_(scale[frame][row, None])
            exact.masked_fill_(~free[frame - 1][column], _NONE)
            highest, place = exact.max(1)
            best[row], parent[frame, row] = highest, column[place]
        similarity[frame] = torch.where(free[frame] & (best > threshold), best, _NONE)
        before = here
    return similarity, parent


def _cosine_and_sine(products: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the angles between the tokens of one frame, from (n, n) products and (n,) 1 / lengths."""
    cosine = (scale[:, None] * scale).mul_(products)
    return cosine, cosine.square().neg_().add_(1).clamp_(min=0).sqrt_()


def _upper_bounds(
    before: tuple[torch.Tensor, torch.Tensor], here: tuple[torch.Tensor, torch.Tensor], same: torch.Tensor
) -> torch.Tensor:
    """(n, n) upper bounds on the cosine of each token with each of the frame before.

    Args:
        before, here: cosines and sines inside each frame.
        same: (n,) cosine of each token with the same place of the frame before.
    """
    sine = (1 - same.square()).clamp(min=0).sqrt()
    by_own_place = (before[0] * same[:, None]).addcmul_(before[1], sine[:, None])
    by_other_place = (here[0] * same).addcmul_(here[1], sine)
    return torch.minimum(by_own_place, by_other_place, out=by_own_place)


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
    token = trees.free.flatten().nonzero()[:, 0]
    root, by_root = trees.root.flatten()[token].sort(stable=True)
    token = token[by_root]
    in_frame = torch.bincount(root // per_frame, minlength=len(sizes)).tolist()
    distances: list[torch.Tensor] = []
    for roots, members, targets in zip(
        torch.split(alive, sizes), torch.split(token, in_frame), torch.split(root, in_frame), strict=True
    ):
        frame, places = len(distances), roots % per_frame
        inner = products[frame]
        if len(roots) < per_frame:
            inner = inner[places][:, places]
        if len(members) > len(roots):
            # only trees that took up a token have inner products that are not known yet
            changed = (trees.size[roots] > 1).nonzero()[:, 0]
            means = _tree_means(features, trees.divisor, roots, members, targets)
            block = inner_products(means[changed], means)
            inner = inner.index_copy(0, changed, block).index_copy(1, changed, block.T)
        distances.append(squared_distances(inner).div_(features.shape[1]))
    return distances


def _tree_means(
    features: torch.Tensor,
    divisor: torch.Tensor,
    roots: torch.Tensor,
    members: torch.Tensor,
    targets: torch.Tensor,
) -> torch.Tensor:
    """(roots, channels) float32: the sum of each tree's ``members``, whose roots are ``targets``, divided."""
    row = torch.searchsorted(roots, targets)
    weight = 1 / divisor[targets].float()
    if features.dtype != torch.float32:
        # widened only as far as needed
        features, members = features[members].float(), torch.arange(len(members), device=members.device)
    return weighted_sum((row, members, weight), features, len(roots))


def _of_one_shape(sizes: list[int], clusters: list[int]) -> Iterator[tuple[list[int], int]]:
    """Frames with equally many points and clusters, and that number of clusters."""
    groups: dict[tuple[int, int], list[int]] = {}
    for frame, shape in enumerate(zip(sizes, clusters, strict=True)):
        groups.setdefault(shape, []).append(frame)
    for (_, count), frames in groups.items():
        if count:
            yield frames, count
