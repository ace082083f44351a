"""Frames one after the other, within a share of the bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from streamprune.cache.block import Block
from streamprune.cache.ledger import Ledger, Tier
from streamprune.cache.memory import TierReport
from streamprune.cache.moment import Moment
from streamprune.cache.saved_blocks import parts_of, rebuilt


class MomentQueue:
    """The frames of a tier, oldest first.

    Args:
        tier: by whose name the ledger counts them.
        memory_bytes: of them all.
        ledger: asked first.
    """

    def __init__(self, tier: Tier, memory_bytes: int, ledger: Ledger) -> None:
        self.tier, self.memory_bytes = tier, memory_bytes
        self.nbytes = self.tokens = 0
        self._ledger = ledger
        self._moments: deque[Moment] = deque()

    def __len__(self) -> int:
        return len(self._moments)

    def __iter__(self) -> Iterator[Moment]:
        return iter(self._moments)

    def __reversed__(self) -> Iterator[Moment]:
        return reversed(self._moments)

    @property
    def oldest(self) -> Moment:
        """The first."""
        return self._moments[0]

    @property
    def tensors(self) -> Iterator[torch.Tensor]:
        """Everything that is held."""
        for moment in self._moments:
            yield from moment.tensors

    def fits(self, nbytes: int) -> bool:
        """Whether so many bytes more could be held."""
        return self.nbytes + nbytes <= self.memory_bytes and nbytes <= self._ledger.room

    def push(self, moment: Moment) -> None:
        """Hold the newest frame."""
        self._ledger.take(self.tier, moment.nbytes)
        self.nbytes += moment.nbytes
        self.tokens += moment.block.tokens
        self._moments.append(moment)

    def pop(self) -> Moment:
        """The oldest frame, which is held no more."""
        moment = self._moments.popleft()
        self._ledger.give(self.tier, moment.nbytes)
        self.nbytes -= moment.nbytes
        self.tokens -= moment.block.tokens
        return moment

    def lengthen(self, stop_seconds: float) -> None:
        """Let the newest frame, if any, stand for the time up to ``stop_seconds``."""
        if self._moments:
            last = self._moments[-1]
            self._moments[-1] = replace(last, block=replace(last.block, stop_seconds=stop_seconds))

    def report(self) -> TierReport:
        """What it holds."""
        first, last = (self._moments[0], self._moments[-1]) if self._moments else (None, None)
        return TierReport(
            self.nbytes,
            self.tokens,
            len(self),
            None if first is None else first.block.start_seconds,
            None if last is None else last.block.stop_seconds,
        )

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The frames, each tensor named by the tier and the place of its frame."""
        tensors: dict[str, torch.Tensor] = {}
        told = []
        for place, moment in enumerate(self._moments):
            parts, about = parts_of(moment.block)
            if moment.few is not None:
                parts["few"] = moment.few
            tensors |= {f"{self.tier}.{place}.{name}": tensor for name, tensor in parts.items()}
            told.append({"row": moment.row, "utility": moment.utility, "block": about})
        return tensors, {self.tier: told}

    def restore(
        self, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any], device: torch.device
    ) -> None:
        """Hold the frames of :meth:`state` behind those that are held."""
        parts: list[dict[str, torch.Tensor]] = [{} for _ in about[self.tier]]
        for name, tensor in tensors.items():
            if name.startswith(f"{self.tier}."):
                _, place, part = name.split(".")
                parts[int(place)][part] = tensor
        for own, told in zip(parts, about[self.tier], strict=True):
            few = own.pop("few", None)
            block = rebuilt(Block, own, told["block"], device)
            few = None if few is None else few.to(device, copy=True)
            self.push(Moment(block, told["row"], told["utility"], few))
