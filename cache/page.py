"""Frames of an archive: several in one page of small integers, all of it in a single run of bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import torch

from streamprune.cache.block import Block, CacheShape
from streamprune.cache.moment import Moment
from streamprune.checks import check_count
from streamprune.errors import InvalidValueError, UnknownNameError
from streamprune.kv.kivi import codes_of, scale_and_zero, values_of
from streamprune.ops.bits import pack_bits, unpack_bits

ValueScales = Literal["token", "channel"]
Sizes = tuple[int, ...]


@dataclass(frozen=True)
class PageFormat:
    """How frames become bytes.

    Keys have a scale for each channel over the page, values one for each token or for each channel. Scales
    and zeros take two bytes each. Nothing but the integers is rounded.

    Args:
        shape: of the model.
        bits: of each number, 2, 4 or 8.
        values: what has a scale of its own.

    Source: keys by channel and values by token as in arXiv 2402.02750; by channel for both as in arXiv
    2510.18269. Here keys are not rotated, so that channels that are large in every token stay apart.
    """

    shape: CacheShape
    bits: int = 4
    values: ValueScales = "token"

    def __post_init__(self) -> None:
        check_count("bits", self.bits)
        if self.bits not in (2, 4, 8):
            raise InvalidValueError(f"bits must be 2, 4 or 8, got {self.bits}")
        if self.values not in get_args(ValueScales):
            raise UnknownNameError.among("values", self.values, get_args(ValueScales))

    @property
    def scale_dtype(self) -> torch.dtype:
        """The model's own, where it takes two bytes."""
        return self.shape.dtype if self.shape.dtype.itemsize == 2 else torch.float16

    def parts(self, tokens: int, frames: int) -> list[tuple[str, torch.dtype, Sizes]]:
        """Name, type and size of everything in a page, wide numbers first so that all are aligned."""
        shape, half = self.shape, self.scale_dtype
        heads, dim, axes = (shape.layers, shape.kv_heads), shape.head_dim, shape.axes
        of_values = tokens if self.values == "token" else dim
        packed = (*heads, tokens, self._bytes(dim)), (*heads, dim, self._bytes(tokens))
        return [
            ("seconds", torch.float64, (frames, 2)),
            ("numbers", torch.int64, (frames,)),
            ("begins", torch.int64, (frames, axes)),
            ("spans", torch.int32, (frames, axes)),
            ("counts", torch.int32, (frames,)),
            ("novelty", torch.float32, (frames,)),
            ("utility", torch.float32, (frames,)),
            ("offsets", torch.int32, (axes, tokens)),
            ("cells", torch.int32, (tokens,)),
            ("key_scale", half, (*heads, dim)),
            ("key_zero", half, (*heads, dim)),
            ("value_scale", half, (*heads, of_values)),
            ("value_zero", half, (*heads, of_values)),
            ("key_codes", torch.uint8, packed[1]),
            ("value_codes", torch.uint8, packed[0] if self.values == "token" else packed[1]),
        ]

    def nbytes(self, tokens: int, frames: int) -> int:
        """Of a page with so many tokens of so many frames."""
        return sum(math.prod(size) * dtype.itemsize for _, dtype, size in self.parts(tokens, frames))

    def views(self, buffer: torch.Tensor, tokens: int, frames: int) -> dict[str, torch.Tensor]:
        """The parts of a page's bytes, by name."""
        return {
            name: buffer[first:last].view(dtype).view(size)
            for name, dtype, size, first, last in _places(self, tokens, frames)
        }

    def pack(self, moments: Sequence[Moment]) -> torch.Tensor:
        """(bytes,) uint8 of ``moments`` in their order, each as it is."""
        blocks = [moment.block for moment in moments]
        counts = [block.tokens for block in blocks]
        tokens, frames, device = sum(counts), len(blocks), self.shape.device
        buffer = torch.empty(self.nbytes(tokens, frames), dtype=torch.uint8, device=device)
        told = {
            "seconds": [[block.start_seconds, block.stop_seconds] for block in blocks],
            "numbers": [block.number for block in blocks],
            "begins": [block.begin for block in blocks],
            "spans": [block.span for block in blocks],
            "counts": counts,
            "novelty": [block.novelty for block in blocks],
            "utility": [moment.utility for moment in moments],
        }
        parts = {name: torch.tensor(value, dtype=torch.float64) for name, value in told.items()}
        parts["numbers"] = torch.tensor(told["numbers"])
        parts["begins"] = torch.tensor(told["begins"])
        parts["offsets"] = torch.cat([block.offsets for block in blocks], 1)
        parts["cells"] = torch.cat([block.cells for block in blocks])
        keys = torch.cat([block.keys for block in blocks], 2)
        values = torch.cat([block.values for block in blocks], 2)
        parts |= self._shrunk("key", keys, "channel") | self._shrunk("value", values, self.values)
        for name, view in self.views(buffer, tokens, frames).items():
            view.copy_(parts[name])
        return buffer

    def _bytes(self, count: int) -> int:
        return -(-count * self.bits // 8)

    def _shrunk(self, name: str, x: torch.Tensor, by: ValueScales) -> dict[str, torch.Tensor]:
        """Codes (layers, kv_heads, .., bytes), scales and zeros of ``x`` (layers, kv_heads, tokens, dim)."""
        wide = x.float().transpose(-1, -2) if by == "channel" else x.float()
        reach = torch.finfo(self.scale_dtype).max
        least = wide.amin(-1).clamp(min=-reach).to(self.scale_dtype)
        largest = wide.amax(-1).clamp(max=reach).to(self.scale_dtype)
        scale, zero = scale_and_zero(least, largest, self.bits)
        codes = pack_bits(codes_of(wide, scale[..., None], zero[..., None], self.bits), self.bits)
        return {f"{name}_scale": scale, f"{name}_zero": zero, f"{name}_codes": codes}

    def grown(
        self, name: str, views: dict[str, torch.Tensor], by: ValueScales, first: int, last: int
    ) -> torch.Tensor:
        """Tokens [first, last) as (layers, kv_heads, some, head_dim) in the model's dtype."""
        codes, scale, zero = (views[f"{name}_{part}"] for part in ("codes", "scale", "zero"))
        if by == "token":
            some, count = slice(first, last), self.shape.head_dim
            codes = unpack_bits(codes[:, :, some], self.bits, count)
            scale, zero = scale[:, :, some], zero[:, :, some]
        else:
            # whole bytes around them
            each = 8 // self.bits
            start, stop = first // each, -(-last // each)
            codes = unpack_bits(codes[..., start:stop], self.bits, (stop - start) * each)
            codes = codes[..., first - start * each : last - start * each]
        grown = values_of(codes, scale.float()[..., None], zero.float()[..., None]).to(self.shape.dtype)
        return grown if by == "token" else grown.transpose(-1, -2)


@lru_cache(maxsize=256)
def _places(
    page_format: PageFormat, tokens: int, frames: int
) -> list[tuple[str, torch.dtype, Sizes, int, int]]:
    """The parts of a page with the first of their bytes, and that behind their last."""
    found, first = [], 0
    for name, dtype, size in page_format.parts(tokens, frames):
        last = first + math.prod(size) * dtype.itemsize
        found.append((name, dtype, size, first, last))
        first = last
    return found


@dataclass(frozen=True, eq=False)
class Page:
    """One page; its bytes are in memory, or in a slot of a file.

    Attributes:
        tokens: in it.
        rows: of the index, one for each frame.
        start_seconds, stop_seconds: the time it stands for, that of frames dropped from it included.
        nbytes: that it takes.
        buffer: (bytes,) uint8, or None while on disk.
        slot: of the file, or None.
    """

    tokens: int
    rows: tuple[int, ...]
    start_seconds: float
    stop_seconds: float
    nbytes: int
    buffer: torch.Tensor | None
    slot: int | None = None

    @property
    def frames(self) -> int:
        """In it."""
        return len(self.rows)


def read_page(
    page_format: PageFormat, page: Page, buffer: torch.Tensor, chosen: Sequence[int] | None = None
) -> list[Moment]:
    """The frames of a page, or those at the places ``chosen``, each in storage of its own.

    Args:
        buffer: the page's bytes.
    """
    views = page_format.views(buffer, page.tokens, page.frames)
    places = range(page.frames) if chosen is None else chosen
    ends = [0, *views["counts"].cumsum(0).tolist()]
    base, last = ends[min(places)], ends[max(places) + 1]
    keys = page_format.grown("key", views, "channel", base, last)
    values = page_format.grown("value", views, page_format.values, base, last)
    found = []
    for place in places:
        some = slice(ends[place], ends[place + 1])
        own = slice(some.start - base, some.stop - base)
        start, stop = views["seconds"][place].tolist()
        block = Block(
            int(views["numbers"][place]),
            start,
            stop,
            keys[:, :, own].clone(memory_format=torch.contiguous_format),
            values[:, :, own].clone(memory_format=torch.contiguous_format),
            views["offsets"][:, some].clone(memory_format=torch.contiguous_format),
            tuple(views["begins"][place].tolist()),
            tuple(views["spans"][place].tolist()),
            views["cells"][some].clone(),
            float(views["novelty"][place]),
        )
        found.append(Moment(block, page.rows[place], float(views["utility"][place])))
    return found
