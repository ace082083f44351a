"""CDPruner against float64 numpy, its relevance by hand, and what it does where released code breaks down."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from streamprune.pre_llm.cdpruner import CDPruner, Relevance, relevances
from streamprune.reduce import reduce_tokens
from streamprune.reduction import Reduction


def made(frames: int, rows: int, cols: int, seed: int = 0) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(frames, rows, cols, 40, generator=generator), {
        "image_embeds": torch.randn(frames, rows, cols, 9, generator=generator),
        "text_embeds": torch.randn(3, 9, generator=generator),
    }


def order_of(reduction: Reduction) -> list[int]:
    return reduction.index[reduction.order].tolist()


def written_out(
    features: torch.Tensor, signals: dict[str, torch.Tensor], each: int, sign: float, per_frame: bool
) -> list[int]:
    """The published steps in float64, one token and one pick at a time."""
    x = features.double().flatten(1, 2).numpy()
    image = signals["image_embeds"].double().flatten(1, 2).numpy()
    text = signals["text_embeds"].double().numpy()
    image /= np.linalg.norm(image, axis=-1, keepdims=True)
    text /= np.linalg.norm(text, axis=-1, keepdims=True)
    rel = sign * (image @ text.T).mean(-1)
    picked = []
    for t in range(len(x)):
        scope = rel[t] if per_frame else rel
        q = (rel[t] - scope.min() + 1e-6) / (scope.max() - scope.min())
        unit = x[t] / np.linalg.norm(x[t], axis=-1, keepdims=True)
        kernel = q[:, None] * (unit @ unit.T) * q
        left, rows = kernel.diagonal().copy(), np.zeros((0, len(kernel)))
        for _ in range(each):
            j = int(left.argmax())
            e = (kernel[j] - rows[:, j] @ rows) / np.sqrt(left[j])
            rows, left = np.vstack([rows, e]), left - e**2
            left[j] = -np.inf
            picked.append(j + t * len(kernel))
            left[np.array(picked[t * each :]) - t * len(kernel)] = -np.inf
    return picked


@pytest.mark.parametrize(("relevance", "sign"), [("unlike_text", -1.0), ("like_text", 1.0)])
@pytest.mark.parametrize("scale_over", ["clip", "frame"])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_the_steps_written_out(relevance: str, sign: float, scale_over: str, seed: int) -> None:
    features, signals = made(4, 5, 6, seed)
    reduction = reduce_tokens(
        features, "cdpruner", keep_ratio=0.4, signals=signals, relevance=relevance, scale_over=scale_over
    )
    assert order_of(reduction) == written_out(features, signals, 12, sign, scale_over == "frame")


def test_relevance_by_hand() -> None:
    cosine = torch.tensor([0.1, 0.2, 0.3, 0.4])
    image = torch.stack([cosine, (1 - cosine.square()).sqrt()], -1)[None] * 7
    text = torch.tensor([[5.0, 0.0]])
    expected = [1 + 3.3e-6, 0.6667, 0.3333, 3.3e-6]
    torch.testing.assert_close(
        relevances(image, text, "unlike_text", "clip")[0], torch.tensor(expected), atol=4e-5, rtol=0
    )
    liked = relevances(image, text, "like_text", "clip")[0]
    torch.testing.assert_close(liked, torch.tensor(expected).flip(0), atol=4e-5, rtol=0)


@pytest.mark.parametrize(("scale_over", "independent"), [("frame", True), ("clip", False)])
def test_whether_a_frame_depends_on_the_others(scale_over: str, independent: bool) -> None:
    features, signals = made(3, 6, 6)
    features = features[..., :14]
    signals["image_embeds"][1] *= 0.2
    signals["image_embeds"][1] -= 3 * signals["text_embeds"].mean(0)
    options = {"keep_ratio": 0.3, "scale_over": scale_over}
    together = order_of(reduce_tokens(features, "cdpruner", signals=signals, **options))  # type: ignore[arg-type]
    alone = []
    for t in range(3):
        of_frame = {"image_embeds": signals["image_embeds"][t : t + 1], "text_embeds": signals["text_embeds"]}
        one = reduce_tokens(features[t : t + 1], "cdpruner", signals=of_frame, **options)  # type: ignore[arg-type]
        alone += [token + 36 * t for token in order_of(one)]
    assert (together == alone) == independent


@pytest.mark.parametrize("relevance", ["unlike_text", "like_text"])
def test_equal_relevances_leave_plain_diversity(relevance: Relevance) -> None:
    angle = torch.deg2rad(torch.tensor([0.0, 10, 40, 100, 170]))
    fan = torch.stack([angle.cos(), angle.sin()], -1)[None, None]
    signals = {"image_embeds": torch.ones(1, 1, 5, 4), "text_embeds": torch.zeros(2, 4)}
    reduction = reduce_tokens(fan, "cdpruner", keep_tokens=2, signals=signals, relevance=relevance)
    assert order_of(reduction) == [0, 3]


def test_options_and_a_question_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown relevance of cdpruner 'positive'"):
        CDPruner(relevance="positive")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown scale_over of cdpruner 'batch'"):
        CDPruner(scale_over="batch")  # type: ignore[arg-type]
    features, signals = made(2, 3, 3)
    signals["text_embeds"] = signals["text_embeds"][:, :5]
    with pytest.raises(ValueError, match=r"signal 'text_embeds' must have shape \(\*, 9\), got \(3, 5\)"):
        reduce_tokens(features, "cdpruner", keep_ratio=0.5, signals=signals)
