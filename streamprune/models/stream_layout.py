"""How a family writes a video frame by frame: what stands before it, around each frame, and behind it.

Read off the prompts that the family writes for two and three frames, so that it is right for every family
whose prompt grows by the same text for each frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from streamprune.errors import UnsupportedModelError
from streamprune.models.base import Prompt, VideoFamily
from streamprune.tokens import Reduction, VideoGrid, VisualTokens

# anything that says nothing about the video
_ANY_QUESTION = "?"

# lengths of small videos
_PROBES = (2, 6)


@dataclass(frozen=True, eq=False)
class Written:
    """Consecutive tokens of a prompt.

    Attributes:
        ids: (tokens,) int64.
        offsets: (axes, tokens) int64, positions counted from where the first of them begins.
        span: (axes,) positions they take.
        visual: (tokens,) bool, which are the frame's.
        rows: (tokens, channels) what stands in the stead of placeholders that are no token of a frame, zero
            elsewhere; None where there are none.
    """

    ids: torch.Tensor
    offsets: torch.Tensor
    span: tuple[int, ...]
    visual: torch.Tensor
    rows: torch.Tensor | None = None

    def part(self, start: int) -> Written:
        """Its tokens from ``start`` on; their offsets stay."""
        some = slice(start, None)
        rows = None if self.rows is None else self.rows[some]
        return replace(
            self, ids=self.ids[some], offsets=self.offsets[:, some], visual=self.visual[some], rows=rows
        )


class StreamLayout:
    """The layout of one family for frames of one grid.

    Args:
        family: the model.
        grid: of one frame of tokens.
        seconds_per_frame: between frames of tokens.

    Raises UnsupportedModelError where the prompt of a longer video is not that of a shorter one, continued.
    """

    def __init__(self, family: VideoFamily, grid: VideoGrid, seconds_per_frame: float) -> None:
        self._family = family
        self._grid = VideoGrid(1, grid.rows, grid.cols)
        self._step = seconds_per_frame
        # the first frame and any other, where no times are written
        self._alike: dict[bool, Written] = {}
        self._read(self._full(2))
        later = self._full(2, times=(3600.0, 3600.0 + seconds_per_frame))
        self._timed = later.prompt.input_ids.tolist() != self._full(2).prompt.input_ids.tolist()
        self._head_length = self._read_head()
        self._tail_from = self._tail_rule()

    def tensors(self) -> Iterator[torch.Tensor]:
        """What is remembered of frames that are all alike."""
        for written in self._alike.values():
            yield from (written.ids, written.offsets, written.visual)
            if written.rows is not None:
                yield written.rows

    def head(self) -> Written:
        """What stands before the first frame."""
        # with the same time twice, so that what is written about it is equally long
        full = self._full(2, times=(0.0, 0.0) if self._timed else None)
        return full.cut(0, self._head_length)

    def frame(self, pts_seconds: float, *, first: bool = False) -> Written:
        """A frame with all its tokens and the text around it; of the ``first`` it may be another one."""
        if self._timed:
            return self._frame(pts_seconds, first)
        if first not in self._alike:
            self._alike[first] = self._frame(pts_seconds, first)
        return self._alike[first]

    def _frame(self, pts_seconds: float, first: bool) -> Written:
        before, after = (0.0, self._step) if first else (self._step, 0.0)
        times = (max(0.0, pts_seconds - before), pts_seconds + after)
        full = self._full(2, times=times if self._timed else None)
        tokens = self._grid.tokens
        visual = full.prompt.kept_columns[:tokens] if first else full.prompt.kept_columns[tokens:]
        start = self._head_length if first else int(visual[0]) - self._header(full)
        end = int(visual[-1]) + 1 + self._footer
        written = full.cut(start, end)
        return written if first else replace(written, span=self._span(full, start, end))

    def tail(self, question: str) -> Written:
        """What stands behind the last frame, with ``question``."""
        full = self._full(2, question)
        return full.cut(int(full.prompt.kept_columns[-1]) + 1 + self._footer, len(full.prompt))

    def tail_place(self, end: Sequence[int]) -> tuple[int, ...]:
        """Where the text behind the last frame begins, if the frame ends before ``end`` (axes,)."""
        if self._tail_from is None:
            return (_furthest(end, self._reach),) * len(end)
        return tuple(end[axis] + distance for axis, distance in self._tail_from)

    def opening(self) -> Written:
        """The text that opens an answer, whatever was asked."""
        one, other = self.tail(_ANY_QUESTION), self.tail(_ANY_QUESTION * 2)
        common = _common(one.ids.tolist()[::-1], other.ids.tolist()[::-1])
        part = one.part(len(one.ids) - max(1, common))
        return replace(part, offsets=part.offsets - part.offsets[:, :1])

    def _full(
        self,
        frames: int,
        question: str = _ANY_QUESTION,
        times: tuple[float, ...] | None = None,
        side: tuple[int, int] | None = None,
    ) -> _Full:
        """The prompt about so many frames; ``side`` is their rows and columns when they are others."""
        grid = VideoGrid(frames, *(side or (self._grid.rows, self._grid.cols)))
        width = self._family.model.get_input_embeddings().weight
        features = width.new_zeros(grid.tokens, width.shape[1])
        times = tuple(number * self._step for number in range(frames)) if times is None else times
        kept = Reduction.identity(VisualTokens(features, grid, {}, times))
        return _Full(self._family.prompt(question, kept, pts_seconds=times), grid.tokens_per_frame)

    def _read(self, full: _Full) -> None:
        """Find the text around frames: between two of them, and what of it stands behind the last one too."""
        tokens, ids = full.tokens, full.prompt.input_ids[0].tolist()
        columns = full.prompt.kept_columns.tolist()
        between = ids[columns[tokens - 1] + 1 : columns[tokens]]
        self._footer = _common(between, ids[columns[-1] + 1 :])

    def _header(self, full: _Full) -> int:
        tokens, columns = full.tokens, full.prompt.kept_columns
        return int(columns[tokens]) - int(columns[tokens - 1]) - 1 - self._footer

    def _read_head(self) -> int:
        """Tokens before the first frame, whose own text is that of the second one as far as both agree."""
        full = self._full(2, times=(0.0, 0.0))
        ids, column = full.prompt.input_ids[0].tolist(), int(full.prompt.kept_columns[0])
        header = self._header(full)
        second = int(full.prompt.kept_columns[self._grid.tokens])
        if not self._timed:  # frames may be counted: as long as that of the second one
            return column - header
        return column - _common(ids[:column][::-1], ids[second - header : second][::-1])

    def _span(self, full: _Full, start: int, end: int) -> tuple[int, ...]:
        places = full.places
        if self._footer or self._header(full):
            step = places[:, end] - places[:, start]
        else:
            step = places[:, start] - places[:, start - full.tokens]
        return tuple(step.tolist())

    def _ends(self, full: _Full) -> tuple[list[int], list[int], list[int]]:
        """(axes,) each: where the last frame of ``full`` ends, how far behind that its furthest token
        reaches, and where the text behind it begins."""
        columns = full.prompt.kept_columns
        start = int(columns[-full.tokens]) - self._header(full)
        end = int(columns[-1]) + 1 + self._footer
        span = self._span(full, start, end)
        begin = full.places[:, start]
        found = [at + wide for at, wide in zip(begin.tolist(), span, strict=True)]
        reach = (full.places[:, start:end].amax(1) + 1 - begin).tolist()
        behind = [far - wide for far, wide in zip(reach, span, strict=True)]
        return found, behind, full.places[:, end].tolist()

    def _tail_rule(self) -> list[tuple[int, int]] | None:
        """For each axis, the axis whose end the tail follows, and at which distance.

        None: it begins behind everything, on all axes alike. Small frames tell which, because there time
        soon goes beyond rows and columns.
        """
        probes = [self._ends(self._full(frames, side=(1, 1))) for frames in _PROBES]
        end, self._reach, tail = self._ends(self._full(2))
        if all(at == _furthest(last, behind) for last, behind, after in probes for at in after):
            return None
        rule = []
        for axis in range(len(tail)):
            steady = [
                other
                for other in range(len(tail))
                if len({after[axis] - last[other] for last, _, after in probes}) == 1
            ]
            if not steady:
                raise UnsupportedModelError(
                    f"{self._family.model_type} models put the text behind a video at positions that do not "
                    "follow from its last frame; they cannot watch a stream"
                )
            other = axis if axis in steady else steady[0]
            rule.append((other, tail[axis] - end[other]))
        return rule


class _Full:
    """A whole prompt with its placeholders and positions."""

    def __init__(self, prompt: Prompt, tokens: int) -> None:
        self.prompt = prompt
        # of each frame
        self.tokens = tokens
        # (axes, length)
        self.places = prompt.position_ids.reshape(-1, len(prompt)).long()
        ids = prompt.input_ids[0]
        self._visual = torch.zeros_like(ids, dtype=torch.bool)
        self._visual[prompt.kept_columns.to(ids.device)] = True
        mark = int(ids[int(prompt.kept_columns[0])])
        self._extra = (ids == mark) & ~self._visual
        self._placeholders = ids == mark

    def cut(self, start: int, end: int) -> Written:
        """Columns ``start`` to ``end``; their span is that of their positions."""
        places = self.places[:, start:end]
        begin = places[:, :1] if end > start else self.places[:, start : start + 1]
        offsets = places - begin
        after = self.places[:, end] if end < self.places.shape[1] else self.places[:, -1] + 1
        span = tuple((after - begin[:, 0]).tolist())
        rows = self._rows()[start:end] if bool(self._extra[start:end].any()) else None
        return Written(self.prompt.input_ids[0, start:end], offsets, span, self._visual[start:end], rows)

    def _rows(self) -> torch.Tensor:
        """(length, channels): every placeholder's row, zero for text."""
        rows = _flat(self.prompt.visual)
        found = rows.new_zeros(len(self.prompt), rows.shape[-1])
        found[self._placeholders] = rows
        return found


def _flat(visual: Any) -> torch.Tensor:
    """(rows, channels) of whatever a family packs its rows in."""
    if isinstance(visual, torch.Tensor):
        return visual.reshape(-1, visual.shape[-1])
    return torch.cat([_flat(part) for part in visual])


def _furthest(end: Sequence[int], reach: Sequence[int]) -> int:
    return max(at + behind for at, behind in zip(end, reach, strict=True))


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common beginning."""
    count = 0
    for first, second in zip(one, other, strict=False):
        if first != second:
            break
        count += 1
    return count
