"""What a cache policy is: options, a budget, and one choice per layer and call.

To add one: a file in this folder with a frozen keyword-only dataclass and a line in
``streamprune/catalog/kv.py``. ``streamprune.cache.kept`` carries the choices out in a stock model's cache.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

import torch

from streamprune.budget import CacheBudget
from streamprune.checks import check_count, check_flag
from streamprune.errors import InvalidValueError, SignalError, UnknownNameError
from streamprune.kv.view import PROMPT_TEXT, LayerView
from streamprune.ops.selection import highest

Decoding = Literal["hold", "grow"]
CachePositions = Literal["keep", "compact"]


@dataclass(frozen=True, eq=False)
class Replacement:
    """What a layer holds from now on.

    Args:
        chosen: (b, h, kept) int64 entries whose numbers, labels and state stay, ascending.
        keys, values: (b, h, kept, dim) in place of theirs; None = theirs, both or neither.
        state: (b, h, kept) tensors in place of theirs.
        newest: () number of the newest token that went into another's entry; None = none did.
    """

    chosen: torch.Tensor
    keys: torch.Tensor | None = None
    values: torch.Tensor | None = None
    state: Mapping[str, torch.Tensor] = field(default_factory=dict)
    newest: torch.Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Policy(ABC):
    """Chooses which entries of a layer's key-value cache stay.

    It is asked after every call of the model, when the attention of that call is over: nothing is dropped
    before it has been attended to once. Subclasses add options as fields and implement :meth:`score`, or
    :meth:`keep` when a choice is no matter of scores.

    Args:
        keep_ratio, keep_tokens, keep_bytes: see :class:`streamprune.budget.CacheBudget`. A share is one of
            the tokens seen when the last prompt (or the last part of one) had been read.
        protect_first, protect_last: so many of the first and of the newest tokens always stay.
        protect_text: the text of the prompt always stays; needs to know which tokens are text.
        decoding: "hold" keeps to the budget after every token of the answer, "grow" leaves the answer's
            entries alone until the next prompt.
        cache_positions: "keep" leaves entries at their rotary positions; "compact" counts 0, 1, 2, ... over
            the entries a layer holds, so that positions never exceed what it holds. The latter takes models
            with one axis of positions, and no padded batches.

    Class attributes:
        needs: what it reads beside keys and values: "queries", "segments".
        causal: usable on a live stream.
        unrotated: its queries are shown as they are before rotation.
        rereads: it decides about a prompt once the model has read it a second time; see
            :class:`streamprune.kv.kvzip.KVzip`.
        merges: entries take others in, and :meth:`bias` says how much more attention they are worth.
    """

    keep_ratio: float | None = None
    keep_tokens: int | None = None
    keep_bytes: int | None = None
    protect_first: int = 0
    protect_last: int = 0
    protect_text: bool = False
    decoding: Decoding = "hold"
    cache_positions: CachePositions = "keep"

    needs: ClassVar[tuple[str, ...]] = ()
    causal: ClassVar[bool] = True
    unrotated: ClassVar[bool] = False
    rereads: ClassVar[bool] = False
    merges: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_count("protect_first", self.protect_first, least=0)
        check_count("protect_last", self.protect_last, least=0)
        check_flag("protect_text", self.protect_text)
        if self.decoding not in get_args(Decoding):
            raise UnknownNameError.among("decoding", self.decoding, get_args(Decoding))
        check_cache_positions(self.cache_positions, self)
        asked = self.protect_first + self.protect_last
        _ = self.budget
        if self.keep_tokens is not None and asked > self.keep_tokens:
            raise InvalidValueError(_too_many_protected(asked, self.keep_tokens))

    @property
    def budget(self) -> CacheBudget:
        """The three budget options as one."""
        return CacheBudget(self.keep_ratio, self.keep_tokens, self.keep_bytes)

    @property
    def keeps_all(self) -> bool:
        """Whether no entry is ever dropped, whatever happens."""
        return self.budget.keeps_all

    def query_rows(self, new: int) -> int:
        """How many of the last of ``new`` tokens the policy wants to see the queries of."""
        return 0

    def limit(self, view: LayerView, entry_bytes: int) -> int:
        """Entries that this layer may hold now, of each head."""
        return self.budget.entries(view.prompt, entry_bytes, view.depth)

    def observe(self, view: LayerView) -> Mapping[str, torch.Tensor]:
        """(b, h, n) tensors to find again in ``view.state``, of the entries that stay until then."""
        return {}

    def bias(self, state: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
        """(b, h, n) float32 to add to the logits of attention to each entry; None = nothing."""
        return None

    def choose(self, view: LayerView, entry_bytes: int) -> torch.Tensor | None:
        """(b, h, kept) int64 entries that stay, ascending; None when all do.

        Args:
            entry_bytes: what one entry of all rows and heads takes together.
        """
        limit = self.room(view, entry_bytes)
        return None if limit is None else self.keep(view, limit)

    def replace(self, view: LayerView, entry_bytes: int) -> Replacement | None:
        """What stays, and what it becomes where entries are merged; None when all stay as they are."""
        limit = self.room(view, entry_bytes)
        return None if limit is None else self.reduced(view, limit)

    def room(self, view: LayerView, entry_bytes: int) -> int | None:
        """Entries that may stay of the more there are; None when all may."""
        if self.keeps_all or (self.decoding == "grow" and view.decoding):
            return None
        limit = self.limit(view, entry_bytes)
        return None if limit >= view.held else limit

    def reduced(self, view: LayerView, limit: int) -> Replacement:
        """``limit`` entries in place of those there are; those that :meth:`keep` chooses, as they are."""
        return Replacement(self.keep(view, limit))

    def keep(self, view: LayerView, limit: int) -> torch.Tensor:
        """(b, h, limit) int64 entries that stay, ascending; by score unless a subclass knows better."""
        return self.best(view, self.score(view), limit)

    def best(self, view: LayerView, scores: torch.Tensor, limit: int) -> torch.Tensor:
        """(b, h, limit) int64, ascending: what the options protect, the highest ``scores``, padding last."""
        scores = scores.float().expand(view.tokens.shape)
        scores = scores.masked_fill(view.hidden, -torch.inf)
        protected = self.protected(view)
        if protected is not None:
            most = int(protected.sum(-1).max())
            if most > limit:
                raise InvalidValueError(_too_many_protected(most, limit))
            scores = scores.masked_fill(protected, torch.inf)
        return highest(scores, limit).sort(-1).values

    @abstractmethod
    def score(self, view: LayerView) -> torch.Tensor:
        """(b, h, n) float32 finite scores, the higher the longer an entry stays; ties: the older one."""

    def protected(self, view: LayerView) -> torch.Tensor | None:
        """(b, h, n) bool: what the user's options protect; None when they protect nothing."""
        if not (self.protect_first or self.protect_last or self.protect_text):
            return None
        protected = view.oldest(self.protect_first) | view.newest(self.protect_last)
        if self.protect_text:
            protected = protected | (segments_of(view) == PROMPT_TEXT)
        return protected & ~view.hidden


def check_cache_positions(positions: object, policy: Policy) -> None:
    """Refuse anything but one of CachePositions, and "compact" for policies that cannot do with it."""
    if positions not in get_args(CachePositions):
        raise UnknownNameError.among("positions", positions, get_args(CachePositions))
    if positions == "keep":
        return
    if policy.merges:
        raise InvalidValueError(
            f"{type(policy).__name__} merges entries of several positions, which cannot be counted anew: "
            'leave positions at "keep"'
        )
    if policy.rereads:
        raise InvalidValueError(
            f"{type(policy).__name__} reads prompts again at positions of their own: leave positions at "
            '"keep"'
        )


def segments_of(view: LayerView) -> torch.Tensor:
    """The segments of ``view``; SignalError when nothing was labelled."""
    if view.segments is None:
        raise SignalError(
            "which tokens are text and which frames the others show is not known; give the cache labels"
        )
    return view.segments


def cells_of(view: LayerView) -> torch.Tensor:
    """The cells of ``view``; SignalError when they are not known."""
    if view.cells is None:
        raise SignalError(
            "where in their frames the visual tokens stand is not known; give the cache labels with cells "
            "and grid"
        )
    return view.cells


def always_above(scores: torch.Tensor, entries: torch.Tensor) -> torch.Tensor:
    """``scores`` with those of ``entries`` (bool, of the same shape) above all others, the newest highest."""
    age = torch.arange(1, scores.shape[-1] + 1, device=scores.device, dtype=scores.dtype)
    return torch.where(entries, scores.amax(-1, keepdim=True).clamp(min=0) + age, scores)


def _too_many_protected(protected: int, limit: int) -> str:
    return (
        f"the budget of {limit} entries is smaller than the {protected} that are protected; raise "
        "keep_ratio, keep_tokens or keep_bytes, or protect fewer"
    )
