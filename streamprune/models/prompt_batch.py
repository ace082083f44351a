"""Prompts of different videos and lengths, side by side in one call of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from streamprune.models.prompt import Prompt


def joined_inputs(prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Keyword arguments for the model, the shorter prompts filled up on the left."""
    longest = max(map(len, prompts))
    ids, masks, positions = [], [], []
    for prompt in prompts:
        missing = longest - len(prompt)
        # filled with the last token of the same prompt: text, and no word that it does not hold already
        filling = prompt.input_ids[:, -1:].expand(1, missing)
        ids.append(torch.cat([filling, prompt.input_ids], 1))
        masks.append(torch.cat([torch.zeros_like(filling), torch.ones_like(prompt.input_ids)], 1))
        positions.append(torch.nn.functional.pad(prompt.position_ids, (missing, 0)))
    return {
        "input_ids": torch.cat(ids),
        "attention_mask": torch.cat(masks),
        "position_ids": torch.cat(positions, -2),
        "mm_encoder_outputs": _features(prompts),
    }


def _features(prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Visual rows of all prompts, as the family's ``get_*_features`` returns those of several videos."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    visual = [prompt.visual for prompt in prompts]
    together: Any
    if isinstance(visual[0], torch.Tensor):
        together = torch.cat(visual, 1)
    else:
        together = type(visual[0])(rows for one in visual for rows in one)
    rows = BaseModelOutputWithPooling(pooler_output=together)
    layers = list(zip(*(prompt.deepstack for prompt in prompts), strict=True))
    if layers:
        rows["deepstack_features"] = layers
    return {prompts[0].modality: rows}
