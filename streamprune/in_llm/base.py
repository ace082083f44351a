"""What an in-LLM method is: the layers it acts before, and one decision at each of them.

To add one: a file in this folder with a frozen keyword-only dataclass, a line in
``streamprune/catalog/in_llm.py`` and a row in ``tests/in_llm/table.py``. ``streamprune.models.attach`` runs
it inside a language model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch

from streamprune.budget import Budget
from streamprune.checks import check_flag
from streamprune.errors import InvalidValueError
from streamprune.ops.attention_rows import attention_rows
from streamprune.ops.merging import Entries
from streamprune.tokens import VideoGrid


class LayerProjections(ABC):
    """Queries and keys that one decoder layer makes of the prompt's rows, computed when asked for.

    Attributes:
        scaling: factor of the inner products of queries and keys.
    """

    scaling: float

    @abstractmethod
    def queries(self, rows: torch.Tensor, *, rotated: bool = True) -> torch.Tensor:
        """(heads, rows, dim) float32 queries of the given rows, before or after the rotary embedding."""

    @abstractmethod
    def keys(self, *, rotated: bool = True) -> torch.Tensor:
        """(key heads, all rows, dim) float32 keys, before or after the rotary embedding."""

    def normed(self) -> torch.Tensor:
        """(rows, width) the states as the layer's own norm gives them to its projections."""
        raise NotImplementedError(f"{type(self).__name__} does not know the layer's states")

    def values(self) -> torch.Tensor:
        """(key heads, all rows, dim) float32 values."""
        raise NotImplementedError(f"{type(self).__name__} does not know the layer's values")

    def attention(self, rows: torch.Tensor) -> torch.Tensor:
        """(heads, rows, all rows) float32 attention of the given rows, as the layer computes it."""
        return attention_rows(self.queries(rows), self.keys(), self.scaling, rows)


@dataclass(frozen=True, eq=False)
class PartCall:
    """What one part of a decoder layer made of one prompt's rows.

    Attributes:
        layer: number of the layer, from 0.
        part: name of the part within it, "self_attn" for one.
        entered: (rows, width) what went into it.
        left: (rows, width) what came out, before it is added to the states.
        visual: (visual,) int64 rows that are visual tokens, ascending.
    """

    layer: int
    part: str
    entered: torch.Tensor = field(repr=False)
    left: torch.Tensor = field(repr=False)
    visual: torch.Tensor = field(repr=False)


@dataclass(frozen=True, eq=False)
class PromptView:
    """One prompt on its way up the language model, between two layers.

    Only what goes up in this call is there: the prompt of a later turn does not see the earlier ones.

    Attributes:
        layer: number of the layer the rows are about to enter, from 0.
        cut: number of this decision, from 0.
        depth: layers of the language model.
        states: (rows, width) what enters the layer.
        embeds: (rows, width) what these rows were when they entered the language model.
        visual: (visual,) int64 rows that are visual tokens, ascending.
        places: (visual,) int64 flat index of each on the grid; None when there is no one grid.
        grid: the video's full grid, None when there is no one video.
        visual_at_first: visual tokens before the first decision.
        before: projections of the layer below, of the rows that entered it; before layer 0 there is none, and
            asking for them is a mistake.
        at: projections of ``layer`` itself.
        carried: what the method handed on from its last decision.
        waiting: rows that an earlier decision set aside.
        watched: for each (layer, part) that ran below, what :meth:`InLLMMethod.watch` made of these rows.
        prompt: which prompt of its batch it is, from 0.
    """

    layer: int
    cut: int
    depth: int
    states: torch.Tensor = field(repr=False)
    embeds: torch.Tensor = field(repr=False)
    visual: torch.Tensor = field(repr=False)
    places: torch.Tensor | None = field(repr=False)
    grid: VideoGrid | None
    visual_at_first: int
    before: LayerProjections = field(repr=False)
    at: LayerProjections = field(repr=False)
    carried: Any = field(default=None, repr=False)
    waiting: int = 0
    watched: Mapping[tuple[int, str], torch.Tensor] = field(default_factory=dict, repr=False)
    prompt: int = 0

    @property
    def rows(self) -> int:
        """Rows of the prompt, text and visual."""
        return int(self.states.shape[0])

    @cached_property
    def last(self) -> torch.Tensor:
        """(1,) the last row."""
        return torch.tensor([self.rows - 1], device=self.states.device)

    @cached_property
    def after(self) -> torch.Tensor:
        """(text,) every row behind the last visual token, at least the last row of the prompt."""
        first = min(int(self.visual[-1]) + 1, self.rows - 1)
        return torch.arange(first, self.rows, device=self.states.device)

    def kept_with_text(self, chosen: torch.Tensor) -> torch.Tensor:
        """(kept,) ascending rows: all text, and of ``visual`` those at the places ``chosen``."""
        stays = torch.ones(self.rows, dtype=torch.bool, device=self.states.device)
        stays[self.visual] = False
        stays[self.visual[chosen]] = True
        return stays.nonzero()[:, 0]


@dataclass(frozen=True, eq=False)
class Decision:
    """What a method decided before one layer.

    Args:
        kept: (kept,) int64 rows that go on, ascending and unique; each keeps its place in the prompt.
        entries: (going on, row, weight): what each of ``kept``, counted from 0, is the weighted sum of; None:
            of itself.
        carried: handed on to the method's next decision.
        done: nothing more is to be decided for this prompt.
        aside: the rows that do not go on are set aside with the states they have here.
        back: rows set aside come back with those states before ``kept`` is taken, which then counts all
            ``rows + waiting`` of the view, in their order in the prompt.
        heads: (key heads,) bool, which key heads still count for this prompt from here up, now and later;
            what the others come to is taken as 0. None: as before.
    """

    kept: torch.Tensor
    entries: Entries | None = None
    carried: Any = None
    done: bool = False
    aside: bool = False
    back: bool = False
    heads: torch.Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class InLLMMethod(ABC):
    """Lets fewer visual tokens through the upper layers of a language model.

    Text stays. Layers below the first cut are not touched. Subclasses add options as fields and implement
    :meth:`cuts` and :meth:`decide`.

    Args:
        keep_ratio: share of the visual tokens that is left after the last cut, in (0, 1].
        keep_tokens: number of visual tokens left after the last cut; give one of the two. Neither: what the
            method was published with.
        compact_below: whether the layers below the cuts also forget, once the prompt is through, what did not
            go all the way up, so that all layers hold the same entries. The prompt saw it there; what comes
            later does not.

    Class attributes:
        needs: names of what :meth:`decide` reads: "attention", "projections", "states", "grid", "parts".
        causal: no in-LLM method is; the question has to be there.
        prunes_heads: whether decisions name heads.
        can_compact: whether ``compact_below`` may be given.
        first_cut: the lowest layer before which :meth:`decide` can be asked; 0 for methods that do not need a
            layer below.
    """

    keep_ratio: float | None = None
    keep_tokens: int | None = None
    compact_below: bool = False

    needs: ClassVar[tuple[str, ...]] = ()
    causal: ClassVar[bool] = False
    first_cut: ClassVar[int] = 1
    prunes_heads: ClassVar[bool] = False
    can_compact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        Budget(self.keep_ratio, self.keep_tokens)
        check_flag("compact_below", self.compact_below)
        if self.compact_below and not self.can_compact:
            raise InvalidValueError(
                f"compact_below must be left out of {type(self).__name__}: what some of its layers hold has "
                "never been in others, or is still wanted"
            )

    @property
    def budget(self) -> Budget:
        """The given budget."""
        return Budget(self.keep_ratio, self.keep_tokens)

    def keeps_everything(self, visual: int) -> bool:
        """Whether all of ``visual`` tokens stay, so that :meth:`decide` need not be asked."""
        return self.budget.is_given and self.budget.tokens(visual) == visual

    @abstractmethod
    def cuts(self, depth: int) -> tuple[int, ...]:
        """Layers before which :meth:`decide` is asked, ascending, in a model of ``depth`` layers."""

    def checked_cuts(self, depth: int) -> tuple[int, ...]:
        """:meth:`cuts`; InvalidValueError when the model is not so deep."""
        cuts = self.cuts(depth)
        if any(not self.first_cut <= cut < depth for cut in cuts) or list(cuts) != sorted(set(cuts)):
            raise InvalidValueError(
                f"{type(self).__name__} cannot act before the layers {cuts}: this model has {depth}, so they "
                f"must be ascending numbers from {self.first_cut} to {depth - 1}"
                + (" (tokens dropped before layer 0 are the pre_llm stage's)" if self.first_cut else "")
            )
        return cuts

    def watched(self, depth: int) -> tuple[tuple[int, str], ...]:
        """(layer, part) of each part of a layer that :meth:`watch` is shown; none unless overridden."""
        return ()

    def watch(self, call: PartCall) -> torch.Tensor:
        """(rows, ...) what :attr:`PromptView.watched` is to tell about ``call``, for each of its rows."""
        raise NotImplementedError(f"{type(self).__name__} watches {call.part} and does not say what for")

    @abstractmethod
    def decide(self, view: PromptView) -> Decision:
        """Decide which rows go on; changes nothing that it is given. Called only where something may go."""


def scaled_layer(number: int, out_of: int, depth: int) -> int:
    """A layer chosen for a model of ``out_of`` layers, at the same share of ``depth``, at least 1."""
    return max(1, number * depth // out_of)
