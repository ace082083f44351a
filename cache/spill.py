"""Slots of equal size in a memory-mapped file that has no name, so that it is gone with its process."""

from __future__ import annotations

import logging
import mmap
import os
import tempfile
from pathlib import Path
from typing import IO

import torch

logger = logging.getLogger("streamprune.cache")

# the file grows by about so much, so that room on the disk is asked for before anything is written
_EXTENT_BYTES = 2**24


class SpillFile:
    """Bytes on disk, in slots.

    The file is removed from its folder as soon as it is opened: nothing is left when it is closed or the
    process is killed, and nothing that another process left is ever read. Where the disk is full, or the
    folder cannot be written to, there are no more slots, which is said once.

    Args:
        folder: made if it is not there.
        slot_bytes: of each slot, at least 1.
        max_bytes: of the file.
    """

    def __init__(self, folder: Path, slot_bytes: int, max_bytes: int) -> None:
        self.slot_bytes = slot_bytes
        grain = mmap.ALLOCATIONGRANULARITY
        extents = max(1, -(-max_bytes // max(_EXTENT_BYTES, slot_bytes + grain)))
        self._extent_bytes = max_bytes // extents // grain * grain
        self._per_extent = self._extent_bytes // slot_bytes
        self._most = extents * self._per_extent
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._maps: list[mmap.mmap] = []
        self._free: list[int] = []
        self._failed = False

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return len(self._maps) * self._extent_bytes

    @property
    def has_room(self) -> bool:
        """Whether there is a slot, as far as known without asking the disk."""
        return bool(self._free) or (not self._failed and self._slots < self._most)

    @property
    def _slots(self) -> int:
        return len(self._maps) * self._per_extent

    def put(self, buffer: torch.Tensor) -> int | None:
        """Write ``buffer`` (bytes,) uint8 into a slot; None when there is none for it."""
        if buffer.nbytes > self.slot_bytes or not (self._free or self._grow()):
            return None
        slot = self._free.pop()
        where, first = self._place(slot)
        where[first : first + buffer.nbytes] = buffer.cpu().numpy().tobytes()
        return slot

    def get(self, slot: int, nbytes: int, device: torch.device) -> torch.Tensor:
        """(nbytes,) uint8, a copy."""
        where, first = self._place(slot)
        return torch.frombuffer(bytearray(where[first : first + nbytes]), dtype=torch.uint8).to(device)

    def give(self, slot: int) -> None:
        """Use ``slot`` for something else from now on."""
        self._free.append(slot)

    def close(self) -> None:
        """Let go of the file; may be called twice."""
        for extent in self._maps:
            extent.close()
        self._maps, self._free, self._failed = [], [], True
        if self._file is not None:
            self._file.close()
            self._file = None

    def _place(self, slot: int) -> tuple[mmap.mmap, int]:
        extent, place = divmod(slot, self._per_extent)
        return self._maps[extent], place * self.slot_bytes

    def _grow(self) -> bool:
        """Make more slots; whether there are any now."""
        if self._failed or self._slots >= self._most:
            return False
        size = self.nbytes
        try:
            if self._file is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=self._folder, prefix="streamprune-")  # noqa: SIM115
            _reserve(self._file, size, self._extent_bytes)
            extent = mmap.mmap(self._file.fileno(), self._extent_bytes, offset=size)
        except (OSError, ValueError) as error:
            self._failed = True
            logger.warning(
                "no more than %d bytes go to %s (%s); older frames are merged in memory instead",
                size,
                self._folder,
                getattr(error, "strerror", None) or error,
            )
            return False
        first = self._slots
        self._maps.append(extent)
        # the lowest slot is taken first
        self._free += range(first + self._per_extent - 1, first - 1, -1)
        return True


def _reserve(file: IO[bytes], first: int, count: int) -> None:
    """Have the disk hold ``count`` bytes from ``first`` on: writing to a hole of a full disk is fatal."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), first, count)
        return
    file.seek(first)
    file.write(bytes(count))
    file.flush()
