"""Pages on levels: when bytes run out, the two oldest pages of a level become one of the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from streamprune.cache.ledger import Ledger
from streamprune.cache.moment import Moment
from streamprune.cache.page import Page, PageFormat, read_page
from streamprune.cache.spill import SpillFile


class Archive:
    """Frames that are too old for anything else, oldest pages on the highest level.

    As long as there is room, nothing is merged. When there is none, the level that takes most bytes gives
    way: its two oldest pages become one page of the next level, with the frames that had most new to say, or
    of the same level when one page holds all their frames; the last level drops its oldest page. So levels
    share the room evenly, and the time of every page but the dropped ones stays covered by exactly one page.

    Args:
        page_format: of its pages.
        levels: at least 1.
        page_frames: most frames of a page.
        memory_bytes: of pages in memory.
        ledger: asked for them.
        spill: takes the oldest pages in memory when these bytes are full.
    """

    def __init__(
        self,
        page_format: PageFormat,
        levels: int,
        page_frames: int,
        memory_bytes: int,
        ledger: Ledger,
        spill: SpillFile | None = None,
    ) -> None:
        self.format, self.page_frames, self.memory_bytes = page_format, page_frames, memory_bytes
        self.levels: list[deque[Page]] = [deque() for _ in range(levels)]
        self.nbytes = 0
        self._ledger, self._spill = ledger, spill
        self._places: dict[int, tuple[Page, int]] = {}

    def __len__(self) -> int:
        """Pages."""
        return sum(len(level) for level in self.levels)

    @property
    def pages(self) -> Iterator[Page]:
        """Oldest first."""
        for level in reversed(self.levels):
            yield from level

    @property
    def tensors(self) -> Iterator[torch.Tensor]:
        """Bytes of the pages in memory."""
        for page in self.pages:
            if page.buffer is not None:
                yield page.buffer

    def holds(self, row: int) -> bool:
        """Whether the frame with this row of the index is in a page."""
        return row in self._places

    def add(self, moments: Sequence[Moment], start_seconds: float, stop_seconds: float) -> list[int]:
        """Hold ``moments`` as the newest page.

        Returns:
            Rows of frames that are held no more, new ones among them where no page fits at all.
        """
        page = self._made(moments, start_seconds, stop_seconds)
        dropped: list[int] = []
        while not self._fits(page.nbytes):
            if not len(self):
                return [*dropped, *page.rows]
            dropped += self.shrink()
        self._hold(page, 0)
        return dropped

    def shrink(self) -> list[int]:
        """Have one page less; rows of the frames that are held no more."""
        sizes = [sum(page.nbytes for page in level) for level in self.levels]
        for number in sorted(range(len(sizes)), key=lambda level: (-sizes[level], level)):
            level = self.levels[number]
            last = number == len(self.levels) - 1
            if level and last:
                return self._drop(number)
            if len(level) > 1:
                return self._merge(number, level.popleft(), level.popleft())
        oldest, *others = (number for number in reversed(range(len(self.levels))) if self.levels[number])
        if not others:
            return self._drop(oldest)
        # no level has two: those of two levels are neighbours all the same
        return self._merge(oldest, self.levels[oldest].popleft(), self.levels[others[0]].popleft())

    def read(self, rows: Sequence[int]) -> list[Moment]:
        """The frames with these rows of the index."""
        wanted: dict[int, list[int]] = {}
        for row in rows:
            page, place = self._places[row]
            wanted.setdefault(page.rows[0], []).append(place)
        found = []
        for first, places in wanted.items():
            page = self._places[first][0]
            found += read_page(self.format, page, self._bytes_of(page), places)
        return found

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Bytes of every page, those on disk too."""
        tensors: dict[str, torch.Tensor] = {}
        told: list[list[Any]] = []
        for number, level in enumerate(self.levels):
            for page in level:
                tensors[f"page.{len(told)}"] = self._bytes_of(page)
                fields = [page.tokens, list(page.rows), page.start_seconds, page.stop_seconds]
                told.append([number, *fields])
        return tensors, {"pages": told}

    def restore(self, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
        """Hold the pages of :meth:`state` in place of all others."""
        self.clear()
        told = [(place, *page) for place, page in enumerate(about["pages"])]
        # the oldest go to disk first, as they did
        for place, number, tokens, rows, start, stop in sorted(told, key=lambda page: page[4]):
            buffer = tensors[f"page.{place}"].to(self.format.shape.device, copy=True)
            page = Page(tokens, tuple(rows), start, stop, buffer.nbytes, buffer)
            if self._fits(page.nbytes):
                self._hold(page, number)

    def clear(self) -> None:
        """Hold nothing."""
        for level in self.levels:
            while level:
                self._release(level.popleft())

    def close(self) -> None:
        """Hold nothing, on disk neither."""
        self.clear()
        if self._spill is not None:
            self._spill.close()

    def _made(self, moments: Sequence[Moment], start: float, stop: float) -> Page:
        buffer = self.format.pack(moments)
        tokens = sum(moment.block.tokens for moment in moments)
        return Page(tokens, tuple(moment.row for moment in moments), start, stop, buffer.nbytes, buffer)

    def _fits(self, nbytes: int) -> bool:
        """Whether a page of ``nbytes`` fits, after older ones have gone to disk where they can."""
        while self.nbytes + nbytes > self.memory_bytes or nbytes > self._ledger.room:
            if not self._spill_oldest():
                return False
        return True

    def _spill_oldest(self) -> bool:
        if self._spill is None or not self._spill.has_room:
            return False
        for level in reversed(self.levels):
            for place, page in enumerate(level):
                if page.buffer is not None and page.nbytes <= self._spill.slot_bytes:
                    slot = self._spill.put(page.buffer)
                    if slot is None:
                        return False
                    self._count(-page.nbytes)
                    level[place] = moved = replace(page, buffer=None, slot=slot)
                    self._note(moved)
                    return True
        return False

    def _merge(self, number: int, *pair: Page) -> list[int]:
        """Hold one page in place of two neighbours, the older of which was on the level ``number``."""
        moments = [moment for page in pair for moment in read_page(self.format, page, self._bytes_of(page))]
        order = sorted(range(len(moments)), key=lambda place: (-moments[place].utility, place))
        kept = [moments[place] for place in sorted(order[: self.page_frames])]
        page = self._made(kept, pair[0].start_seconds, pair[1].stop_seconds)
        for old in pair:
            self._release(old)
        if self._fits(page.nbytes):
            whole = len(kept) == len(moments)
            self._hold(page, number if whole else number + 1, oldest=whole)
        rows = {row for old in pair for row in old.rows}
        return sorted(row for row in rows if row not in self._places)

    def _drop(self, number: int) -> list[int]:
        page = self.levels[number].popleft()
        self._release(page)
        return list(page.rows)

    def _hold(self, page: Page, number: int, *, oldest: bool = False) -> None:
        self._count(page.nbytes)
        if oldest:
            self.levels[number].appendleft(page)
        else:
            self.levels[number].append(page)
        self._note(page)

    def _note(self, page: Page) -> None:
        self._places |= {row: (page, place) for place, row in enumerate(page.rows)}

    def _release(self, page: Page) -> None:
        for row in page.rows:
            del self._places[row]
        if page.buffer is not None:
            self._count(-page.nbytes)
        elif self._spill is not None and page.slot is not None:
            self._spill.give(page.slot)

    def _count(self, nbytes: int) -> None:
        if nbytes >= 0:
            self._ledger.take("archive", nbytes)
        else:
            self._ledger.give("archive", -nbytes)
        self.nbytes += nbytes

    def _bytes_of(self, page: Page) -> torch.Tensor:
        if page.buffer is not None:
            return page.buffer
        assert self._spill is not None  # it has gone there
        assert page.slot is not None
        return self._spill.get(page.slot, page.nbytes, self.format.shape.device)
