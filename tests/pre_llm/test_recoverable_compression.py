"""Recoverable Compression against a float64 reference, one token at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from streamprune.budget import Budget, split_by_weight
from streamprune.pre_llm.recoverable_compression import RecoverableCompression
from streamprune.reduce import reduce_tokens
from streamprune.reduction import Reduction
from tests.ops.test_outliers import reference as outlier_factors

Floats = npt.NDArray[np.float64]


def made(frames: int, rows: int, cols: int, seed: int = 0) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Features, and signals with a few saliencies and likenesses that stand out."""
    generator = torch.Generator().manual_seed(seed)
    shape = (frames, rows, cols)
    question = torch.randn(3, 10, generator=generator)
    images = torch.randn(*shape, 10, generator=generator)
    images += 2 * torch.rand(*shape, 1, generator=generator) ** 4 * question.sum(0)
    logits = 1.8 * torch.randn(frames, rows * cols, generator=generator)
    return torch.randn(*shape, 6, generator=generator), {
        "saliency": torch.softmax(logits, 1).reshape(shape),
        "keys": torch.randn(*shape, 7, generator=generator),
        "text_embeds": question,
        "image_embeds": images,
    }


def run(features: torch.Tensor, signals: dict[str, torch.Tensor], **options: Any) -> Reduction:
    return reduce_tokens(features, "recoverable_compression", signals=signals, **options)


def outliers(values: Floats, neighbors: int) -> int:
    return int((outlier_factors(values, min(neighbors, len(values) - 1)) > 1.5).sum())


def best(values: Floats, among: list[int], count: int) -> list[int]:
    return sorted(among, key=lambda token: (-values[token], token))[:count]


def unit(rows: Floats) -> Floats:
    length: Floats = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / length


def frame_reference(
    x: Floats,
    attention: Floats,
    keys: Floats,
    text: Floats,
    scale: float,
    budget: int | None,
    o: dict[str, Any],
) -> list[tuple[int, Floats]]:
    """(token, value) of one frame as emitted."""
    n, union, k = len(x), o.get("recovery") == "union", 10 if o.get("recovery") == "union" else 20
    everyone = list(range(n))
    salient = outliers(attention, k)
    kept = max(1, int(n * (salient / n)))
    lowered = text.copy()
    if not union:
        lowered[best(attention, everyone, kept)] = text.min()
    alike = outliers(lowered, k)
    centres = -1
    if budget is None:
        recovered = int((n if union else n - kept) * (alike / n))
    else:
        rest = sorted(set(everyone) - set(best(attention, everyone, kept)))
        weights = [max(1, salient), max(1, alike), max(1, outliers(attention[rest], 10))]
        kept, recovered, centres = split_by_weight(budget - 1, weights, [n] * 3)
        if budget < 4 or centres == 0:
            kept, recovered = split_by_weight(budget, weights[:2], [n] * 2)
            centres = 0
    stay = best(attention, everyone, kept)
    stay += best(
        text, everyone if union and budget is None else [i for i in everyone if i not in stay], recovered
    )
    stay = sorted(set(stay))
    left = [i for i in everyone if i not in stay]
    if centres < 0:
        centres = int((n if union else len(stay)) * (outliers(attention[left], 10) / len(left)))
    out = [(i, x[i]) for i in stay]
    if centres == 0:
        return out
    chosen = best(attention, left, centres)
    key = {token: keys[token if o.get("own_keys") else place] for place, token in enumerate(left)}
    for centre in chosen:
        near = {j: key[centre] @ key[j] + scale * text[j] for j in left if j != centre}
        joined = sorted(near, key=lambda j: (-near[j], j))[: o.get("merge_neighbors", 32)]
        out.append((centre, x[centre] + sum(attention[j] * x[j] for j in joined)))
    others = [i for i in left if i not in chosen]
    out.append((best(attention, others, 1)[0], np.sum([attention[i] * x[i] for i in others], 0)))
    return out


@pytest.mark.parametrize(
    "options",
    [
        {"outlier_factor": 1.5},
        {"outlier_factor": 1.5, "own_keys": True, "merge_neighbors": 5, "text_weight": 4.0},
        {"outlier_factor": 1.5, "recovery": "union", "merge_neighbors": 4},
        {"outlier_factor": 1.5, "text_weight": 0.0},
        {"keep_tokens": 60},
        {"keep_tokens": 36, "recovery": "union", "own_keys": True, "merge_neighbors": 6},
        {"keep_tokens": 12},
        {"keep_tokens": 6},
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_the_reference(options: dict[str, Any], seed: int) -> None:
    features, signals = made(3, 7, 9, seed)
    reduction = run(features, signals, **options)
    x = features.double().numpy().reshape(3, 63, -1)
    given = {name: signal.double().numpy() for name, signal in signals.items()}
    budget = options["keep_tokens"] // 3 if "keep_tokens" in options else None
    emitted, values = [], []
    for frame in range(3):
        images = unit(given["image_embeds"][frame].reshape(63, -1))
        expected = frame_reference(
            x[frame],
            given["saliency"][frame].reshape(63),
            unit(given["keys"][frame].reshape(63, -1)),
            images @ unit(unit(given["text_embeds"]).mean(0)),
            options.get("text_weight", 50.0) / np.sqrt(10),
            budget,
            options,
        )
        emitted += [token + 63 * frame for token, _ in expected]
        values += [value for _, value in expected]
    assert reduction.index[reduction.order].tolist() == emitted
    np.testing.assert_allclose(reduction.features[reduction.order], np.stack(values), atol=1e-5)


def test_released_defaults() -> None:
    method = RecoverableCompression(outlier_factor=1.5)
    assert (method.recovery, method.outlier_neighbors) == ("others", None)
    assert (method.merge_neighbors, method.text_weight, method.own_keys) == (32, 50.0, False)


def test_outliers_decide_how_much_stays_frame_by_frame() -> None:
    features, signals = made(4, 8, 8, seed=2)
    whole = run(features, signals, outlier_factor=1.5)
    counts = torch.bincount(whole.index // 64, minlength=4)
    assert len(set(counts.tolist())) > 1
    for frame in range(4):
        part = {name: s if name == "text_embeds" else s[frame : frame + 1] for name, s in signals.items()}
        assert len(run(features[frame : frame + 1], part, outlier_factor=1.5)) == counts[frame]


def test_constant_scores_keep_one_token_of_a_frame() -> None:
    features, signals = made(2, 5, 5)
    constant = {name: torch.ones_like(signal) for name, signal in signals.items()}
    reduction = run(features, constant, outlier_factor=1.5)
    assert reduction.index.tolist() == [0, 25]
    assert torch.equal(reduction.features, features.reshape(50, -1)[[0, 25]])


def test_the_sum_has_the_saliency_left_over_and_centres_more_than_themselves() -> None:
    features, signals = made(1, 8, 8)
    reduction = run(features, signals, keep_tokens=20)
    weights, saliency = reduction.weights.to_dense(), signals["saliency"].flatten()
    last, centres = reduction.order[-1], []
    for row, token in enumerate(reduction.index):
        if row != last and int((weights[row] != 0).sum()) > 1:
            assert weights[row, token] == 1
            assert int((weights[row] != 0).sum()) == 33
            centres.append(int(token))
    unchanged = 20 - 1 - len(centres)
    assert centres
    assert int((weights[last] != 0).sum()) == 64 - unchanged - len(centres)
    torch.testing.assert_close(weights[last].sum(), saliency[weights[last] != 0].sum())


def test_without_outlier_factor_or_budget_everything_stays() -> None:
    features, signals = made(2, 4, 4)
    assert run(features, signals).is_identity
    assert RecoverableCompression(outlier_factor=1.5).count(run(features, signals).grid) is None


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"outlier_factor": 1.5, "budget": Budget(keep_ratio=0.5)}, ValueError),
        ({"outlier_factor": 0.9}, ValueError),
        ({"recovery": "both"}, ValueError),
        ({"outlier_neighbors": 0}, ValueError),
        ({"merge_neighbors": 1.0}, TypeError),
        ({"text_weight": -1}, ValueError),
        ({"own_keys": "yes"}, TypeError),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        RecoverableCompression(**options)
