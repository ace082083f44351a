"""CATP's first stage against a plain loop in float64, and its two terms on their own."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from streamprune.pre_llm.catp import CATP
from streamprune.reduce import reduce_tokens

Floats = npt.NDArray[np.float64]


def made(seed: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 5, 6, 7, generator=generator), {
        "image_embeds": torch.randn(3, 5, 6, 4, generator=generator),
        "text_embeds": torch.randn(3, 4, generator=generator),
    }


def order_of(features: torch.Tensor, signals: dict[str, torch.Tensor], **options: float) -> list[int]:
    reduction = reduce_tokens(features, "catp", signals=signals, **options)  # type: ignore[arg-type]
    return reduction.index[reduction.order].tolist()


def written_out(similar: Floats, aligned: Floats, count: int) -> list[int]:
    """The worth of every larger set computed anew; two tokens that would cover only each other are a tie."""
    picks: list[int] = []

    def worth(token: int) -> float:
        chosen = [*picks, token]
        return round(float(similar[:, chosen].max(1).sum() + aligned[chosen].sum()), 9)

    while len(picks) < count:
        left = [token for token in range(len(aligned)) if token not in picks]
        picks.append(max(left, key=lambda token: (worth(token), -token)))
    return picks


@pytest.mark.parametrize("weight", [0.0, 0.7, 20.0])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_the_steps_written_out(weight: float, seed: int) -> None:
    features, signals = made(seed)
    mean = signals["text_embeds"].double().numpy().mean(0)
    expected: list[int] = []
    for t in range(3):
        x = features[t].double().reshape(30, 7).numpy()
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        image = signals["image_embeds"][t].double().reshape(30, 4).numpy()
        aligned = (image @ mean / np.linalg.norm(image, axis=1) / np.linalg.norm(mean) + 1) / 2
        expected += [pick + 30 * t for pick in written_out((unit @ unit.T + 1) / 2, weight * aligned, 12)]
    assert order_of(features, signals, keep_ratio=0.4, alignment_weight=weight) == expected


def test_without_the_text_one_token_is_the_medoid() -> None:
    features, signals = made(4)
    unit = torch.nn.functional.normalize(features.flatten(1, 2), dim=-1)
    medoid = (unit @ unit.mT).sum(-1).argmax(1) + 30 * torch.arange(3)
    assert order_of(features, signals, keep_tokens=3, alignment_weight=0) == medoid.tolist()


def test_with_much_of_it_the_tokens_nearest_the_text_stay() -> None:
    features, signals = made(5)
    text = signals["text_embeds"].mean(0)
    cosine = torch.nn.functional.cosine_similarity(signals["image_embeds"].flatten(1, 2), text, dim=-1)
    nearest = cosine.argsort(1, descending=True)[:, :6] + 30 * torch.arange(3)[:, None]
    kept = order_of(features, signals, keep_ratio=0.2, alignment_weight=1000)
    assert sorted(kept) == nearest.flatten().sort().values.tolist()


def test_options_and_a_question_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"alignment_weight must be in \[0, 1000\]"):
        CATP(alignment_weight=-0.1)
    features, signals = made(6)
    signals["text_embeds"] = signals["text_embeds"][:, :3]
    with pytest.raises(ValueError, match=r"signal 'text_embeds' must have shape \(\*, 4\), got \(3, 3\)"):
        order_of(features, signals, keep_ratio=0.5)
