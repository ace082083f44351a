"""What a cache policy sees of one layer: tensors only, no model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from streamprune.errors import InvalidValueError

# of an attention map so many numbers exist at a time, of as many queries at least
_CPU_ELEMENTS, _OTHER_ELEMENTS, _LEAST_ROWS = 2**20, 2**26, 16

# what a segment says about an entry that is no visual token; visual tokens carry the number of their frame
PROMPT_TEXT = -1
NOT_LABELLED = -2


@dataclass(frozen=True, eq=False)
class TokenLabels:
    """What is known about the tokens of a prompt.

    Args:
        segments: (rows or 1, tokens) int: the frame of a visual token, from 0, or PROMPT_TEXT.
        cells: (rows or 1, tokens) int: the place of a visual token in its frame, row by row from 0; -1 =
            text.
        grid: rows and columns of a frame; comes with ``cells``.
    """

    segments: torch.Tensor
    cells: torch.Tensor | None = None
    grid: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if (self.cells is None) != (self.grid is None):
            raise InvalidValueError("cells and grid belong together; give both or neither")
        for name in ("segments", "cells"):
            value = getattr(self, name)
            if value is not None and (value.ndim != 2 or value.shape != self.segments.shape):
                raise InvalidValueError(
                    f"{name} must be (rows or 1, tokens) like segments, got {tuple(value.shape)}"
                )

    def part(self, first: int, tokens: int) -> dict[str, torch.Tensor]:
        """(rows or 1, tokens) int32 labels by name, from token number ``first`` on."""
        found = {"segments": _part(self.segments, first, tokens, NOT_LABELLED)}
        if self.cells is not None:
            found["cells"] = _part(self.cells, first, tokens, -1)
        return found


def _part(labels: torch.Tensor, first: int, tokens: int, beyond: int) -> torch.Tensor:
    known = labels[:, first : first + tokens].to(torch.int32)
    return torch.cat([known, known.new_full((len(known), tokens - known.shape[1]), beyond)], -1)


@dataclass(frozen=True, eq=False)
class LayerView:
    """One layer's cache when a policy decides: right after ``new`` tokens were added to it.

    Rows of a batch are ``b``, key-value heads ``h``, query heads ``H``, entries ``n``. Entries stand in the
    order in which their tokens came; the last ``new`` belong to this call.

    Attributes:
        keys, values: (b, h, n, dim) as they are cached, keys rotated.
        tokens: (b, h, n) int, the number of each entry's token in its row, from 0; -1 = padding.
        new: tokens of this call.
        seen: tokens so far, dropped ones and padding included.
        prompt: what ``seen`` was after the last call that brought more than one token.
        layer, depth: number of the layer, from 0, among the ``depth`` layers that are reduced.
        scaling: factor of the inner products of queries and keys.
        queries: (b, H, rows, dim) queries of the last tokens, rotated unless the policy wants them as they
            were before; None unless it asked for rows.
        segments: (b, h, n) int, frame of a visual token, PROMPT_TEXT or NOT_LABELLED; None = nothing
            labelled.
        cells: (b, h, n) int, place of a visual token in its frame; None = not known.
        grid: rows and columns of a frame; None = not known.
        state: (b, h, n) tensors that the policy's ``observe`` returned, zero for new entries.
        bias: (b, h, n) float32 added to the logits of attention to each entry; None = nothing.
        frequencies: (dim / 2,) angle of each pair of channels per position; None unless queries are
            unrotated.
        turn: (b or 1, dim) cosines and sines of the newest token's position, likewise.
    """

    keys: torch.Tensor = field(repr=False)
    values: torch.Tensor = field(repr=False)
    tokens: torch.Tensor = field(repr=False)
    new: int
    seen: int
    prompt: int
    layer: int = 0
    depth: int = 1
    scaling: float | None = None
    queries: torch.Tensor | None = field(default=None, repr=False)
    segments: torch.Tensor | None = field(default=None, repr=False)
    cells: torch.Tensor | None = field(default=None, repr=False)
    grid: tuple[int, int] | None = None
    state: Mapping[str, torch.Tensor] = field(default_factory=dict, repr=False)
    bias: torch.Tensor | None = field(default=None, repr=False)
    frequencies: torch.Tensor | None = field(default=None, repr=False)
    turn: tuple[torch.Tensor, torch.Tensor] | None = field(default=None, repr=False)

    @property
    def held(self) -> int:
        """Entries of each head."""
        return int(self.keys.shape[-2])

    @property
    def decoding(self) -> bool:
        """Whether this call brought one token of an answer, not a prompt or a part of one."""
        return self.new == 1 and self.seen > 1

    @property
    def hidden(self) -> torch.Tensor:
        """(b, h, n) bool: entries that stand for padding."""
        return self.tokens < 0

    def count(self) -> torch.Tensor:
        """(b, h, 1) int: tokens of each row so far, without padding."""
        return self.tokens.amax(-1, keepdim=True) + 1

    def newest(self, tokens: int) -> torch.Tensor:
        """(b, h, n) bool: entries of the last ``tokens`` tokens of each row."""
        return self.tokens >= (self.count() - tokens).clamp(min=0)

    def oldest(self, tokens: int) -> torch.Tensor:
        """(b, h, n) bool: entries of the first ``tokens`` tokens of each row."""
        return (self.tokens < tokens) & ~self.hidden

    def attention(self, rows: int) -> torch.Tensor:
        """(b, h, H / h, rows, n) float32: what the last ``rows`` queries pay to every entry, a softmax each.

        Rows of padding are zero.
        """
        queries = self.grouped_queries(rows)
        return self._rows(queries, self.held - queries.shape[-2])

    def received(self, *, decay: float = 1.0) -> torch.Tensor:
        """(b, h, n) float32: attention summed over all queries there are, mean over the heads of a group.

        Computed a block of queries at a time; on a CPU a head at a time too, so that a block stays in its
        cache.

        Args:
            decay: factor that a query's attention loses with every later query.
        """
        queries = self.grouped_queries().mul(self._scaling).flatten(0, 1)
        keys, hidden = self.keys.float().flatten(0, 1), self.hidden.flatten(0, 1)
        bias = None if self.bias is None else self.bias.flatten(0, 1)
        padded = hidden if bool(hidden.any()) else None
        heads, groups, count, _ = queries.shape
        total = torch.zeros(heads, self.held, device=keys.device)
        at_once = 1 if keys.device.type == "cpu" else heads
        rows = max(_LEAST_ROWS, _block_elements(keys.device) // (at_once * groups * self.held))
        for head in range(0, heads, at_once):
            some = slice(head, head + at_once)
            for first in range(0, count, rows):
                block = queries[some, :, first : first + rows]
                start, new = self.held - count + first, block.shape[2]
                seen = start + new
                logits = block @ keys[some, None, :seen].transpose(-1, -2)
                if bias is not None:
                    logits += bias[some, None, None, :seen]
                later = torch.ones(new, new, dtype=torch.bool, device=keys.device).triu_(1)
                logits[..., start:].masked_fill_(later, -torch.inf)
                if padded is not None:
                    logits.masked_fill_(padded[some, None, None, :seen], -torch.inf)
                paid = torch.softmax(logits, -1)
                if padded is not None:
                    paid.masked_fill_(padded[some, None, start:seen, None], 0.0)
                weights = decay ** torch.arange(new - 1, -1, -1, device=keys.device) / groups
                mass = weights.repeat(groups) @ paid.flatten(1, 2)
                total[some] *= decay**new
                total[some, :seen] += mass
        return total.view(self.tokens.shape)

    def grouped_queries(self, rows: int | None = None) -> torch.Tensor:
        """(b, h, H / h, rows, dim) float32: the queries, or the last ``rows``, by the head they read from."""
        if self.queries is None:
            raise InvalidValueError("no queries were computed; let the policy's query_rows ask for some")
        queries = self.queries if rows is None else self.queries[..., -rows:, :]
        rows_of_heads = queries.shape[0], self.keys.shape[1], -1, *queries.shape[2:]
        return queries.float().reshape(rows_of_heads)

    def mean_turn(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(b or 1, dim) cosines and sines averaged over the ``count`` positions after the newest token's."""
        if self.frequencies is None or self.turn is None:
            raise InvalidValueError("rotations are only known to policies that see unrotated queries")
        steps = torch.arange(1, count + 1, device=self.frequencies.device)[:, None] * self.frequencies.float()
        steps = torch.cat([steps, steps], -1)
        cos, sin = (table.float() for table in self.turn)
        ahead_cos, ahead_sin = steps.cos().mean(0), steps.sin().mean(0)
        return cos * ahead_cos - sin * ahead_sin, sin * ahead_cos + cos * ahead_sin

    @property
    def _scaling(self) -> float:
        return float(self.keys.shape[-1]) ** -0.5 if self.scaling is None else self.scaling

    def _rows(self, queries: torch.Tensor, first: int) -> torch.Tensor:
        """Attention of ``queries``, which belong to the entries from ``first`` on, to all before them."""
        seen = first + queries.shape[-2]
        logits = queries * self._scaling @ self.keys[:, :, None, :seen].float().transpose(-1, -2)
        if self.bias is not None:
            logits += self.bias[:, :, None, None, :seen]
        entries, hidden = torch.arange(seen, device=logits.device), self.hidden[:, :, None, :seen]
        unseen = (entries > entries[first:, None]) | hidden[..., None, :]
        rows = torch.softmax(logits.masked_fill_(unseen, -torch.inf), -1)
        return rows.masked_fill_(hidden[..., first:, None], 0.0)


def _block_elements(device: torch.device) -> int:
    return _CPU_ELEMENTS if device.type == "cpu" else _OTHER_ELEMENTS
