"""What goes into the language model for one question, or for a whole conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch


@dataclass(frozen=True)
class Prompt:
    """What goes into the language model for one question.

    Args:
        input_ids: (1, length) int64, with one placeholder for every visual row.
        position_ids: (1, length) int64, or (3, 1, length) for families with three axes.
        modality: key of the visual rows in ``mm_encoder_outputs``.
        visual: the family's visual rows, in the shape its ``get_*_features`` returns them.
        kept_columns: (kept,) int64, where in the prompt each row of the reduction stands.
        full_tokens: length the prompt would have had with every visual token.
        deepstack: what is added to ``visual`` rows in the first layers of the language model, a tensor like
            ``visual`` for each of these layers.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    modality: str
    visual: Any
    kept_columns: torch.Tensor
    full_tokens: int
    deepstack: tuple[torch.Tensor, ...] = ()

    def __len__(self) -> int:
        return int(self.input_ids.shape[-1])

    @property
    def reach(self) -> int:
        """Positions that it takes, the gaps between them included."""
        return int(self.position_ids.max()) + 1

    def followed_by(self, token_ids: Sequence[int]) -> Prompt:
        """The same with text behind it, at the positions that an answer would have there."""
        more = self.input_ids.new_tensor([list(token_ids)], dtype=torch.int64)
        steps = torch.arange(1, len(token_ids) + 1, device=more.device)
        return replace(
            self,
            input_ids=torch.cat([self.input_ids, more], 1),
            position_ids=torch.cat([self.position_ids, self.position_ids[..., -1:] + steps], -1),
            full_tokens=self.full_tokens + len(token_ids),
        )

    def model_inputs(self, cached: int = 0) -> dict[str, Any]:
        """Keyword arguments for the model, made afresh: generation may overwrite the features it is given.

        Args:
            cached: tokens that a cache has seen already, all visual ones among them, or 0.
        """
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        if cached:
            return {
                "input_ids": self.input_ids,
                "attention_mask": torch.ones_like(self.input_ids),
                "position_ids": self.position_ids[..., cached:],
            }
        rows = BaseModelOutputWithPooling(pooler_output=self.visual)
        if self.deepstack:
            rows["deepstack_features"] = [(layer,) for layer in self.deepstack]
        return {
            "input_ids": self.input_ids,
            # explicit: without a mask, gaps in the positions read as the start of another packed sequence
            "attention_mask": torch.ones_like(self.input_ids),
            "position_ids": self.position_ids,
            "mm_encoder_outputs": {self.modality: rows},
        }
