"""The state of Flash-VStream's two memories."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from streamprune.cache.block import Block, FeatureBlock
from streamprune.cache.feature_memory import FeatureMemory, frames_state, newest_within, restored_frames
from streamprune.cache.frame_groups import FrameGroups
from streamprune.cache.memory import Heard, Room
from streamprune.cache.pooled_frame import PooledGrid, narrow, wide


class GroupedMemory(FeatureMemory):
    """What both have: groups of half-sized frames.

    Args:
        room: in which it works.
        groups: most of them.
        details: frames in full that are read beside them.
        iterations: of each search for groups.
    """

    def __init__(self, room: Room, groups: int, details: int, iterations: int) -> None:
        super().__init__(room)
        self.grid = PooledGrid.of(room)
        self.limit, self.details, self.iterations = groups, details, iterations
        self.groups: FrameGroups | None = None
        self.since: float | None = None
        # frames in full, and the newest for its types
        self.frames: list[FeatureBlock] = []

    def blocks(self) -> Iterator[FeatureBlock]:
        """The frames in full."""
        yield from self.frames

    def own_tensors(self) -> list[torch.Tensor]:
        """What is held beside frames."""
        return [] if self.groups is None else [self.groups.buffer]

    def tensors(self) -> Iterator[torch.Tensor]:
        """Frames and means."""
        yield from super().tensors()
        yield from self.own_tensors()

    def remembers_from(self) -> float | None:
        """The first frame: it has its part in a mean."""
        return self.since

    def write(self, block: Block | FeatureBlock, heard: Heard) -> None:
        """Join the frame to its group; one without tokens changes nothing."""
        frame = self.read(block)
        if not frame.tokens:
            return
        if self.groups is None:
            self.since = frame.start_seconds
            self.start(wide(frame).shape[1], frame.features.shape[1], frame.features.device)
        assert self.groups is not None
        small = self.grid.pooled(frame)
        self.remember(frame, small)
        seconds = (frame.start_seconds + frame.stop_seconds) / 2
        self.regrouped(frame, self.groups.add(small, frame.number, seconds))

    def start(self, width: int, channels: int, device: torch.device) -> None:
        """Make what is held beside frames."""
        groups = FrameGroups(self.limit, (self.grid.tokens, width), channels, self.iterations, device)
        self.take(groups.buffer.untyped_storage().nbytes())
        self.groups = groups

    @abstractmethod
    def remember(self, frame: FeatureBlock, small: torch.Tensor) -> None:
        """Hold ``frame``, and what is made of it, before it joins a group."""

    @abstractmethod
    def regrouped(self, frame: FeatureBlock, parts: list[list[int]]) -> None:
        """Each group is made of these groups before; the last number is ``frame``."""

    def means(self, like: FeatureBlock) -> list[FeatureBlock]:
        """A half-sized frame of every group."""
        groups = self.groups
        if groups is None:
            return []
        cells = self.grid.cells(like.features.device)
        told = zip(groups.means, groups.numbers, groups.seconds, strict=True)
        return [narrow(mean, like, cells, round(number), seconds) for mean, number, seconds in told]

    def forget(self) -> None:
        """Hold nothing any more."""
        self.frames, self.groups, self.since = [], None, None

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Frames and groups."""
        tensors, about = self.head_state()
        more, told = frames_state(self.frames)
        about |= {"frames": told, "since": self.since}
        if self.groups is not None:
            more["means"] = self.groups.means.clone()
            about |= {"groups": self.groups.about(), "channels": self.groups.channels}
        return tensors | more, about

    def restore(self, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
        """As the base class says."""
        self.restore_head(tensors, about)
        self.since = about["since"]
        if "means" in tensors:
            means = tensors["means"]
            self.start(means.shape[2], int(about["channels"]), means.device)
            assert self.groups is not None
            self.groups.restore(means, about["groups"])
        self.frames = restored_frames(tensors, about["frames"], self.room.shape.device)
        self.take(sum(frame.nbytes for frame in self.frames))


class StarMemory(GroupedMemory):
    """Abstract tokens, groups, frames near the heaviest of them, the newest frame.

    Args:
        room, groups, details, iterations: as of the base class.
        buffer_frames: newest frames held in full.
        abstract_tokens: of them.
        abstract_share: how much of each a new frame replaces.
    """

    def __init__(
        self,
        room: Room,
        groups: int,
        details: int,
        iterations: int,
        buffer_frames: int,
        abstract_tokens: int,
        abstract_share: float,
    ) -> None:
        super().__init__(room, groups, details, iterations)
        self.buffer_frames, self.abstract_tokens = buffer_frames, abstract_tokens
        self.abstract_share = abstract_share
        self.slots: torch.Tensor | None = None
        self.filled = 0

    def own_tensors(self) -> list[torch.Tensor]:
        """Means and abstract tokens."""
        return super().own_tensors() + ([] if self.slots is None else [self.slots])

    def start(self, width: int, channels: int, device: torch.device) -> None:
        """Make means and abstract tokens."""
        super().start(width, channels, device)
        self.take(4 * self.abstract_tokens * width)
        self.slots = torch.zeros(self.abstract_tokens, width, device=device)

    def remember(self, frame: FeatureBlock, small: torch.Tensor) -> None:
        """Move the abstract tokens, and put the frame into the buffer."""
        assert self.slots is not None
        if self.filled < self.abstract_tokens:
            self.slots[self.filled] = small.mean(0)
            self.filled += 1
        else:
            # softmax over the one new token is 1, so that every slot moves alike
            self.slots.lerp_(small.mean(0), self.abstract_share)
        while self.frames and (not self.fits(frame.nbytes) or len(self.frames) >= self.buffer_frames):
            self.give(self.frames.pop(0).nbytes)
        if self.fits(frame.nbytes):
            self.take(frame.nbytes)
            self.frames.append(frame)

    def regrouped(self, frame: FeatureBlock, parts: list[list[int]]) -> None:
        """Frames of the buffer belong to no group."""

    def recall(self, queries: torch.Tensor | None) -> Sequence[FeatureBlock]:
        """Abstract tokens, means, retrieved frames, the newest."""
        if not self.frames:
            return []
        newest = self.frames[-1]
        found = [*self._abstract(newest), *self.means(newest), *self._retrieved(), newest]
        return newest_within(found, self.room)

    def _abstract(self, like: FeatureBlock) -> list[FeatureBlock]:
        """The abstract tokens, in as many frames as they fill."""
        assert self.slots is not None
        found = []
        for part in torch.split(self.slots[: self.filled], self.room.tokens_per_frame):
            cells = torch.arange(len(part), dtype=torch.int32, device=part.device)
            found.append(narrow(part, like, cells, 0, self.since or 0.0))
        return found

    def _retrieved(self) -> list[FeatureBlock]:
        """For each of the heaviest groups the nearest frame that is not taken yet, in the order of time."""
        assert self.groups is not None
        older, channels = self.frames[:-1], self.groups.channels
        if not older or not self.details:
            return []
        small = torch.stack([self.grid.pooled(frame)[:, :channels] for frame in older]).flatten(1)
        means = self.groups.means[..., :channels].flatten(1)
        distances = torch.cdist(means[self.groups.heaviest(self.details)], small)
        taken: list[int] = []
        for row in distances:
            if len(taken) < len(older):
                row[taken] = float("inf")
                taken.append(int(row.argmin()))
        return [older[place] for place in sorted(taken)]

    def forget(self) -> None:
        """Hold nothing any more."""
        super().forget()
        self.slots, self.filled = None, 0

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Abstract tokens, too."""
        tensors, about = super().state()
        if self.slots is not None:
            tensors["slots"] = self.slots.clone()
        return tensors, about | {"filled": self.filled}

    def restore(self, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
        """As the base class says."""
        super().restore(tensors, about)
        if self.slots is not None:
            self.slots.copy_(tensors["slots"])
        self.filled = int(about["filled"])


class FlashMemory(GroupedMemory):
    """Groups, and for each the frame nearest to its mean."""

    def remember(self, frame: FeatureBlock, small: torch.Tensor) -> None:
        """Hold the frame in full until it is known whose it is."""
        self.take(frame.nbytes)

    def regrouped(self, frame: FeatureBlock, parts: list[list[int]]) -> None:
        """Of the frames of groups that became one, the nearest to the mean stays."""
        assert self.groups is not None
        candidates, stay = [*self.frames, frame], []
        for mean, part in zip(self.groups.means, parts, strict=True):
            best = (
                part[0]
                if len(part) == 1
                else self._nearest(mean, [candidates[place] for place in part], part)
            )
            stay.append(best)
        for place in set(range(len(candidates))).difference(stay):
            self.give(candidates[place].nbytes)
        self.frames = [candidates[place] for place in stay]

    def _nearest(self, mean: torch.Tensor, frames: list[FeatureBlock], places: list[int]) -> int:
        assert self.groups is not None
        channels = self.groups.channels
        far = [float((self.grid.pooled(one) - mean)[:, :channels].norm()) for one in frames]
        return places[far.index(min(far))]

    def recall(self, queries: torch.Tensor | None) -> Sequence[FeatureBlock]:
        """The frames of the heaviest groups, then the means of all."""
        if self.groups is None:
            return []
        chosen = sorted(self.groups.heaviest(self.details))
        found = [*(self.frames[place] for place in chosen), *self.means(self.frames[0])]
        return newest_within(found, self.room)
