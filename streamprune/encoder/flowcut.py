"""FlowCut: tokens that add little to what the tower sums up leave step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import share_of
from streamprune.checks import check_count, check_number, check_share
from streamprune.encoder.base import EncoderMethod, LayerInput, LayerReduction, Place, TowerShape
from streamprune.encoder.token_map import TokenMap, like_kept
from streamprune.ops.flow import flow_step


@dataclass(frozen=True, kw_only=True)
class FlowCut(EncoderMethod):
    """Keep the tokens with the highest cumulated contribution, cutting more where attention is sure.

    After each layer a token adds (its share of the attention + its share of the value similarity) * the
    length of its value, cumulated with momentum. Every second layer, counted from the end, cuts: the lower
    the entropy of the attention, the more. The last cut leaves the target exactly; one layer runs on it. A
    dropped patch reads the most similar token that stayed.

    Args:
        final_share: share of the patches left in the end, in (0, 1].
        final_tokens: the same as a number; it wins over ``final_share``.
        interval: cut every so many layers.
        momentum: weight of earlier scores, in [0, 1].
        batch_maximum: all frames of a batch lose as many tokens as the one that can spare most, as released;
            frames encoded together then influence each other. Otherwise each frame has its own number.
        layers: scoring layers; None = all but the last. The last one named leaves the target.

    Source: arXiv 2505.19536 and its release for CLIP towers. Differences: no summary token is
    seen; the attention is the mean over the queries of all patches instead of its row, and its value the mean
    of theirs. Without ``batch_maximum`` frames run through the tower one by one.
    """

    final_share: float = 1 / 3
    final_tokens: int | None = None
    interval: int = 2
    momentum: float = 0.5
    batch_maximum: bool = False

    needs: ClassVar[tuple[str, ...]] = ("queries", "keys", "values")
    place: ClassVar[Place] = "after"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("final_share", self.final_share)
        if self.final_tokens is not None:
            check_count("final_tokens", self.final_tokens)
        check_count("interval", self.interval)
        check_number("momentum", self.momentum, 0, 1)

    @property
    def frame_by_frame(self) -> bool:
        """Unless the batch agrees on a number."""
        return not self.batch_maximum

    def own_layers(self, tower: TowerShape) -> tuple[int, ...]:
        """All but the last, which runs on what is left."""
        return tuple(range(max(1, tower.depth - 1)))

    def target(self, tower: TowerShape) -> int:
        """Tokens of a frame left in the end."""
        if self.final_tokens is not None:
            return min(self.final_tokens, tower.tokens)
        return max(1, share_of(tower.tokens, self.final_share))

    def left_over(self, layer: int, tokens: int, tower: TowerShape) -> int | None:
        """Certain where nothing is to be cut, and after the last cut."""
        target = self.target(tower)
        if tokens == target or self._layers_left(layer, tower) % self.interval:
            return tokens
        return target if self._layers_left(layer, tower) == 0 else None

    def _layers_left(self, layer: int, tower: TowerShape) -> int:
        acting = self.acting_layers(tower)
        return len(acting) - 1 - acting.index(layer)

    def reduce_layer(self, at: LayerInput) -> LayerReduction:
        """Score, and cut where it is time; the cumulated scores of those that stay are carried on."""
        values = at.signals.get("values")
        kept, scores = flow_step(
            at.signals.attention().received().mean(1),
            value_similarity(values),
            values.mean(1).abs().sum(-1),
            at.carried,
            target=self.target(at.tower),
            layers_left=self._layers_left(at.layer, at.tower),
            interval=self.interval,
            momentum=self.momentum,
        )
        if kept.shape[1] == at.tokens:
            return LayerReduction(carried=scores)
        return LayerReduction(TokenMap.select(kept, like_kept(at.states, kept)), carried=scores)


def value_similarity(values: torch.Tensor) -> torch.Tensor:
    """(frames, tokens): softmax over tokens of each value's product with the mean value, mean over heads."""
    mean = values.mean(2, keepdim=True)
    return torch.softmax((values * mean).sum(-1), -1).mean(1)
