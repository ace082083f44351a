"""ViLaMP against plain loops in float64, and its weights by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from streamprune.budget import Budget
from streamprune.pre_llm.vilamp import ViLaMP
from streamprune.reduce import reduce_tokens
from streamprune.reduction import Reduction
from streamprune.tokens import VideoGrid

Floats = npt.NDArray[np.float64]


def made(frames: int, rows: int, cols: int, *, seed: int = 0) -> dict[str, torch.Tensor]:
    """Features in scenes of three frames, tokens in the space of the question, and the question."""
    generator = torch.Generator().manual_seed(seed)
    scene = torch.arange(frames) // 3
    look = torch.randn(int(scene[-1]) + 1, rows, cols, 10, generator=generator)[scene]
    meaning = torch.randn(int(scene[-1]) + 1, 1, 1, 7, generator=generator)[scene]
    return {
        "features": look + 0.5 * torch.randn(frames, rows, cols, 10, generator=generator),
        "image_embeds": meaning + 0.4 * torch.randn(frames, rows, cols, 7, generator=generator),
        "text_embeds": torch.randn(3, 7, generator=generator),
    }


def run(clip: dict[str, torch.Tensor], **options: Any) -> Reduction:
    signals = {name: clip[name] for name in ("image_embeds", "text_embeds")}
    return reduce_tokens(clip["features"], "vilamp", signals=signals, **options)


def cosine(a: Floats, b: Floats) -> Floats:
    result: Floats = (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
    return result


def reference(
    x: Floats,
    image: Floats,
    text: Floats,
    key_frames: list[int],
    *,
    redundancy: float,
    temperature: float,
    as_released: bool,
) -> list[Floats]:
    """Every row, for arrays (frames, tokens, channels) and (pieces, channels)."""
    question = (text / np.linalg.norm(text, axis=1, keepdims=True)).mean(0)
    rows: list[Floats] = []
    number = -1
    for t in range(len(x)):
        if t in key_frames:
            number += 1
            rows += list(x[t])
            continue
        score = cosine(image[t], question)
        if number >= 0:
            score = score - redundancy * cosine(x[t], x[number if as_released else key_frames[number]])
        weight = np.exp((score - score.max()) / temperature)
        rows.append(weight / weight.sum() @ x[t])
    return rows


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((14, 5, 5), {"num_key_frames": 4}),
        ((14, 5, 5), {"num_key_frames": 4, "as_released": False}),
        ((9, 4, 6), {"num_key_frames": 5, "temperature": 0.3, "redundancy_weight": 0.5, "fill_gaps": False}),
        ((9, 4, 6), {"num_key_frames": 0, "temperature": 1.0}),
        ((3, 4, 4), {"num_key_frames": 32}),
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_agrees_with_plain_loops(shape: tuple[int, int, int], options: dict[str, Any], seed: int) -> None:
    clip = made(*shape, seed=seed)
    frames, tokens = shape[0], shape[1] * shape[2]
    x, image = (
        clip[name].double().numpy().reshape(frames, tokens, -1) for name in ("features", "image_embeds")
    )
    text = clip["text_embeds"].double().numpy()
    reduction = run(clip, **options)
    kept = torch.bincount(reduction.index // tokens, minlength=frames)
    key_frames = (kept == tokens).nonzero()[:, 0].tolist()
    assert set(kept.tolist()) <= {1, tokens}
    relevance = torch.from_numpy(
        cosine(image.mean(1), (text / np.linalg.norm(text, axis=1)[:, None]).mean(0))
    )
    method = ViLaMP(**options)
    looks = torch.from_numpy(image.mean(1))
    assert key_frames == method.key_frames(looks, relevance, min(frames, options["num_key_frames"]))
    expected = reference(
        x,
        image,
        text,
        key_frames,
        redundancy=options.get("redundancy_weight", 1.0),
        temperature=options.get("temperature", 0.01),
        as_released=options.get("as_released", True),
    )
    np.testing.assert_allclose(reduction.features, np.stack(expected), atol=1e-4)


@pytest.mark.parametrize(
    ("budget", "key_frames"),
    [
        (Budget(keep_ratio=0.1), 3),
        (Budget(keep_tokens=32), 0),
        (Budget(keep_tokens=5), 0),
        (Budget(keep_tokens=32 + 195), 1),
        (Budget(keep_tokens=32 + 195 * 32 - 1), 31),
    ],
)
def test_as_many_key_frames_as_fit(budget: Budget, key_frames: int) -> None:
    method, grid = ViLaMP(budget=budget), VideoGrid(32, 14, 14)
    assert method.key_frame_count(grid) == key_frames
    assert method.count(grid) == 196 * key_frames + 32 - key_frames


def test_counts_of_whole_and_merged_frames() -> None:
    clip = made(12, 4, 5)
    assert len(run(clip, num_key_frames=4)) == 20 * 4 + 8
    assert ViLaMP(num_key_frames=4).count(VideoGrid(12, 4, 5)) == 88
    assert ViLaMP(num_key_frames=4, fill_gaps=False).count(VideoGrid(12, 4, 5)) is None


def test_a_still_clip_spreads_its_key_frames() -> None:
    clip = {name: value[:1].expand(9, -1, -1, -1) for name, value in made(1, 4, 4).items() if value.ndim == 4}
    clip["text_embeds"] = made(1, 4, 4)["text_embeds"]
    kept = torch.bincount(run(clip, num_key_frames=3).index // 16, minlength=9)
    assert kept.tolist() == [16, 1, 1, 1, 16, 1, 1, 16, 1]
    assert len(run(clip, num_key_frames=3, fill_gaps=False)) == 16 + 8


def test_copies_of_the_key_frame_are_averaged_evenly_where_relevance_is_even() -> None:
    clip = made(1, 4, 4)
    features = clip["features"].expand(4, -1, -1, -1)
    even = {"image_embeds": torch.ones(4, 4, 4, 7), "text_embeds": clip["text_embeds"]}
    reduction = reduce_tokens(
        features, "vilamp", signals=even, num_key_frames=1, fill_gaps=False, as_released=False
    )
    weights = reduction.weights.to_dense()[16:]
    torch.testing.assert_close(weights.sum(1), torch.ones(3))
    torch.testing.assert_close(weights[0, 16:32], torch.full((16,), 1 / 16), atol=1e-4, rtol=0)


def test_a_low_temperature_takes_the_best_token() -> None:
    clip = made(6, 4, 4)
    reduction = run(clip, num_key_frames=0, temperature=1e-6)
    torch.testing.assert_close(reduction.features, clip["features"].reshape(96, 10)[reduction.index])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"num_key_frames": -1}, ValueError),
        ({"num_key_frames": 2.0}, TypeError),
        ({"similarity_threshold": 1.2}, ValueError),
        ({"relevance_threshold": None}, TypeError),
        ({"redundancy_weight": -1}, ValueError),
        ({"temperature": 0}, ValueError),
        ({"budget": Budget(keep_ratio=0.5), "num_key_frames": 8}, ValueError),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=list(options)[-1]):
        ViLaMP(**options)
