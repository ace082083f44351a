"""Look into every scene: cuts are where most of the picture changes at once, much more than around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from streamprune.checks import check_count, check_number, check_share
from streamprune.frames.content import ContentMethod, Previews, spread_over

# pictures are compared by the mean colours of so many blocks along each side
_BLOCKS = 8
# a camera that adapts to the light changes the brightness by no more than this from one candidate to the next
_DIMMED = 0.8


@dataclass(frozen=True, kw_only=True)
class Scene(ContentMethod):
    """Cut the window into scenes and spread the frames over them, every scene getting one.

    Pictures are compared by the mean colours of blocks, the brighter one dimmed towards the other. A cut is a
    step where the median change of a block (0 to 1) is at least ``threshold``, and ``contrast`` times the
    mean of that in the ``neighbors`` steps on either side: things that move change few blocks, slow fades
    have no such step, fast camera motion has many.

    Args:
        threshold: smallest change of a cut, in (0, 1].
        contrast: how much a cut must exceed the changes around it, 1 or more: fast motion is no cut.
        neighbors: steps on either side that it is compared with.

    Source: the usual baseline; the comparison with what is around follows adaptive content detection as in
    PySceneDetect. The defaults were tuned on clips of the embedded world.
    """

    threshold: float = 0.018
    contrast: float = 2.5
    neighbors: int = 2

    needs: ClassVar[frozenset[str]] = frozenset({"images"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("threshold", self.threshold)
        check_number("contrast", self.contrast, 1, 1000)
        check_count("neighbors", self.neighbors)

    def choose(self, previews: Previews) -> list[int]:
        """Frames of every scene, in time order."""
        return spread_over(self.scenes(previews.need("images", "scene")), self.num_frames)

    def scenes(self, images: Sequence[NDArray[np.uint8]]) -> list[tuple[int, int]]:
        """Half-open ranges of pictures without a cut between them."""
        colors = np.stack([_block_colors(image) for image in images])
        change = _changes(colors)
        cuts = [step + 1 for step in range(len(change)) if self._is_cut(change, step)]
        return list(pairwise([0, *cuts, len(colors)]))

    def _is_cut(self, change: NDArray[Any], step: int) -> bool:
        before = change[max(0, step - self.neighbors) : step]
        after = change[step + 1 : step + 1 + self.neighbors]
        around = np.concatenate([before, after])
        usual = float(around.mean()) if len(around) else 0.0
        return bool(change[step] >= max(self.threshold, self.contrast * usual))


def _changes(colors: NDArray[np.float64]) -> NDArray[np.float64]:
    """(pictures - 1,) median change of a block between neighbours, given (pictures, blocks, blocks, 3)."""
    # of the block in the middle: something bright that comes into the picture does not dim the rest
    brightness = np.median(colors.mean(3).reshape(len(colors), -1), axis=1).clip(1e-6)[:, None, None, None]
    ratio = brightness[1:] / brightness[:-1]
    before = colors[:-1] * np.clip(ratio, _DIMMED, 1)
    after = colors[1:] * np.clip(1 / ratio, _DIMMED, 1)
    blocks = np.abs(after - before).mean(3).reshape(len(ratio), _BLOCKS**2)
    changes: NDArray[np.float64] = np.median(blocks, axis=1)
    return changes


def _block_colors(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(blocks, blocks, 3) mean colours in [0, 1]; small pictures have blocks that share pixels."""
    colors = image / 255
    for axis in (0, 1):
        starts = np.arange(_BLOCKS) * image.shape[axis] // _BLOCKS
        sizes = np.maximum(1, np.diff(starts, append=image.shape[axis]))
        # where two blocks start at the same pixel, reduceat gives the first that pixel alone
        sums = np.add.reduceat(colors, starts, axis)
        colors = sums / sizes.reshape((-1, 1, 1) if axis == 0 else (-1, 1))
    return colors
