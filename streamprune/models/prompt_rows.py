"""Which rows of a batch of prompts are still there, and which of them are visual tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from streamprune.errors import InvalidValueError
from streamprune.in_llm.base import Decision
from streamprune.ops.merging import Entries
from streamprune.reduction import weighted_sum
from streamprune.tokens import VideoGrid


@dataclass(frozen=True, eq=False)
class VisualRows:
    """The visual tokens among the rows that one prompt of a call brings.

    Attributes:
        rows: (visual,) int64, counted with the padding, ascending.
        places: (visual,) int64 flat index of each on the grid, None when there is no one grid.
        grid: the full grid of the one video.
    """

    rows: torch.Tensor
    places: torch.Tensor | None = None
    grid: VideoGrid | None = None


@dataclass(frozen=True, eq=False)
class PromptRows:
    """One prompt of a batch between two layers.

    Attributes:
        rows: (left,) int64, which rows of the call are left, without padding, ascending.
        at: (left,) int64, where they stand in the batch's tensors now.
        visual: (visual,) int64, which of ``rows`` are visual tokens.
        places, grid: as in :class:`VisualRows`.
        visual_at_first: visual tokens before the first decision.
        carried: handed on by the method.
        done: whether the method has decided all it wants to.
        whole: the prompt before rows were set aside, and its (rows, width) states then.
    """

    rows: torch.Tensor
    at: torch.Tensor
    visual: torch.Tensor
    places: torch.Tensor | None
    grid: VideoGrid | None
    visual_at_first: int
    carried: Any = field(default=None, repr=False)
    done: bool = False
    whole: tuple[PromptRows, torch.Tensor] | None = field(default=None, repr=False)

    @classmethod
    def begin(cls, length: int, valid: torch.Tensor | None, visual: VisualRows | None) -> PromptRows:
        """A prompt of ``length`` rows with padding; those in ``valid`` (length,) count; None: all."""
        device = None if visual is None else visual.rows.device
        rows = torch.arange(length, device=device) if valid is None else valid.nonzero()[:, 0].to(device)
        if visual is None:
            return cls(rows, rows, rows[:0], None, None, 0)
        return cls(
            rows,
            rows,
            torch.searchsorted(rows, visual.rows),
            visual.places,
            visual.grid,
            len(visual.rows),
        )

    def states(self, batch: torch.Tensor) -> torch.Tensor:
        """(left, width) this prompt's rows of ``batch``, its (rows, width) part of the batch's states."""
        return batch[self.at]

    @property
    def waiting(self) -> int:
        """Rows that were set aside."""
        return 0 if self.whole is None else len(self.whole[0].rows) - len(self.rows)

    def with_all(self, own: torch.Tensor) -> tuple[PromptRows, torch.Tensor]:
        """The prompt and its states when what was set aside is back.

        Args:
            own: (left, width) the states of the rows that are left.
        """
        if self.whole is None:
            return self, own
        prompt, states = self.whole
        states = states.clone()
        states[torch.searchsorted(prompt.rows, self.rows)] = own
        return prompt, states

    def after(self, decision: Decision) -> PromptRows:
        """What is left after ``decision``; InvalidValueError when that cannot be."""
        kept = decision.kept
        ascending = kept.ndim == 1 and len(kept) > 0 and bool((kept[1:] > kept[:-1]).all())
        if not ascending or int(kept[0]) < 0 or int(kept[-1]) != len(self.rows) - 1:
            raise InvalidValueError(
                f"kept must be (rows,) ascending rows from 0 to {len(self.rows) - 1} and hold the last one, "
                "from which the next word comes; the in_llm method decided otherwise"
            )
        stays = torch.isin(self.visual, kept)
        return replace(
            self,
            rows=self.rows[kept],
            at=kept,
            visual=torch.searchsorted(kept, self.visual[stays]),
            places=None if self.places is None else self.places[stays],
            carried=decision.carried,
            done=decision.done,
        )


@dataclass(frozen=True, eq=False)
class MergedRows:
    """What a decision made of rows that it merged.

    Attributes:
        rows: (left before,) int64 rows of the call.
        kept: (kept,) int64, which of ``rows`` went on.
        entries: (going on, row, weight) as in :class:`Decision`.
    """

    rows: torch.Tensor
    kept: torch.Tensor
    entries: Entries

    @classmethod
    def of(cls, prompt: PromptRows, decision: Decision | None) -> MergedRows | None:
        """What ``decision`` made of ``prompt``; None when it merged nothing."""
        if decision is None or decision.entries is None:
            return None
        whole = prompt.whole[0] if decision.back and prompt.whole is not None else prompt
        return cls(whole.rows, decision.kept, decision.entries)


@dataclass(frozen=True, eq=False)
class Batch:
    """The states of a batch after a decision, with what the rows of every prompt are.

    Attributes:
        states: (batch, rows, width), prompts of unequal length filled up with zero rows.
        index: (batch, rows) int64, which row of the call each one is; 0 for those that fill up.
        valid: (batch, rows) bool, False for those that fill up; None when there are none.
        prompts: one entry a prompt.
    """

    states: torch.Tensor
    index: torch.Tensor
    valid: torch.Tensor | None
    prompts: tuple[PromptRows, ...]


def apply_decisions(
    states: torch.Tensor,
    prompts: Sequence[PromptRows],
    decisions: Sequence[Decision | None],
    *,
    pad_left: bool,
) -> Batch:
    """Let the rows go on that were decided for; None keeps all of a prompt."""
    parts, left = [], []
    for number, (prompt, decision) in enumerate(zip(prompts, decisions, strict=True)):
        own = prompt.states(states[number])
        if decision is None:
            parts.append(own)
            left.append(prompt)
            continue
        if decision.back:
            prompt, own = prompt.with_all(own)
        entries, kept = decision.entries, decision.kept
        parts.append(own[kept] if entries is None else weighted_sum(entries, own, len(kept)))
        after = prompt.after(decision)
        left.append(replace(after, whole=(prompt, own)) if decision.aside else after)
    longest = max(len(part) for part in parts)
    index = states.new_zeros((len(parts), longest), dtype=torch.int64)
    valid = states.new_zeros((len(parts), longest), dtype=torch.bool)
    filled = states.new_zeros((len(parts), longest, states.shape[-1]))
    for number, (part, prompt) in enumerate(zip(parts, left, strict=True)):
        first = longest - len(part) if pad_left else 0
        here = slice(first, first + len(part))
        filled[number, here], index[number, here], valid[number, here] = part, prompt.rows, True
        left[number] = replace(prompt, at=torch.arange(here.start, here.stop, device=states.device))
    unequal = any(len(part) != longest for part in parts)
    return Batch(filled, index, valid if unequal else None, tuple(left))
