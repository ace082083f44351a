"""Look into every scene: cuts are where the picture changes at once, and by much more than around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from streamprune.checks import check_count, check_number
from streamprune.frames.content import ContentMethod, Previews, spread_over

# pictures are compared by the mean colours of so many blocks along each side
_BLOCKS = 8


@dataclass(frozen=True, kw_only=True)
class Scene(ContentMethod):
    """Cut the window into scenes and spread the frames over them, every scene getting one.

    A cut is a change of the picture, as the mean difference of block colours (0 to 1), that is at least
    ``threshold`` and ``contrast`` times the mean change in the ``neighbors`` steps on either side. Slow fades
    have no such step and are not cut.

    Args:
        threshold: smallest change of a cut, in (0, 1].
        contrast: how much a cut must exceed the changes around it, 1 or more: fast motion is no cut.
        neighbors: steps on either side that it is compared with.

    Source: the usual baseline; the comparison with what is around follows adaptive content detection as in
    PySceneDetect, on block colours.
    """

    threshold: float = 0.08
    contrast: float = 2.0
    neighbors: int = 2

    needs: ClassVar[frozenset[str]] = frozenset({"images"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("threshold", self.threshold, 0, 1)
        check_number("contrast", self.contrast, 1, 1000)
        check_count("neighbors", self.neighbors)

    def choose(self, previews: Previews) -> list[int]:
        """Frames of every scene, in time order."""
        return spread_over(self.scenes(previews.need("images", "scene")), self.num_frames)

    def scenes(self, images: Sequence[NDArray[np.uint8]]) -> list[tuple[int, int]]:
        """Half-open ranges of pictures without a cut between them."""
        colors = np.stack([_block_colors(image) for image in images])
        change = np.abs(np.diff(colors, axis=0)).mean((1, 2, 3))
        cuts = [step + 1 for step in range(len(change)) if self._is_cut(change, step)]
        return list(pairwise([0, *cuts, len(colors)]))

    def _is_cut(self, change: NDArray[Any], step: int) -> bool:
        before = change[max(0, step - self.neighbors) : step]
        after = change[step + 1 : step + 1 + self.neighbors]
        around = np.concatenate([before, after])
        usual = float(around.mean()) if len(around) else 0.0
        return bool(change[step] >= max(self.threshold, self.contrast * usual))


def _block_colors(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(blocks, blocks, 3) mean colours in [0, 1]; small pictures have blocks that share pixels."""
    rows, cols, _ = image.shape
    colors = np.empty((_BLOCKS, _BLOCKS, 3))
    for y in range(_BLOCKS):
        top = y * rows // _BLOCKS
        band = image[top : max(top + 1, (y + 1) * rows // _BLOCKS)].mean(0)
        for x in range(_BLOCKS):
            left = x * cols // _BLOCKS
            colors[y, x] = band[left : max(left + 1, (x + 1) * cols // _BLOCKS)].mean(0)
    return colors / 255
