"""KeyDiff: keys that point where the others do not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import cosine_similarity, normalize

from streamprune.kv.base import Policy
from streamprune.kv.view import LayerView


@dataclass(frozen=True, kw_only=True)
class KeyDiff(Policy):
    """Keep the entries whose keys are least similar to the mean direction of a head's keys.

    The mean is taken over the entries held, so that earlier choices shape later ones; a prompt that is read
    in parts is reduced part by part, as published.

    Source: arXiv 2504.15364, as in the kvpress library. Keys of zeros are similar to nothing.
    """

    def score(self, view: LayerView) -> torch.Tensor:
        """Minus the cosine to the mean of the unit keys, padding left out."""
        keys = view.keys.float()
        units = normalize(keys, dim=-1).masked_fill(view.hidden[..., None], 0.0)
        entries = (~view.hidden).sum(-1)[..., None, None].clamp(min=1)
        return -cosine_similarity(keys, units.sum(2, keepdim=True) / entries, dim=-1)
