"""ATC: agglomerative clustering of each frame, every cluster becoming one token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

import torch

from streamprune.errors import UnknownNameError
from streamprune.ops.linkage import Linkage, agglomerate
from streamprune.ops.partition import merge_frame_groups
from streamprune.ops.similarity import cosines, frame_grams
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.pre_llm.metric import Metric, compared, needs_of
from streamprune.tokens import Reduction, VideoGrid, VisualTokens


@dataclass(frozen=True, kw_only=True)
class ATC(PreLLMMethod):
    """Merge the two nearest clusters of a frame again and again until its share of the budget is left.

    Two tokens are one minus their cosine apart. A cluster becomes the mean of its tokens (weighted by what
    they stand for already) and stands where its first token stood.

    Args:
        linkage: how far apart two clusters are: the ``average``, the largest (``complete``) or the smallest
            (``single``) distance of a token of one and a token of the other. ``single`` chains tokens that
            are alike step by step.
        metric: tokens are compared by ``features`` or by the tower's ``keys`` (frames, rows, cols, channels),
            as inside the tower.

    Source: arXiv 2409.11923 and its released code. There it runs in some blocks of the tower, each cutting
    the count by the ratio; here once between tower and language model, with the count rounded as there.
    Clusters are emitted by their first tokens; the release leaves their order open. Ties go to the lower
    cluster.
    """

    linkage: Linkage = "average"
    metric: Metric = "features"

    needs: ClassVar[tuple[str, ...]] = ()
    causal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.linkage not in get_args(Linkage):
            raise UnknownNameError.among("linkage of atc", self.linkage, get_args(Linkage))
        object.__setattr__(self, "needs", needs_of("atc", self.metric))

    def count_reduced(self, grid: VideoGrid) -> int:
        """The same for each frame."""
        return grid.frames * self._clusters(grid)

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Cluster each frame, then take the means once."""
        grid = tokens.grid
        distances = 1 - cosines(frame_grams(compared(tokens, self.metric)))
        cluster = agglomerate(distances, self._clusters(grid), self.linkage)
        shape = (grid.frames, self._clusters(grid))
        size = torch.ones(len(tokens), device=cluster.device) if tokens.size is None else tokens.size.float()
        size = size.reshape(grid.frames, -1)
        total = torch.zeros(shape, device=cluster.device).scatter_add(1, cluster, size)
        place = torch.arange(grid.tokens_per_frame, device=cluster.device).expand_as(cluster)
        last = place.new_full(shape, grid.tokens_per_frame)
        first = last.scatter_reduce(1, cluster, place, "amin")
        return merge_frame_groups(tokens, cluster, size / total.gather(1, cluster), first)

    def _clusters(self, grid: VideoGrid) -> int:
        return self.budget.per_frame(grid.frames, grid.tokens_per_frame, rounding="truncate")
