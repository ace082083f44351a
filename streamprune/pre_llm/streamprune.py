"""Our own: salient tokens that add something to what their own and the neighbouring frames keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from streamprune.checks import check_number
from streamprune.ops.similarity import gram, inner_products
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VisualTokens

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class StreamPrune(PreLLMMethod):
    """Pick tokens one by one, each the most salient in what nothing picked so far shows.

    Needs ``saliency`` (frames, rows, cols), higher = more salient.

    A token's worth is its novelty times ``saliency ** saliency_power`` (saliency over the mean of its frame).
    Novelty is one minus the largest cosine with a picked token of its own frame, or ``neighbor_weight`` times
    that with one of the frame before or after. Frames further away do not count: a look that stays or comes
    back is new again there, which is what questions about motion, order and number of scenes live on. The
    budget is the clip's, not each frame's, so that it goes where there is something to see.

    Picked tokens stay unchanged, the rest is dropped. Two floats are held per pair of tokens of a frame.

    Args:
        neighbor_weight: in [0, 1]; 0 = every frame on its own, 1 = as if it were one frame.
        saliency_power: in [0, 4]; 0 = novelty alone.

    Source: streamprune. The parts are known: greedy farthest-point picking (arXiv 2503.02175) on a distance
    scaled by attention (arXiv 2602.08024); limiting repetition to neighbouring frames and giving the budget
    to the clip are ours.
    """

    neighbor_weight: float = 0.6
    saliency_power: float = 0.5

    needs: ClassVar[tuple[str, ...]] = ("saliency",)

    def __post_init__(self) -> None:
        check_number("neighbor_weight", self.neighbor_weight, 0, 1)
        check_number("saliency_power", self.saliency_power, 0, 4)

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Compare tokens on their device, pick on the processor: picking is one short step after another."""
        grid = tokens.grid
        saliency = tokens.signal("saliency", (grid.frames, grid.rows, grid.cols)).float()
        saliency = saliency.reshape(grid.frames, -1).clamp(min=0)
        mean = saliency.mean(1, keepdim=True)
        weight = torch.where(mean > 0, saliency / mean, 1.0) ** self.saliency_power
        within, across = _cosines(tokens.frames)
        picking = _Picking(within, self.neighbor_weight * across, weight.cpu().numpy())
        picked = [picking.pick() for _ in range(self.budget.tokens(grid.tokens))]
        return Reduction.select(tokens, torch.tensor(picked, device=tokens.features.device))


class _Picking:
    """What has been picked, and how much every token is still worth.

    Args:
        within: (frames, n, n) cosines inside each frame.
        across: (frames - 1, n, n) weighted cosines of each frame (rows) with the next (columns).
        weight: (frames, n) factor of a token's novelty.
    """

    def __init__(self, within: Floats, across: Floats, weight: Floats) -> None:
        self._within, self._across, self._weight = within, across, weight
        self._novelty = np.ones_like(weight)
        self._worth = weight.copy()
        self._best = weight.argmax(1)
        self._best_worth = weight.max(1)

    def pick(self) -> int:
        """Pick the token that is worth most; ties go to the lower index."""
        frame = int(self._best_worth.argmax())
        token = int(self._best[frame])
        self._worth[frame, token] = -np.inf
        self._devalue(frame, self._within[frame, token])
        if frame > 0:
            self._devalue(frame - 1, self._across[frame - 1, :, token])
        if frame + 1 < len(self._weight):
            self._devalue(frame + 1, self._across[frame, token])
        return frame * int(self._weight.shape[1]) + token

    def _devalue(self, frame: int, alike: Floats) -> None:
        novelty, worth = self._novelty[frame], self._worth[frame]
        np.minimum(novelty, 1 - alike, out=novelty)
        gone = worth == -np.inf
        np.multiply(novelty, self._weight[frame], out=worth)
        worth[gone] = -np.inf
        best = int(worth.argmax())
        self._best[frame], self._best_worth[frame] = best, worth[best]


def _cosines(frames: torch.Tensor) -> tuple[Floats, Floats]:
    """Cosines of the tokens of each frame with each other and with the next frame's, clipped to 1."""
    count, tokens, _ = frames.shape
    within = np.empty((count, tokens, tokens), np.float32)
    across = np.empty((count - 1, tokens, tokens), np.float32)
    before = scale_before = None
    for number, frame in enumerate(frames):
        frame = frame.float()
        products = gram(frame)
        lengths = products.diagonal().clamp(min=0).sqrt()
        scale = torch.where(lengths > 0, 1 / lengths, 0.0)
        within[number] = (products * scale[:, None] * scale).clamp(max=1).cpu().numpy()
        if before is not None and scale_before is not None:
            products = inner_products(before, frame)
            across[number - 1] = (products * scale_before[:, None] * scale).clamp(max=1).cpu().numpy()
        before, scale_before = frame, scale
    return within, across
