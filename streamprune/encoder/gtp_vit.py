"""GTP-ViT: the least attended tokens hand what they hold to their neighbours in a graph and leave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from streamprune.checks import check_count, check_number
from streamprune.encoder.base import EncoderMethod, LayerInput, LayerReduction, TowerShape, scaled_count
from streamprune.encoder.token_map import TokenMap, like_kept
from streamprune.errors import UnknownNameError
from streamprune.ops.selection import lowest
from streamprune.ops.similarity import unit_rows

Graph = Literal["mixed", "spatial", "semantic"]
_GRAPHS = ("mixed", "spatial", "semantic")

# published for 196 patches
_REMOVED, _PATCHES = 8, 196


@dataclass(frozen=True, kw_only=True)
class GTPViT(EncoderMethod):
    """Drop a constant number of tokens per layer and add a part of each to its graph neighbours that stay.

    The graph is made once, from the states before the first layer: patches that touch on the grid, and each
    patch with the ones most like it. Between attention and feed-forward a token's score is the largest
    attention any head lets it give itself, times the largest it receives in any head. The lowest scores
    leave. A dropped patch reads the most similar token that stayed.

    Args:
        removed: tokens each acting layer drops, of which at least one stays; None = 8 of 196 patches.
        propagation: how much of a dropped token its neighbours take up, at least 0; 0 is pure pruning.
        graph: ``spatial`` neighbours, ``semantic`` ones, or both (``mixed``).
        num_neighbors: most similar patches that are semantic neighbours.
        proportional: a token's scale grows by what it takes up; attention adds its logarithm.
        layers: see EncoderMethod; None = every layer.

    Source: arXiv 2311.03035 and its release. Differences: attention weights are not made sparse, which the
    fused kernels of stock models cannot do; survivors stay in order; equal scores drop the lower token;
    a tower's summary token is not seen, so that it gives no attention and is in no graph.
    """

    removed: int | None = None
    propagation: float = 0.1
    graph: Graph = "mixed"
    num_neighbors: int = 8
    proportional: bool = True

    needs: ClassVar[tuple[str, ...]] = ("queries", "keys")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.removed is not None:
            check_count("removed", self.removed, least=0)
        check_number("propagation", self.propagation, 0, 1e3)
        if self.graph not in _GRAPHS:
            raise UnknownNameError.among("graph of gtp_vit", self.graph, _GRAPHS)
        check_count("num_neighbors", self.num_neighbors)

    def left_over(self, layer: int, tokens: int, tower: TowerShape) -> int:
        """A constant number less."""
        removed = scaled_count(_REMOVED, _PATCHES, tower.tokens) if self.removed is None else self.removed
        return max(1, tokens - removed)

    def begin(self, states: torch.Tensor, tower: TowerShape) -> torch.Tensor:
        """The normalised graph, (frames, patches, patches)."""
        links = torch.zeros(len(states), tower.tokens, tower.tokens, device=states.device)
        if self.graph != "semantic":
            links += spatial_links(tower.rows, tower.cols, states.device)
        if self.graph != "spatial":
            links += semantic_links(states, self.num_neighbors)
        return normalised(links.clamp(max=1))

    def reduce_layer(self, at: LayerInput) -> LayerReduction:
        """Score by the layer's attention, propagate along what is left of the graph."""
        graph: torch.Tensor = at.carried
        dropping = at.tokens - self.left_over(at.layer, at.tokens, at.tower)
        if dropping == 0:
            return LayerReduction(size=at.size, carried=graph)
        received, own = at.signals.attention().received_and_own()
        dropped = lowest(own.amax(1) * received.amax(1), dropping)
        kept = _others(dropped, at.tokens)
        rows = graph.gather(1, kept[..., None].expand(-1, -1, at.tokens))
        share = self.propagation * rows.gather(2, dropped[:, None].expand(-1, kept.shape[1], -1))
        left = rows.gather(2, kept[:, None].expand(-1, kept.shape[1], -1))
        frame, row, column = share.nonzero(as_tuple=True)
        added = (
            frame * kept.shape[1] + row,
            frame * at.tokens + dropped[frame, column],
            share[frame, row, column],
        )
        step = TokenMap.blend(kept, like_kept(at.states, kept), added)
        sizes = at.sizes()
        grown = sizes.gather(1, kept) + (share @ sizes.gather(1, dropped)[..., None])[..., 0]
        return LayerReduction(step, grown, left)


def spatial_links(rows: int, cols: int, device: torch.device) -> torch.Tensor:
    """(patches, patches) float32: 1 between patches that touch, diagonally too; 0 on the diagonal."""
    place = torch.arange(rows * cols, device=device)
    row, col = place.div(cols, rounding_mode="floor"), place % cols
    near = ((row[:, None] - row).abs() <= 1) & ((col[:, None] - col).abs() <= 1)
    return near.float().fill_diagonal_(0)


def semantic_links(states: torch.Tensor, neighbors: int) -> torch.Tensor:
    """(frames, patches, patches) float32: 1 where a patch is among the most similar ones of the row's.

    Equally similar ones at the border are all taken.
    """
    unit = unit_rows(states)
    similarity = unit @ unit.mT
    similarity.diagonal(dim1=-2, dim2=-1).fill_(-float("inf"))
    count = min(neighbors, similarity.shape[-1] - 1)
    if count == 0:
        return torch.zeros_like(similarity)
    border = similarity.topk(count, dim=-1).values[..., -1:]
    return (similarity >= border).float()


def normalised(links: torch.Tensor) -> torch.Tensor:
    """Divide each link by the roots of its two ends' numbers of links; a patch without any keeps none."""
    degree = links.sum(-1)
    root = torch.where(degree > 0, degree.clamp(min=1).rsqrt(), 0.0)
    return root[..., :, None] * links * root[..., None, :]


def _others(dropped: torch.Tensor, tokens: int) -> torch.Tensor:
    """(frames, tokens - dropped) ascending."""
    alive = torch.ones(len(dropped), tokens, dtype=torch.bool, device=dropped.device)
    alive.scatter_(1, dropped, False)
    return alive.nonzero()[:, 1].reshape(len(dropped), -1)
