"""The tiers of one stream: what is held of it, how it moves on, and what a question brings back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from streamprune.cache.archive import Archive
from streamprune.cache.block import Block, FeatureBlock
from streamprune.cache.choice_of_frames import chosen_rows
from streamprune.cache.context import BlockContext, Context
from streamprune.cache.memory import Heard, Room, StreamMemory, TierReport
from streamprune.cache.moment import Moment, NewsDesk
from streamprune.cache.moment_queue import MomentQueue
from streamprune.cache.page_index import PageIndex
from streamprune.cache.saved_blocks import parts_of, rebuilt
from streamprune.cache.spill import SpillFile
from streamprune.cache.tiered_plan import Plan
from streamprune.errors import InvalidTypeError, InvalidValueError

if TYPE_CHECKING:
    from streamprune.cache.tiered import Tiered


class TieredMemory(StreamMemory):
    """What a :class:`~streamprune.cache.tiered.Tiered` remembers of one stream.

    Args:
        method: its options.
        room: in which it works.
        plan: how its bytes are shared out; None: as the options say.
    """

    def __init__(self, method: Tiered, room: Room, plan: Plan | None = None) -> None:
        self.method, self.room = method, room
        self.plan = plan = Plan.of(method, room) if plan is None else plan
        ledger = room.ledger
        self._head: Block | None = None
        self._news = NewsDesk(
            room.shape,
            plan.index_layers,
            room.tokens_per_frame,
            method.redundancy_weight,
            method.value_weight,
        )
        ledger.hold("mid", self._news.keys)
        self.index = PageIndex(room.shape, plan.index_layers, method.representatives, plan.rows)
        for tensor in self.index.tensors:
            ledger.hold("index", tensor)
        self.recent = MomentQueue("recent", plan.recent_bytes, ledger)
        self.mid = MomentQueue("mid", plan.mid_bytes, ledger)
        spill = None
        if room.spill_folder is not None and room.spill_bytes >= plan.page_bytes:
            spill = SpillFile(room.spill_folder, plan.page_bytes, room.spill_bytes)
        self.archive = Archive(
            plan.page_format, method.levels, plan.page_frames, plan.archive_bytes, ledger, spill
        )
        self._closed = False
        # from the beginning of a frame to a question, where the index compares them
        self._distance = 0

    def sinks(self, head: Block) -> None:
        """As the base class says."""
        self.room.ledger.take("sinks", head.nbytes)
        self._head = head

    def write(self, block: Block | FeatureBlock, heard: Heard) -> None:
        """Hold ``block`` as the newest frame; one without visual tokens only lengthens the last."""
        if not isinstance(block, Block):
            raise InvalidTypeError(f"block must be a Block, got {type(block).__name__}")
        choice = self._news.choose(block, self.plan.moment_tokens, self.method.representatives)
        if choice is None:
            self.recent.lengthen(block.stop_seconds)
            return
        while not self.index.room and self._hand_on():
            pass
        if not self.index.room:
            return
        keys = self._findable(block, choice.representatives)
        row = self.index.add(keys, block.number, block.start_seconds)
        moment = Moment(block, row, choice.utility, choice.few)
        while len(self.recent) and not self.recent.fits(moment.nbytes):
            self._reduce(self.recent.pop())
        if self.recent.fits(moment.nbytes):
            self.recent.push(moment)
        else:
            self._reduce(moment)

    def _findable(self, block: Block, some: torch.Tensor) -> torch.Tensor:
        """Keys of a frame as the index holds them."""
        keys = block.keys.index_select(2, some)
        if self.method.reading != "attention":
            return keys
        # one frame further on than right behind it
        self._distance = int(block.offsets.max()) + 1 + max(block.span)
        return self.room.rotation.turned(keys, block.offsets[:, None, None].index_select(3, some))

    def _asked(self, queries: torch.Tensor) -> torch.Tensor:
        """Queries as the index compares them."""
        if self.method.reading != "attention":
            return queries
        places = self._distance + torch.arange(queries.shape[2], device=queries.device)
        return self.room.rotation.turned(queries, places.expand(self.room.shape.axes, 1, 1, -1))

    def _hand_on(self) -> bool:
        """Free a row of the index, or bring that nearer; False when nothing is held."""
        if len(self.archive):
            self._forget(self.archive.shrink())
        elif len(self.mid):
            self._archive()
        elif len(self.recent):
            self._reduce(self.recent.pop())
        else:
            return False
        return True

    def _reduce(self, moment: Moment) -> None:
        """Hold a frame that was held whole as its few tokens."""
        few = replace(moment, block=moment.reduced(), few=None)
        while len(self.mid) and not self.mid.fits(few.nbytes):
            self._archive()
        if self.mid.fits(few.nbytes):
            self.mid.push(few)
        else:
            self._page([few])

    def _archive(self) -> None:
        """Make a page of the oldest reduced frames, up to the next event."""
        plan, moments = self.plan, [self.mid.pop()]
        tokens = moments[0].block.tokens
        while len(self.mid) and len(moments) < plan.page_frames:
            before, following = moments[-1].block, self.mid.oldest.block
            tokens += following.tokens
            large = plan.page_format.nbytes(tokens, len(moments) + 1) > plan.page_bytes
            if large or before.novelty < self.method.event_novelty <= following.novelty:
                break
            moments.append(self.mid.pop())
        self._page(moments)

    def _page(self, moments: list[Moment]) -> None:
        start, stop = moments[0].block.start_seconds, moments[-1].block.stop_seconds
        self._forget(self.archive.add(moments, start, stop))

    def _forget(self, rows: list[int]) -> None:
        for row in rows:
            self.index.drop(row)

    def context(self) -> Context:
        """The newest frames."""
        return self._context([moment.block for moment in self._newest(self.method.local_frames)])

    def recall(self, queries: torch.Tensor | None) -> Context:
        """Everything while it fits; then the newest frames and those that the question finds."""
        left = self.plan.context_tokens
        if not len(self.mid) and not len(self.archive) and self.recent.tokens <= left:
            return self._context([moment.block for moment in self.recent])
        newest = self._newest(self.method.newest_frames)
        left -= sum(moment.block.tokens for moment in newest)
        held = {moment.row: moment for moment in (*self.recent, *self.mid)}
        for moment in newest:
            del held[moment.row]
        brought: list[Block] = []
        if queries is not None:
            found = self.index.search(self._asked(queries), self.method.reading, self.method.detrend)
            rows = chosen_rows(
                found,
                self.plan.brought,
                without={moment.row for moment in newest},
                recency=self.method.recency,
                suppress_frames=self.method.suppress_frames,
                expand=self.method.expand,
            )
            brought = self._brought(rows, held, left)
        blocks = [*brought, *(moment.block for moment in newest)]
        return self._context(sorted(blocks, key=lambda block: block.number))

    def _brought(self, rows: list[int], held: Mapping[int, Moment], left: int) -> list[Block]:
        """The frames of ``rows``, the best first, as far as ``left`` tokens go."""
        archived = [row for row in rows if row not in held]
        pages = {moment.row: moment.block for moment in self.archive.read(archived)}
        found = []
        for row in rows:
            block = pages[row] if row in pages else held[row].reduced()
            if block.tokens > left:
                break
            left -= block.tokens
            found.append(block)
        return found

    def _newest(self, count: int) -> list[Moment]:
        """At most ``count`` of the newest frames, as many as a context holds."""
        left, found = self.plan.context_tokens, list[Moment]()
        for moment in reversed(self.recent):
            left -= moment.block.tokens
            if left < 0 or len(found) == count:
                break
            found.append(moment)
        return found[::-1]

    def _context(self, blocks: list[Block]) -> BlockContext:
        if self._head is None:
            raise InvalidValueError("head: there is none yet; call sinks(head) first")
        return BlockContext([self._head, *blocks], self.method.gap, self.room.rotation)

    def tiers(self) -> Mapping[str, TierReport]:
        """Each of them; pages on disk count as tokens of the archive, not as its bytes."""
        head, pages = self._head, list(self.archive.pages)
        in_use = self.plan.rows - self.index.room
        news = self._news.nbytes
        middle = self.mid.report()
        return {
            "sinks": TierReport(0, 0, 0) if head is None else TierReport(head.nbytes, head.tokens, 1),
            "recent": self.recent.report(),
            "mid": replace(middle, bytes=middle.bytes + news),
            "archive": TierReport(
                self.archive.nbytes,
                sum(page.tokens for page in pages),
                len(pages),
                pages[0].start_seconds if pages else None,
                pages[-1].stop_seconds if pages else None,
            ),
            "index": TierReport(
                sum(tensor.untyped_storage().nbytes() for tensor in self.index.tensors),
                in_use * self.method.representatives,
                in_use,
            ),
        }

    def tensors(self) -> Iterator[torch.Tensor]:
        """Those of all tiers."""
        if self._head is not None:
            yield from self._head.tensors
        yield from self.recent.tensors
        yield from self.mid.tensors
        yield from self.archive.tensors
        if not self._closed:
            yield self._news.keys
            yield from self.index.tensors

    def remembers_from(self) -> float | None:
        """Where the oldest page begins, or the oldest frame."""
        page = next(self.archive.pages, None)
        if page is not None:
            return page.start_seconds
        return next((tier.oldest.block.start_seconds for tier in (self.mid, self.recent) if len(tier)), None)

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Everything, pages on disk too."""
        tensors, about = self.archive.state()
        tensors["news"] = self._news.keys
        for part, told in (self.index.state(), self.recent.state(), self.mid.state()):
            tensors |= part
            about |= told
        about["distance"] = self._distance
        if self._head is not None:
            parts, about["head"] = parts_of(self._head)
            tensors |= {f"head.{name}": tensor for name, tensor in parts.items()}
        return tensors, about

    def restore(self, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
        """As the base class says; options and room must be those of the memory that was saved."""
        if tensors["index.keys"].shape != self.index.keys.shape:
            raise InvalidValueError(
                "memory_bytes, or options of this memory, are not those that it was saved with: its index "
                f"has {self.plan.rows} rows, and {tensors['index.keys'].shape[2]} were saved; give the same"
            )
        self._let_go()
        device = self.room.shape.device
        if "head" in about:
            parts = {name[5:]: tensor for name, tensor in tensors.items() if name.startswith("head.")}
            self.sinks(rebuilt(Block, parts, about["head"], device))
        self._news.keys.copy_(tensors["news"])
        self._distance = int(about["distance"])
        self.index.restore(tensors, about)
        self.recent.restore(tensors, about, device)
        self.mid.restore(tensors, about, device)
        self.archive.restore(tensors, about)

    def close(self) -> None:
        """Give every byte back, and remove the file; may be called twice."""
        if self._closed:
            return
        self._closed = True
        self._let_go()
        self.archive.close()
        self.room.ledger.drop("mid", self._news.keys)
        for tensor in self.index.tensors:
            self.room.ledger.drop("index", tensor)

    def _let_go(self) -> None:
        """Hold no frames and no head."""
        for tier in (self.recent, self.mid):
            while len(tier):
                tier.pop()
        self.archive.clear()
        if self._head is not None:
            self.room.ledger.give("sinks", self._head.nbytes)
            self._head = None
