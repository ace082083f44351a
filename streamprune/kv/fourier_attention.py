"""FourierAttention: channels that change slowly along the sequence as a few waves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import torch

from streamprune.budget import share_of
from streamprune.checks import check_count, check_number
from streamprune.errors import InvalidTypeError, InvalidValueError, UnknownNameError
from streamprune.kv.store import Change, Kind, Packed, Place, Rest, Store, Window, computed
from streamprune.ops.selection import entries_at, lowest, marked

Balance = Literal["moments", "dual"]


@dataclass(frozen=True, kw_only=True)
class FourierAttention(Store):
    """Hold most channels of the middle of a sequence as so many waves, however long it grows.

    The first and the newest entries stay as they came, and so do the channels that waves follow worst.

    Args:
        states: numbers held of each such channel, even: a cosine and a sine of each frequency; None stores
            entries as they came. Nothing is stored before the middle is longer than this.
        room: tokens by which the middle may grow before its waves are found anew.
        balance: "moments" gives what waves add up to the mean and the spread that each channel had when it
            was stored; "dual" weighs each wave by what it is worth.
        exact_first: first entries that stay as they came, 0 or more.
        key_shares, value_shares: share of the channels that become waves, in [0, 1), in the first eighth of
            the layers, in those between, and in the last quarter.

    Source: arXiv 2506.11886 and its release: frequencies that fit the middle and ``room``, one product with
        all waves, then the moments of each channel. "dual", on series around their mean, is ours: the
        constant counts half as much as the other waves, as it takes to get a sum of waves back. The release
        has lists of channels for two models, found on a sample text by the error of this very approximation;
        here each head finds its own on what is stored first. Its room is the length of the answer. A token
        that is dropped goes on shaping the waves; the others read back as before.
    """

    states: int | None = 512
    room: int = 512
    balance: Balance = "moments"
    exact_first: int = 4
    exact_last: int = 1020
    key_shares: Sequence[float] = (0.9, 0.8, 0.5)
    value_shares: Sequence[float] = (0.95, 0.8, 0.7)

    level: ClassVar[int] = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("room", self.room)
        check_count("exact_first", self.exact_first, least=0)
        if self.states is not None:
            check_count("states", self.states, least=2)
            if self.states % 2:
                raise InvalidValueError(f"states must be even, a cosine and a sine each, got {self.states}")
        if self.balance not in get_args(Balance):
            raise UnknownNameError.among("balance", self.balance, get_args(Balance))
        for name in ("key_shares", "value_shares"):
            shares = getattr(self, name)
            if not isinstance(shares, list | tuple) or len(shares) != 3:
                raise InvalidTypeError(f"{name} must be three numbers in [0, 1), got {shares!r}")
            for share in shares:
                check_number(name, share, 0, 1 - 1e-9)

    def _channels(self, place: Place) -> int:
        """How many of a head's channels become waves."""
        shares = self.key_shares if place.kind == "keys" else self.value_shares
        first, last = 8 * place.layer < place.depth, 4 * (place.depth - place.layer) <= place.depth
        return share_of(place.dim, shares[0] if first else shares[2] if last else shares[1])

    def acts(self, kind: Kind) -> bool:
        """Whether there are waves."""
        return self.states is not None

    def window(self, place: Place) -> Window:
        """A sliding one; before the middle is longer than its states there is nothing to gain."""
        return Window(self.exact_last, 1, self.exact_first + (self.states or 0) + 1)

    def pack(self, x: torch.Tensor, place: Place, rest: Rest) -> Packed:
        """Waves, and the other channels for the next store."""
        states = self.states or 0
        middle = x[:, :, self.exact_first :]
        waved = self._channels(place)
        if middle.shape[2] <= states or not waved:
            return rest(x)
        period = middle.shape[2] + self.room
        table = waves(middle.shape[2], period, states, computed(x))
        fit = fitted if self.balance == "moments" else fitted_around_mean
        state, scale, shift, error = fit(computed(middle), table, period)
        channels = lowest(error, waved).sort(-1).values
        return Waves(
            state=_columns(state, channels),
            scale=_columns(scale, channels),
            shift=_columns(shift, channels),
            first=_columns(x[:, :, : self.exact_first], channels),
            channels=channels.to(torch.int16),
            others=rest(_other_columns(x, channels)),
            times=None,
            count=int(x.shape[2]),
            period=period,
            centred=self.balance == "dual",
            anew=lambda entries: self.pack(entries, place, rest),
        )


def waves(count: int, period: int, states: int, like: torch.Tensor, *, start: int = 0) -> torch.Tensor:
    """(count, states) cosines and sines of 0, 1, 2, ... turns in ``period``, from the time ``start`` on."""
    times = torch.arange(start, start + count, device=like.device, dtype=torch.float64)
    turns = torch.arange(states // 2, device=like.device, dtype=torch.float64)
    angles = (times[:, None] * turns % period) * (2 * math.pi / period)
    return torch.stack([angles.cos(), angles.sin()], -1).flatten(1).to(like.dtype)


Fit = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def fitted(x: torch.Tensor, table: torch.Tensor, period: int) -> Fit:
    """What waves make of the series of every channel.

    Args:
        x: (..., count, dim).
        table: (count, states) of :func:`waves`.
        period: of the slowest wave.

    Returns (..., states, dim) products with the waves, (..., 1, dim) factor and summand that give what comes
    back the mean and the spread of ``x``, and (..., dim) the mean square of what is then still wrong.
    """
    state = table.transpose(0, 1) @ x
    back = table @ state
    spread = back.std(-2, correction=0, keepdim=True)
    scale = torch.where(spread > 0, x.std(-2, correction=0, keepdim=True) / spread, 1)
    shift = x.mean(-2, keepdim=True) - back.mean(-2, keepdim=True) * scale
    return state, scale, shift, (back * scale + shift - x).square().mean(-2)


def fitted_around_mean(x: torch.Tensor, table: torch.Tensor, period: int) -> Fit:
    """As :func:`fitted`, of ``x`` less its mean, each wave weighed by what it is worth."""
    mean = x.mean(-2, keepdim=True)
    table = halved_constant(table)
    state = table.transpose(0, 1) @ (x - mean)
    scale = torch.full_like(mean, 2 / period)
    return state, scale, mean, (table @ state * scale + mean - x).square().mean(-2)


def halved_constant(table: torch.Tensor) -> torch.Tensor:
    """``table`` with a constant that counts half as much where a product is added up by the same table."""
    weights = torch.ones(table.shape[-1], dtype=table.dtype, device=table.device)
    weights[0] = math.sqrt(0.5)
    return table * weights


@dataclass(frozen=True, eq=False)
class Waves(Packed):
    """Some channels as waves, the others in the hands of the next store.

    Attributes:
        state: (b, h, states, waved) float32 or float64.
        scale, shift: (b, h, 1, waved), done to what the waves add up to.
        first: (b, h, first entries, waved) as they came.
        channels: (b, h, waved) int16, ascending.
        others: (b, h, n, dim - waved).
        times: (b, h, n) int32, when every entry came; None while all are there.
        count: entries that ever came, the first ones included.
        period: so many after the first ones fit.
        centred: the waves are of series less ``shift``, and the constant counts half.
        anew: packs entries from the beginning.
    """

    state: torch.Tensor
    scale: torch.Tensor
    shift: torch.Tensor
    first: torch.Tensor
    channels: torch.Tensor
    others: Packed
    times: torch.Tensor | None
    count: int
    period: int
    centred: bool
    anew: Callable[[torch.Tensor], Packed]

    @property
    def entries(self) -> int:
        """Entries of each head."""
        return self.others.entries

    def _table(self, start: int, count: int) -> torch.Tensor:
        table = waves(count, self.period, self.state.shape[2], self.state, start=start)
        return halved_constant(table) if self.centred else table

    def _times(self) -> torch.Tensor:
        if self.times is not None:
            return self.times.long()
        return torch.arange(self.count, device=self.state.device).expand(*self.state.shape[:2], -1)

    def load(self) -> torch.Tensor:
        """(b, h, n, dim)."""
        table = self._table(0, self.count - self.first.shape[2])
        middle = (table @ self.state * self.scale + self.shift).to(self.first.dtype)
        waved = torch.cat([self.first, middle], 2)
        if self.times is not None:
            waved = entries_at(waved, self._times())
        others, channels = self.others.load(), self.channels.long()
        dim = others.shape[-1] + channels.shape[-1]
        is_waved = marked(channels, dim)[:, :, None].expand(*others.shape[:3], -1)
        x = others.new_empty(is_waved.shape)
        x.masked_scatter_(is_waved, waved)
        return x.masked_scatter_(~is_waved, others)

    def add(self, x: torch.Tensor) -> Packed:
        """New times; all waves anew when the period is full."""
        start, channels = self.count - self.first.shape[2], self.channels.long()
        if start + x.shape[2] > self.period:
            return self.anew(torch.cat([self.load(), x], 2))
        series = computed(_columns(x, channels)) - (self.shift if self.centred else 0)
        state = self.state + self._table(start, x.shape[2]).transpose(0, 1) @ series
        times = None
        if self.times is not None:
            fresh = torch.arange(self.count, self.count + x.shape[2], device=x.device, dtype=torch.int32)
            times = torch.cat([self.times, fresh.expand(*x.shape[:2], -1)], 2)
        others = self.others.add(_other_columns(x, channels))
        return replace(self, state=state, others=others, times=times, count=self.count + int(x.shape[2]))

    def take(self, chosen: torch.Tensor) -> Waves:
        """The chosen times; the waves stay as they are."""
        times = self._times().gather(2, chosen).int()
        return replace(self, others=self.others.take(chosen), times=times)

    def rows(self, change: Change) -> Waves:
        """Each tensor's rows."""
        return replace(
            self,
            state=change(self.state),
            scale=change(self.scale),
            shift=change(self.shift),
            first=change(self.first),
            channels=change(self.channels),
            others=self.others.rows(change),
            times=None if self.times is None else change(self.times),
        )

    def tensors(self) -> list[torch.Tensor]:
        """The waves and what belongs to them, the other channels, and times where they have to be said."""
        own = [self.state, self.scale, self.shift, self.first, self.channels, *self.others.tensors()]
        return own if self.times is None else [*own, self.times]


def _columns(x: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
    """(b, h, n, some) ``channels`` (b, h, some) of (b, h, n, dim)."""
    return x.gather(-1, channels[:, :, None].expand(*x.shape[:3], -1))


def _other_columns(x: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
    """(b, h, n, rest) all but ``channels`` (b, h, some) of (b, h, n, dim)."""
    others = ~marked(channels, x.shape[-1])[:, :, None].expand(x.shape)
    return x[others].reshape(*x.shape[:3], -1)
