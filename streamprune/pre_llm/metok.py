"""METok: cut into events, pool finely where event and frame fit the question, coarsely elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import Budget
from streamprune.checks import check_count
from streamprune.errors import InvalidTypeError, InvalidValueError
from streamprune.ops.relevance import frame_relevance
from streamprune.ops.segments import cut_transitions
from streamprune.ops.selection import highest
from streamprune.ops.similarity import adjacent_cosine
from streamprune.ops.tiles import block_layout, tile
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens

# blocks of a frame of one level over those of the next: the stride doubles both ways
_STEP = 4
_LEVELS = 3


@dataclass(frozen=True, kw_only=True)
class METok(PreLLMMethod):
    """Average over blocks of each frame, small blocks in key frames of key events, larger ones elsewhere.

    Needs ``image_embeds`` (frames, rows, cols, channels) and ``text_embeds`` (pieces, channels), tokens and
    question in one space.

    The clip is cut at its weakest transitions, where mean tokens of neighbouring frames are least alike. A
    frame is as relevant as its mean token is like the question, an event as its most relevant frame. Level 0:
    the most relevant frames of key events. Level 1: their other frames, and the most relevant frames of the
    other events. Level 2: the rest.

    With a budget, a frame of one level has room for four times as many blocks as one of the next, as far as
    its grid goes, and its blocks are the squarest that fit into that; what comes nearest to the budget is
    taken. A frame keeps at least one block. A block's representative is the token nearest its centre.

    Args:
        num_cuts: events less one (fewer in shorter clips).
        num_key_events: how many of the most relevant events are key events.
        num_key_frames: how many of an event's frames are taken for its most relevant.
        strides: as released, without a budget: tokens along one side of a block of each level (the release:
            2, 4, 8 on the grid of the encoder). None = from the budget; giving both is an error.

    Source: arXiv 2506.02850 and its release (the part before the language model). Differences: the question
    is compared in the space of the given signals, not by a SigLIP text tower; blocks tile the grid, where the
    release leaves out the last rows and columns that do not divide or interpolates; ties go to the lower
    index; clips of few frames work (the release raises). The token after each event is the prompt's affair.
    """

    num_cuts: int = 4
    num_key_events: int = 3
    num_key_frames: int = 6
    strides: tuple[int, int, int] | None = None

    needs: ClassVar[tuple[str, ...]] = ("image_embeds", "text_embeds")

    def __post_init__(self) -> None:
        check_count("num_cuts", self.num_cuts, least=0)
        check_count("num_key_events", self.num_key_events, least=0)
        check_count("num_key_frames", self.num_key_frames, least=0)
        if self.strides is None:
            return
        if not isinstance(self.strides, tuple | list) or len(self.strides) != _LEVELS:
            raise InvalidTypeError(f"strides must be {_LEVELS} integers of at least 1, got {self.strides!r}")
        for stride in self.strides:
            check_count("strides", stride)
        if self.budget != Budget():
            raise InvalidValueError(
                f"strides={self.strides!r} set how much stays, and so does the budget; leave out one of them"
            )

    def keeps_everything(self, grid: VideoGrid) -> bool:
        """Not with ``strides``, which take the place of a budget."""
        return self.strides is None and super().keeps_everything(grid)

    def count_reduced(self, grid: VideoGrid) -> int | None:
        """Known only for one frame; else it depends on how long the events are."""
        if grid.frames > 1:
            return None
        ((down, across),) = self.layouts(self.levels([(0, 1)], torch.zeros(1)), grid)
        return down * across

    def events(self, frame_features: torch.Tensor) -> list[tuple[int, int]]:
        """Half-open frame ranges of the events of a clip with these (frames, channels) mean tokens."""
        return cut_transitions(adjacent_cosine(frame_features), at_least=self.num_cuts)

    def levels(self, events: list[tuple[int, int]], relevance: torch.Tensor) -> list[int]:
        """Level 0 to 2 of each frame.

        Args:
            events: half-open frame ranges, covering every frame.
            relevance: (frames,) of each frame to the question.
        """
        best = torch.stack([relevance[start:stop].amax() for start, stop in events])
        key_events = set(highest(best, self.num_key_events).tolist())
        levels: list[int] = []
        for number, (start, stop) in enumerate(events):
            key_frames = set(highest(relevance[start:stop], self.num_key_frames).tolist())
            base = 0 if number in key_events else 1
            levels += [base if frame in key_frames else base + 1 for frame in range(stop - start)]
        return levels

    def layouts(self, levels: Sequence[int], grid: VideoGrid) -> list[tuple[int, int]]:
        """Blocks (down, across) of each frame."""
        if self.strides is not None:
            sides = [(-(-grid.rows // stride), -(-grid.cols // stride)) for stride in self.strides]
        else:
            sides = self._fitting_layouts(levels, grid)
        return [sides[level] for level in levels]

    def _fitting_layouts(self, levels: Sequence[int], grid: VideoGrid) -> list[tuple[int, int]]:
        """Layout of each level, so that together they come nearest to the budget without going over it."""
        total, per_frame = self.budget.tokens(grid.tokens), grid.tokens_per_frame
        frames = [list(levels).count(level) for level in range(_LEVELS)]
        layouts = [block_layout(grid.rows, grid.cols, max(1, room)) for room in range(per_frame + 1)]
        blocks = [down * across for down, across in layouts]
        best, best_rooms = 0, [1] * _LEVELS
        # with this many times its tokens at level 0, a frame is whole even at the last level
        for room in range(1, per_frame * _STEP ** (_LEVELS - 1) + 1):
            rooms = [min(per_frame, room // _STEP**level) for level in range(_LEVELS)]
            kept = sum(n * blocks[r] for n, r in zip(frames, rooms, strict=True))
            if best <= kept <= total:
                best, best_rooms = kept, rooms
        return [layouts[room] for room in best_rooms]

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Find the events, give every frame its level, and average."""
        grid = tokens.grid
        shape = (grid.frames, grid.rows, grid.cols, None)
        image = tokens.signal("image_embeds", shape).flatten(1, 2)
        text = tokens.signal("text_embeds", (None, image.shape[-1]))
        events = self.events(tokens.frames.mean(1, dtype=torch.float32))
        layouts = self.layouts(self.levels(events, frame_relevance(image, text)), grid)
        device = tokens.features.device
        tiles = {layout: _frame_tiles(grid, layout, device) for layout in set(layouts)}
        index, row, weight = [], [], []
        first = 0
        for frame, layout in enumerate(layouts):
            centre, block, share = tiles[layout]
            index.append(centre + frame * grid.tokens_per_frame)
            row.append(block + first)
            weight.append(share)
            first += len(centre)
        token = torch.arange(len(tokens), device=device)
        return Reduction.merge(tokens, torch.cat(index), (torch.cat(row), token, torch.cat(weight)))


def _frame_tiles(
    grid: VideoGrid, layout: tuple[int, int], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The centre of each block of a frame; for each token its block and its weight there."""
    row_block, row_centre, row_size = tile(grid.rows, layout[0], device)
    col_block, col_centre, col_size = tile(grid.cols, layout[1], device)
    centre = (row_centre[:, None] * grid.cols + col_centre).flatten()
    block = (row_block[:, None] * layout[1] + col_block).flatten()
    size = (row_size[:, None] * col_size).flatten()
    return centre, block, 1 / size[block].float()
