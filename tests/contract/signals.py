"""Made-up signals for the contract: one entry per name that a method may need.

Each is made frame by frame (the first axis is the frames), except those of :data:`OF_THE_QUESTION`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from tests.contract.row import Row

# signals that belong to the question or the whole video, not to frames
OF_THE_QUESTION = ("text_embeds",)


def _spread(features: torch.Tensor) -> torch.Tensor:
    """(frames, rows, cols): how far a token is from its frame's mean."""
    spread = features.float() - features.float().mean((1, 2), keepdim=True)
    return spread.square().mean(-1)


def _attention(channel: int, sharpness: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """(frames, rows, cols) a distribution over each frame's tokens, made from one channel."""

    def make(features: torch.Tensor) -> torch.Tensor:
        logits = sharpness * features.float()[..., channel % features.shape[-1]].flatten(1)
        return torch.softmax(logits.clamp(-20, 20), 1).reshape(features.shape[:3])

    return make


def _frame_features(features: torch.Tensor) -> torch.Tensor:
    """(frames, channels) mean of each frame's tokens."""
    return features.float().mean((1, 2))


def _rolled(features: torch.Tensor) -> torch.Tensor:
    """(frames, rows, cols, channels) float32 values that differ from the features but move with them."""
    values = features.float()
    return values + 0.5 * values.roll(1, -1)


def _half(features: torch.Tensor) -> torch.Tensor:
    """(frames, rows, cols, at least 1 channel) fewer channels than the features have."""
    values = features.float()
    return values[..., : max(1, values.shape[-1] // 2)] - 0.1


def _text(features: torch.Tensor) -> torch.Tensor:
    """(3 pieces, channels) of a question that does not depend on the clip."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(3, features.shape[-1], generator=generator).to(features.device)


def _layers(first_channel: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """(frames, 5 layers, rows, cols): for each layer a distribution over each frame's tokens."""

    def make(features: torch.Tensor) -> torch.Tensor:
        return torch.stack([_attention(first_channel + 2 * n, 0.5 + n)(features) for n in range(5)], 1)

    return make


SIGNALS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "saliency": _spread,
    "frame_features": _frame_features,
    "received_attention": _attention(0, 1.0),
    "received_attention_middle": _attention(1, 1.0),
    "received_attention_shallow": _attention(2, 1.0),
    "encoder_features": _rolled,
    "keys": _half,
    "projector_sensitivity": _attention(4, 0.5),
    "image_embeds": lambda features: features.float(),
    "text_embeds": _text,
    "early_features": lambda features: features.float().roll(2, -1) + 0.3,
    "context_attention": _attention(3, 2.0),
    "query_frame_attention": lambda features: features.float().abs().mean((1, 2, 3)),
    "layer_saliency": _layers(0),
    "layer_value_similarity": _layers(1),
    "layer_value_norm": lambda features: 3 * _layers(3)(features) + 0.5,
}


def signals_of(row: Row, features: torch.Tensor) -> dict[str, torch.Tensor]:
    """The signals ``row`` needs, made from ``features`` (frames, rows, cols, channels)."""
    return {name: SIGNALS[name](features) for name in row.needs}
