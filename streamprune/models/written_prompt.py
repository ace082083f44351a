"""A prompt with every visual token written out, and what is left of it after a reduction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from streamprune.models.chat_template import text_ids
from streamprune.models.positions import kept_positions
from streamprune.models.prompt import Prompt
from streamprune.positions import PositionRule, Positions
from streamprune.tokens import Reduction


@dataclass(frozen=True)
class KeptPrompt:
    """What a reduction leaves of a written prompt.

    Attributes:
        input_ids: (1, length).
        position_ids: (..., 1, length), as many axes as the full prompt's.
        order: (kept,) rows of the reduction in the order of the prompt.
        kept_columns: (kept,) where in the prompt each row of the reduction stands.
        full_tokens: length of the full prompt.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    order: torch.Tensor
    kept_columns: torch.Tensor
    full_tokens: int

    def with_visual(self, modality: str, visual: Any, deepstack: tuple[torch.Tensor, ...] = ()) -> Prompt:
        """The prompt with its ``visual`` rows, which the family has put in :attr:`order`."""
        return Prompt(
            input_ids=self.input_ids,
            position_ids=self.position_ids,
            modality=modality,
            visual=visual,
            kept_columns=self.kept_columns,
            full_tokens=self.full_tokens,
            deepstack=deepstack,
        )


@dataclass(frozen=True)
class WrittenPrompt:
    """A prompt in which visual tokens may stand in several runs, with text between them.

    Attributes:
        ids: (length,) int64.
        visual: (length,) bool, where the grid's tokens stand, in the order of the grid.
    """

    ids: torch.Tensor
    visual: torch.Tensor

    @classmethod
    def of_text(cls, tokenizer: Any, text: str, placeholder: int, repeated: int) -> WrittenPrompt:
        """Read ``text``, in which the id ``placeholder`` stands once for every ``repeated`` visual tokens."""
        ids = torch.tensor(text_ids(tokenizer, text))
        visual = ids == placeholder
        counts = torch.where(visual, repeated, 1)
        return cls(ids.repeat_interleave(counts), visual.repeat_interleave(counts))

    def to(self, device: torch.device) -> WrittenPrompt:
        """The same on ``device``."""
        return WrittenPrompt(self.ids.to(device), self.visual.to(device))

    def __len__(self) -> int:
        return len(self.ids)

    def keep(
        self, reduction: Reduction, positions: torch.Tensor, chosen: PositionRule | Positions = "keep"
    ) -> KeptPrompt:
        """Take out the visual tokens that ``reduction`` drops; all text stays.

        Args:
            positions: (..., length) of the full prompt.
            chosen: which of them what is left gets.
        """
        device = self.ids.device
        # rows that stand for no token have no place of their own: they take the last one
        index = torch.where(reduction.index < 0, reduction.grid.tokens - 1, reduction.index).to(device)
        rows = self.visual.nonzero()[:, 0][index]
        text = (~self.visual).nonzero()[:, 0]
        columns, sources = torch.sort(torch.cat([text, rows]), stable=True)
        places = torch.empty_like(sources)
        places[sources] = torch.arange(len(sources), device=device)
        kept = kept_positions(positions, self.visual, columns, Positions.read(chosen))
        return KeptPrompt(
            input_ids=self.ids[columns][None],
            position_ids=kept[..., None, :],
            order=sources[sources >= len(text)] - len(text),
            kept_columns=places[len(text) :],
            full_tokens=len(self),
        )
