"""How many bytes, tokens and frames each tier of a tiered memory gets, in whole numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamprune.cache.block import CacheShape, block_bytes
from streamprune.cache.memory import Room
from streamprune.cache.page import PageFormat
from streamprune.cache.page_index import row_bytes
from streamprune.errors import InvalidValueError

if TYPE_CHECKING:
    from streamprune.cache.tiered import Tiered

# layers that frames are found by, when nobody says which
_MOST_LAYERS = 8
# rows of an index below which tiers cannot hand frames on
_LEAST_ROWS = 4


@dataclass(frozen=True)
class Plan:
    """What a :class:`~streamprune.cache.tiered.Tiered` makes of a room.

    Attributes:
        index_layers: that frames are found and compared by.
        moment_tokens: visual tokens of a reduced frame.
        page_format: of the archive.
        page_frames: most frames of a page.
        page_bytes: most bytes of a page.
        recent_bytes, mid_bytes, archive_bytes: most bytes of each tier.
        rows: most frames in the index.
        context_tokens: most tokens of a context, the head of the prompt not counted.
        brought: most frames that a question brings back.
    """

    index_layers: tuple[int, ...]
    moment_tokens: int
    page_format: PageFormat
    page_frames: int
    page_bytes: int
    recent_bytes: int
    mid_bytes: int
    archive_bytes: int
    rows: int
    context_tokens: int
    brought: int

    @classmethod
    def of(cls, method: Tiered, room: Room) -> Plan:
        """InvalidValueError where an option does not go with the model, not where bytes are too few."""
        shape = room.shape
        layers = _index_layers(method, shape)
        few = _few(method, room)
        page_format = PageFormat(shape, method.bits, method.values)
        rest = max(0, room.memory_bytes - least_bytes(method, room))
        recent, mid, archive, rows = _shared(method, room, page_format, len(layers), few, rest)
        page_frames = method.page_frames
        # a small archive has smaller pages, so that it has two of them to merge
        while page_frames > 1 and 2 * _page_bytes(page_format, room, few, page_frames) > archive:
            page_frames -= 1
        context = room.context_tokens if method.context is None else min(method.context, room.context_tokens)
        frame = room.tokens_per_frame + room.header_tokens
        return cls(
            index_layers=layers,
            moment_tokens=few,
            page_format=page_format,
            page_frames=page_frames,
            page_bytes=_page_bytes(page_format, room, few, page_frames),
            recent_bytes=recent,
            mid_bytes=mid,
            archive_bytes=archive,
            rows=rows,
            context_tokens=max(context, frame),
            brought=max(1, context // frame) if method.brought is None else method.brought,
        )


def least_bytes(method: Tiered, room: Room) -> int:
    """A whole frame, a reduced one, a page of one, few rows of the index, and the keys to compare with."""
    shape, layers, few = room.shape, len(_index_layers(method, room.shape)), _few(method, room)
    news = layers * shape.kv_heads * room.tokens_per_frame * shape.head_dim * shape.dtype.itemsize
    rows = _LEAST_ROWS * row_bytes(shape, layers, method.representatives)
    return news + rows + sum(_least(room, PageFormat(shape, method.bits, method.values), few))


def _least(room: Room, page_format: PageFormat, few: int) -> tuple[int, int, int]:
    """Bytes without which the recent, the middle tier or the archive hold nothing."""
    text = room.header_tokens
    # a whole frame comes with the numbers of the tokens that will stay of it
    whole = block_bytes(room.shape, room.tokens_per_frame + text) + 4 * (few + text)
    return whole, block_bytes(room.shape, few + text), _page_bytes(page_format, room, few, 1)


def _shared(
    method: Tiered, room: Room, page_format: PageFormat, layers: int, few: int, rest: int
) -> tuple[int, int, int, int]:
    """Bytes of the three tiers and rows of the index, when ``rest`` is shared beyond what they need."""
    least, frames = _least(room, page_format, few), method.page_frames
    row = row_bytes(room.shape, layers, method.representatives)
    shares = method.recent_share, method.mid_share, method.archive_share
    if method.index_share is None:
        # rows for as many frames of the usual size as the other tiers get
        sizes = (*least[:2], _page_bytes(page_format, room, few, frames) / frames)
        rows_per_byte = sum(share / size for share, size in zip(shares, sizes, strict=True))
        of_tiers = rest / (1 + rows_per_byte * row)
        of_index = rest - sum(int(share * of_tiers) for share in shares)
    else:
        of_tiers, of_index = rest, int(method.index_share * rest)
    recent, mid, archive = (own + int(share * of_tiers) for own, share in zip(least, shares, strict=True))
    return recent, mid, archive, _LEAST_ROWS + of_index // row


def _few(method: Tiered, room: Room) -> int:
    """Visual tokens of a reduced frame."""
    own = max(8, -(-room.tokens_per_frame // 4)) if method.moment_tokens is None else method.moment_tokens
    return min(own, room.tokens_per_frame)


def _page_bytes(page_format: PageFormat, room: Room, few: int, frames: int) -> int:
    return page_format.nbytes(frames * (few + room.header_tokens), frames)


def _index_layers(method: Tiered, shape: CacheShape) -> tuple[int, ...]:
    if method.index_layers is None:
        first, last = shape.layers // 4, max(shape.layers // 4 + 1, 3 * shape.layers // 4)
        count = min(_MOST_LAYERS, last - first)
        return tuple(first + place * (last - first) // count for place in range(count))
    if max(method.index_layers) >= shape.layers:
        raise InvalidValueError(
            f"index_layers must be below {shape.layers}, the layers of the model, got {method.index_layers}"
        )
    return method.index_layers
