"""Where tokens of a tower go in one reduction, and where each of them is read from afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from streamprune.ops.similarity import unit_rows

Entries = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True, eq=False)
class TokenMap:
    """One step from (frames, tokens) to fewer of either; make one with a class method.

    Tokens are numbered through, ``frame * tokens + token``, before and after.

    Attributes:
        index: (frames out, tokens out) int64, the token that stands for each one that leaves.
        slot: (frames, tokens) int64, the leaving token each entering one is read back from.
        entries: (leaving token, entering token, weight), sorted by the first: what each leaving one is the
            weighted sum of. None: of ``index`` alone, or as ``mix`` says.
        mix: (frames, tokens out, tokens) float32 weights within each frame, for dense mixtures.
        spread: (frames, tokens, tokens out) float32, what each entering token is read back as; None: as
            ``slot`` says.
    """

    index: torch.Tensor
    slot: torch.Tensor
    entries: Entries | None = field(default=None, repr=False)
    mix: torch.Tensor | None = field(default=None, repr=False)
    spread: torch.Tensor | None = field(default=None, repr=False)

    @classmethod
    def select(cls, kept: torch.Tensor, slot: torch.Tensor) -> TokenMap:
        """Leave only some tokens of each frame.

        Args:
            kept: (frames, tokens out) which ones, counted within the frame.
            slot: (frames, tokens) which of ``kept``, 0 for the first, each token is read back from.
        """
        return cls(_number(kept, slot.shape[1]), _number(slot, kept.shape[1]))

    @classmethod
    def merge(cls, kept: torch.Tensor, slot: torch.Tensor, weight: torch.Tensor) -> TokenMap:
        """Leave weighted sums of disjoint sets of tokens of each frame.

        Args:
            kept, slot: as in :meth:`select`.
            weight: (frames, tokens) of each token in its slot; 0 = it is read from there and no more.
        """
        index, rows = _number(kept, slot.shape[1]), _number(slot, kept.shape[1])
        token = weight.flatten().nonzero().flatten()
        return cls(index, rows, _by_row((rows.flatten()[token], token, weight.flatten()[token].float())))

    @classmethod
    def blend(cls, kept: torch.Tensor, slot: torch.Tensor, added: Entries) -> TokenMap:
        """Leave ``kept`` as in :meth:`select`, with ``added`` (leaving, entering, weight) on top of them."""
        index = _number(kept, slot.shape[1])
        own = torch.arange(index.numel(), device=index.device)
        row, token, weight = added
        entries = (
            torch.cat([own, row]),
            torch.cat([index.flatten(), token]),
            torch.cat([weight.new_ones(len(own)), weight]),
        )
        return cls(index, _number(slot, kept.shape[1]), _by_row(entries))

    @classmethod
    def transform(cls, kept: torch.Tensor, mix: torch.Tensor, spread: torch.Tensor) -> TokenMap:
        """Leave ``mix`` of each frame's tokens; read them back as ``spread``. ``kept`` names the places."""
        return cls(
            _number(kept, mix.shape[2]), _number(spread.max(-1).indices, mix.shape[1]), None, mix, spread
        )

    @classmethod
    def merge_frames(cls, slot: Sequence[int], weight: Sequence[float], like: torch.Tensor) -> TokenMap:
        """Leave weighted sums of whole frames, token by token.

        Args:
            slot: the leaving frame each frame goes to, ascending, every one of them with some weight.
            weight: of each frame; 0 = it is read from there and no more.
            like: (frames, tokens, width) states, for sizes and device.
        """
        frames, tokens = like.shape[:2]
        place = torch.arange(tokens, device=like.device)
        row = torch.tensor(list(slot), device=like.device)[:, None] * tokens + place
        token = torch.arange(frames, device=like.device)[:, None] * tokens + place
        # the heaviest frame of a slot stands for it, of equals the first
        chosen = [
            max((f for f in range(frames) if slot[f] == s), key=lambda f: (weight[f], -f))
            for s in range(max(slot) + 1)
        ]
        some = [frame for frame in range(frames) if weight[frame] != 0]
        shares = torch.tensor([weight[frame] for frame in some], device=like.device)
        entries = (row[some].flatten(), token[some].flatten(), shares.repeat_interleave(tokens))
        return cls(token[chosen], row, _by_row(entries))

    @property
    def is_hard(self) -> bool:
        """Whether every token is read back from one leaving token."""
        return self.spread is None

    def apply(self, values: torch.Tensor) -> torch.Tensor:
        """Carry (frames, tokens, width) through: (frames out, tokens out, width), in its dtype.

        Sums run in float32 (float64 values: in float64).
        """
        if self.mix is not None:
            exact = torch.promote_types(values.dtype, torch.float32)
            return torch.matmul(self.mix.to(exact), values.to(exact)).to(values.dtype)
        flat = values.reshape(-1, values.shape[-1])
        if self.entries is None:
            return flat[self.index]
        row, token, weight = self.entries
        exact = torch.promote_types(values.dtype, torch.float32)
        starts = torch.searchsorted(row, torch.arange(self.index.numel(), device=row.device))
        summed = torch.nn.functional.embedding_bag(
            token, flat.to(exact), starts, mode="sum", per_sample_weights=weight.to(exact)
        )
        return summed.to(values.dtype).reshape(*self.index.shape, -1)

    def restore(self, values: torch.Tensor) -> torch.Tensor:
        """Read every entering token back: (frames out, tokens out, width) -> (frames, tokens, width)."""
        if self.spread is not None:
            exact = torch.promote_types(values.dtype, torch.float32)
            return torch.matmul(self.spread.to(exact), values.to(exact)).to(values.dtype)
        return values.reshape(-1, values.shape[-1])[self.slot]


def read_back(maps: Sequence[TokenMap], values: torch.Tensor) -> torch.Tensor:
    """Undo ``maps``, made one after the other: what left the last becomes what entered the first."""
    while maps:
        soft = max((i for i, one in enumerate(maps) if not one.is_hard), default=-1)
        tail = maps[soft + 1 :]
        if tail:
            values = values.reshape(-1, values.shape[-1])[follow(tail)]
        if soft >= 0:
            values = maps[soft].restore(values)
        maps = maps[: max(soft, 0)]
    return values


def follow(maps: Sequence[TokenMap]) -> torch.Tensor:
    """(frames, tokens) int64: which token that leaves the last of ``maps`` each one of the first ends in."""
    slot = maps[0].slot
    for step in maps[1:]:
        slot = step.slot.flatten()[slot]
    return slot


def like_kept(states: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """(frames, tokens) int64: the kept token each token of its frame is most like, itself where it is kept.

    Args:
        states: (frames, tokens, width); alike by cosine, ties to the first of ``kept``.
        kept: (frames, tokens out), counted within the frame.
    """
    frames, tokens, width = states.shape
    places = torch.arange(kept.shape[1], device=kept.device).expand_as(kept)
    slot = torch.full((frames, tokens), -1, device=kept.device).scatter(1, kept, places)
    dropped = (slot < 0).nonzero()[:, 1].reshape(frames, -1)
    # the length of a dropped token cannot change which kept one is most like it
    chosen = unit_rows(states.gather(1, kept[..., None].expand(-1, -1, width)))
    given = states.gather(1, dropped[..., None].expand(-1, -1, width)).float()
    return slot.scatter(1, dropped, torch.matmul(given, chosen.mT).max(-1).indices)


def _number(within: torch.Tensor, per_frame: int) -> torch.Tensor:
    """Number positions within frames of ``per_frame`` tokens through."""
    return within + per_frame * torch.arange(len(within), device=within.device)[:, None]


def _by_row(entries: Entries) -> Entries:
    row, order = torch.sort(entries[0], stable=True)
    return row, entries[1][order], entries[2][order]
