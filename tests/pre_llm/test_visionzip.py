"""VisionZip against a float64 reference and arithmetic done by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from streamprune.pre_llm.visionzip import VisionZip
from streamprune.reduce import reduce_tokens
from streamprune.reduction import Reduction


def made(
    frames: int, rows: int, cols: int, *, channels: int = 10, seed: int = 0
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(frames, rows, cols, channels, generator=generator)
    return features, {
        "received_attention": torch.rand(frames, rows, cols, generator=generator),
        "keys": torch.randn(frames, rows, cols, 6, generator=generator),
    }


def run(features: torch.Tensor, signals: dict[str, torch.Tensor], **options: Any) -> Reduction:
    return reduce_tokens(features, "visionzip", signals=signals, **options)


def reference(
    x: np.ndarray[Any, Any],
    score: np.ndarray[Any, Any],
    keys: np.ndarray[Any, Any],
    dominant: int,
    contextual: int,
    *,
    clip: bool,
    mean: bool,
) -> dict[int, np.ndarray[Any, Any]]:
    """Kept token -> value of one frame, tokens one at a time; in the order of the release."""
    ranked = sorted(range(len(x)), key=lambda i: (not (clip and i == 0), -score[i], i))
    kept = {i: x[i] for i in sorted(ranked[:dominant])}
    rest = [i for i in range(len(x)) if i not in kept]
    if contextual == 0:
        return kept
    step = max(1, len(rest) // contextual)
    targets = [rest[n * step] for n in range(contextual)]
    groups: dict[int, list[int]] = {target: [] for target in targets}
    for i in rest:
        if i not in groups:
            cosine = [keys[i] @ keys[t] / np.linalg.norm(keys[i]) / np.linalg.norm(keys[t]) for t in targets]
            groups[targets[int(np.argmax(cosine))]].append(i)
    for target, members in groups.items():
        if mean:
            kept[target] = x[[target, *members]].mean(0)
        else:
            kept[target] = x[target] + (x[members].mean(0) if members else 0)
    return kept


@pytest.mark.parametrize("form", ["video", "clip"])
@pytest.mark.parametrize("merge", ["sum", "mean"])
@pytest.mark.parametrize(
    ("shape", "keep_ratio", "dominant"),
    [
        ((3, 5, 7), 0.3, None),
        ((2, 6, 6), 0.1, None),
        ((4, 4, 4), 0.8, None),
        ((2, 5, 5), 0.5, 2),
        ((2, 5, 5), 0.5, 12),
        ((2, 3, 3), 0.2, None),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_the_reference(
    form: str, merge: str, shape: tuple[int, int, int], keep_ratio: float, dominant: int | None, seed: int
) -> None:
    features, signals = made(*shape, seed=seed)
    reduction = run(features, signals, keep_ratio=keep_ratio, form=form, merge=merge, dominant=dominant)
    frames, tokens = shape[0], shape[1] * shape[2]
    keep = int(tokens * keep_ratio)
    share = max(1 if form == "clip" else 0, keep * 54 // 64) if dominant is None else dominant
    emitted = 0
    for frame in range(frames):
        expected = reference(
            features[frame].reshape(tokens, -1).double().numpy(),
            signals["received_attention"][frame].flatten().double().numpy(),
            signals["keys"][frame].reshape(tokens, -1).double().numpy(),
            share,
            keep - share,
            clip=form == "clip",
            mean=merge == "mean",
        )
        rows = reduction.order[emitted : emitted + keep]
        emitted += keep
        assert (reduction.index[rows] - frame * tokens).tolist() == list(expected)
        np.testing.assert_allclose(reduction.features[rows], np.stack(list(expected.values())), atol=1e-5)
    assert emitted == len(reduction)


def test_the_released_setting_of_64_tokens_of_577() -> None:
    features, signals = made(1, 1, 577, channels=2)
    assert VisionZip(form="clip").split(64) == (54, 10)
    reduction = run(features, signals, keep_tokens=64, form="clip")
    assert len(reduction) == 64
    dominant = reduction.index[reduction.order][:54]
    assert dominant[0] == 0
    patches = signals["received_attention"].flatten()[1:]
    assert dominant[1:].tolist() == sorted((patches.argsort(descending=True)[:53] + 1).tolist())
    rest = sorted(set(range(577)) - set(dominant.tolist()))
    assert len(rest) == 523
    contextual = reduction.index[reduction.order][54:]
    assert contextual.tolist() == [rest[i] for i in range(0, 469, 52)]


@pytest.mark.parametrize(("rest", "contextual", "places"), [(23, 3, [0, 7, 14]), (9, 4, [0, 2, 4, 6])])
def test_contextual_tokens_are_evenly_spaced_from_the_first(
    rest: int, contextual: int, places: list[int]
) -> None:
    features, signals = made(1, 1, rest)
    assert run(features, signals, keep_tokens=contextual, dominant=0).index.tolist() == places


def test_equal_scores_keep_the_lowest_tokens() -> None:
    features, signals = made(2, 4, 4)
    signals["received_attention"] = torch.ones(2, 4, 4)
    reduction = run(features, signals, keep_tokens=2 * 6, dominant=4)
    emitted = reduction.index[reduction.order].reshape(2, 6)
    assert emitted.tolist() == [[0, 1, 2, 3, 4, 10], [16, 17, 18, 19, 20, 26]]


@pytest.mark.parametrize(("merge", "weights"), [("sum", [1, 0.5, 0.5]), ("mean", [1 / 3] * 3)])
def test_one_target_with_two_members(merge: str, weights: list[float]) -> None:
    features, signals = made(1, 1, 3)
    reduction = run(features, signals, keep_tokens=1, merge=merge)
    assert reduction.index.tolist() == [0]
    assert reduction.size.tolist() == [3]
    torch.testing.assert_close(reduction.weights.to_dense(), torch.tensor([weights]))


def test_a_batch_of_frames_is_each_frame_alone() -> None:
    features, signals = made(4, 5, 5)
    together = run(features, signals, keep_ratio=0.4)
    for frame in range(4):
        alone = run(
            features[frame : frame + 1],
            {name: value[frame : frame + 1] for name, value in signals.items()},
            keep_ratio=0.4,
        )
        rows = slice(frame * len(alone), (frame + 1) * len(alone))
        assert torch.equal(together.index[rows] - frame * 25, alone.index)
        assert torch.equal(together.features[rows], alone.features)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"form": "siglip"}, ValueError),
        ({"merge": "average"}, ValueError),
        ({"dominant": -1}, ValueError),
        ({"form": "clip", "dominant": 0}, ValueError),
        ({"dominant": 2.5}, TypeError),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=str(list(options)[-1])):
        VisionZip(**options)


def test_more_dominant_tokens_than_the_budget_are_refused() -> None:
    features, signals = made(2, 4, 4)
    with pytest.raises(ValueError, match="dominant must be at most the 4 tokens that a frame keeps, got 5"):
        run(features, signals, keep_ratio=0.25, dominant=5)
