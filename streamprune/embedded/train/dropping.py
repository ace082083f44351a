"""Token-drop augmentation: which visual tokens of a training clip the language model gets to see.

No method's score is used, but half of the drops favour tokens with objects on them (by the world's own
coverage), so selections that keep objects are nearer to training than others. The model card says so.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SMALLEST_KEEP = 0.05


def draw_keep(rng: np.random.Generator, tokens: int, drop_share: float) -> int:
    """Draw how many ``tokens`` to keep: all, or with probability ``drop_share`` a log-uniform 5 to 100 %."""
    if rng.random() >= drop_share:
        return tokens
    return max(2, round(tokens * float(np.exp(rng.uniform(np.log(SMALLEST_KEEP), 0.0)))))


def draw_tokens(rng: np.random.Generator, coverage: NDArray[np.float32], keep: int) -> NDArray[np.int64]:
    """Draw ``keep`` ascending token indices; ``coverage`` (frames, cells) is that of the best object.

    A fifth of the draws keep whole frames, three tenths are uniform, a quarter favours objects over the whole
    clip and a quarter favours objects frame by frame.
    """
    frames, cells = coverage.shape
    if keep >= frames * cells:
        return np.arange(frames * cells)
    luck: NDArray[np.float64] = rng.random((frames, cells))
    kind = float(rng.random())
    if kind < 0.2:
        order = np.argsort(rng.random((frames, 1)) + 1e-3 * luck, axis=None, kind="stable")
    elif kind < 0.5:
        order = np.argsort(luck, axis=None)
    else:
        scores = rng.uniform(0.3, 2.0) * coverage.astype(np.float64) ** 0.3 + luck
        if kind >= 0.75:
            return np.sort(_per_frame(scores, luck, keep))
        order = np.argsort(-scores, axis=None)
    return np.sort(order[:keep])


def _per_frame(scores: NDArray[np.float64], luck: NDArray[np.float64], keep: int) -> NDArray[np.int64]:
    """The same number of best tokens in every frame, the remainder in frames drawn by ``luck``."""
    rank = np.argsort(np.argsort(-scores, axis=1), axis=1)
    return np.argsort((rank + 0.999 * luck[:, :1]).reshape(-1), kind="stable")[:keep]
