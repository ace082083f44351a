"""KVzip: what the model looks at when it reads the same context once more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.checks import check_count
from streamprune.errors import InvalidTypeError
from streamprune.kv.base import Decoding, Policy, Replacement, always_above
from streamprune.kv.view import PROMPT_TEXT, LayerView

# rows of an attention map that exist at a time
_QUERY_ROWS = 128


@dataclass(frozen=True, kw_only=True)
class KVzip(Policy):
    """Keep the entries that are needed to say the context again, whatever may be asked about it.

    After a prompt the model reads its context a second time, part by part, with the cache in place; an entry
    is worth the most attention that it gets from the part it belongs to. That takes about as long as reading
    the prompt, and is left out while nothing has to be dropped. Nothing of the second reading stays.

    Where it is known which tokens are visual, these are the context, and the text of prompts stays, so that
    the budget must leave room for it, and a prompt without visual tokens drops nothing. Else all tokens of
    every prompt are. Answers are not read again; their entries stay before all others.

    Args:
        part: tokens read again at a time, at least 1; parts of one context are equally long.
        overlap: tokens before a part that lead into it, 0 or more.
        instruction: token ids that ask for the context, in front of every part; none by default.
        sinks: first tokens, which every query may also look at and which stay.

    Source: arXiv 2505.23416 and its release: softmax over the sinks, the part's entries and what is read, and
    the largest attention of all queries and of the query heads of a group. As in its uniform variant all
    heads and layers hold equally many entries; the published threshold over all heads would need caches whose
    heads differ in length. A video is read again as its features, at the places it would have if it followed
    the prompt, and without the release's words before it, which depend on a tokenizer: give them as
    ``instruction``.
    """

    part: int = 2000
    overlap: int = 8
    instruction: Sequence[int] = ()
    sinks: int = 4
    decoding: Decoding = "grow"

    needs: ClassVar[tuple[str, ...]] = ("queries",)
    rereads: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("part", self.part)
        check_count("overlap", self.overlap, least=0)
        check_count("sinks", self.sinks, least=0)
        if isinstance(self.instruction, str) or not isinstance(self.instruction, Sequence):
            raise InvalidTypeError(f"instruction must be a list of token ids, got {self.instruction!r}")
        for token in self.instruction:
            check_count("instruction", token, least=0)
        object.__setattr__(self, "instruction", tuple(self.instruction))

    def protected(self, view: LayerView) -> torch.Tensor | None:
        """The prompt's text, where it is known, beside what the options protect."""
        given = super().protected(view)
        if view.segments is None:
            return given
        own = (view.segments == PROMPT_TEXT) & ~view.hidden
        return own if given is None else own | given

    def observe(self, view: LayerView) -> Mapping[str, torch.Tensor]:
        """ "recalled": attention of the second reading, 0 of what has not been read again."""
        recalled = view.state.get("recalled")
        return {
            "recalled": torch.zeros(view.tokens.shape, device=view.keys.device)
            if recalled is None
            else recalled
        }

    def replace(self, view: LayerView, entry_bytes: int) -> Replacement | None:
        """Nothing before a prompt has been read again."""
        return super().replace(view, entry_bytes) if view.decoding else None

    def score(self, view: LayerView) -> torch.Tensor:
        """Attention of the second reading; what was not read again is above, and the sinks."""
        recalled = view.state["recalled"]
        return always_above(recalled, view.oldest(self.sinks) | (recalled == 0))

    def recalled(self, view: LayerView, entries: torch.Tensor) -> torch.Tensor:
        """(b, h, part) float32 in (0, 1]: the most attention that ``entries`` (part,) get from this call."""
        queries = view.grouped_queries()
        own = torch.arange(view.held - view.new, view.held, device=entries.device)
        first = int(entries[0])
        columns = torch.cat([torch.arange(min(self.sinks, first), device=entries.device), entries, own])
        scaling = view.keys.shape[-1] ** -0.5 if view.scaling is None else view.scaling
        keys = view.keys.index_select(2, columns).float().mul_(scaling)[:, :, None].transpose(-1, -2)
        sinks = view.oldest(self.sinks).index_select(2, columns)
        sinks[..., min(self.sinks, first) :] = True
        best = queries.new_zeros(*view.keys.shape[:2], len(entries))
        for start in range(0, view.new, _QUERY_ROWS):
            rows = queries[..., start : start + _QUERY_ROWS, :]
            place = torch.arange(start, start + rows.shape[-2], device=entries.device) + view.held - view.new
            unseen = (columns > place[:, None]) | ~sinks[:, :, None, None]
            paid = torch.softmax((rows @ keys).masked_fill_(unseen, -torch.inf), -1)
            of_part = paid[..., min(self.sinks, first) :][..., : len(entries)]
            best = torch.maximum(best, of_part.amax((-3, -2)))
        return best.clamp_(min=torch.finfo(best.dtype).tiny)
