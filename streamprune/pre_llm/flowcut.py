"""FlowCut: follow the summary token through the tower's layers and cut what it stops taking up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch

from streamprune.checks import check_count, check_number
from streamprune.errors import SignalError, UnknownNameError
from streamprune.ops.flow import FlowState, flow
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens

Schedule = Literal["clip", "frame"]


@dataclass(frozen=True, kw_only=True)
class FlowCut(PreLLMMethod):
    """Cut every frame down step by step, layer after layer, by scores that add up over the layers.

    Needs, for every tower layer up to the one that feeds the projector, ``layer_saliency`` (frames, layers,
    rows, cols), the summary query's attention averaged over heads; ``layer_value_similarity``, the softmax
    over tokens of the summary value's inner product with each token's value, averaged over heads; and
    ``layer_value_norm``, the sum of absolute entries of each token's value averaged over heads.

    A token's score in a layer is (attention share + similarity share) x value norm, the shares being taken
    among the tokens still there. Cuts take the lowest cumulated scores; how many depends on how concentrated
    the attention is. After the last layer each frame has its share of the budget.

    Args:
        interval: cut after every so many layers, counted back from the last one.
        momentum: weight of the earlier layers in the cumulated score, in [0, 1].
        schedule: ``clip`` = all frames lose equally many at each cut, the most that one of them can do
            without, as the released code does with images of a batch; ``frame`` = each frame on its own.

    Source: arXiv 2505.19536 and its release for CLIP towers. Difference: the release cuts inside the tower,
    so that later layers see fewer tokens; here the tower has run on all tokens, and the layers' attention and
    similarity are those of the full set, divided by what is left of them. A layer whose attention is all zero
    counts as attending evenly, and zero attention adds nothing to the entropy (the release has NaN there).
    """

    interval: int = 2
    momentum: float = 0.5
    schedule: Schedule = "clip"

    needs: ClassVar[tuple[str, ...]] = ("layer_saliency", "layer_value_similarity", "layer_value_norm")

    def __post_init__(self) -> None:
        check_count("interval", self.interval)
        check_number("momentum", self.momentum, 0, 1)
        if self.schedule not in get_args(Schedule):
            raise UnknownNameError.among("schedule of flowcut", self.schedule, get_args(Schedule))

    def count_reduced(self, grid: VideoGrid) -> int:
        """The same number for every frame."""
        return grid.frames * self.budget.per_frame(grid.frames, grid.tokens_per_frame)

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Run the layers, then take who is left."""
        grid = tokens.grid
        last = (grid.rows, grid.cols)
        relevance = tokens.signal("layer_saliency", (grid.frames, None, *last))
        layers = relevance.shape[1]
        if layers < 1:
            raise SignalError("signal 'layer_saliency' must hold at least one tower layer, got none")
        others = [tokens.signal(name, (grid.frames, layers, *last)) for name in self.needs[1:]]
        values = [signal.float().flatten(2) for signal in (relevance, *others)]
        if self.schedule == "clip":
            alive = self._last(values, grid).alive
        else:
            frames = zip(*(torch.split(signal, 1) for signal in values), strict=True)
            alive = torch.cat([self._last(list(frame), grid).alive for frame in frames])
        first = torch.arange(grid.frames, device=alive.device)[:, None] * grid.tokens_per_frame
        return Reduction.select(tokens, (alive + first).flatten())

    def _last(self, values: list[torch.Tensor], grid: VideoGrid) -> FlowState:
        """The state after the last layer."""
        relevance, similarity, magnitude = values
        target = self.budget.per_frame(grid.frames, grid.tokens_per_frame)
        *_, state = flow(
            relevance, similarity, magnitude, target=target, interval=self.interval, momentum=self.momentum
        )
        return state
