"""Candidates of every kind, to try frame methods on."""

from __future__ import annotations

from typing import Any

import numpy as np

from streamprune.frames.content import Previews

FIELDS = ("images", "frame_features", "mean_features", "token_features", "encoder_features", "relevance")


def previews(**given: Any) -> Previews:
    """Candidates one second apart, as many as the first of ``given`` has."""
    count = len(next(iter(given.values())))
    return Previews(times_seconds=[float(second) for second in range(count)], **given)


def random_fields(seed: int, frames: int) -> dict[str, Any]:
    """Everything a method may need, of ``frames`` candidates in a few random scenes."""
    rng = np.random.default_rng(seed)
    scene = np.sort(rng.integers(0, 1 + frames // 4, frames))
    colors = rng.integers(0, 256, (scene.max() + 1, 3, 5, 3))
    grain = rng.integers(-6, 7, (frames, 9, 10, 3))
    pictures = np.clip(colors[scene].repeat(3, 1).repeat(2, 2) + grain, 0, 255).astype(np.uint8)
    tokens = rng.normal(size=(scene.max() + 1, 4, 6))[scene] + 0.2 * rng.normal(size=(frames, 4, 6))
    return {
        "images": list(pictures),
        "frame_features": tokens.mean(1) + 0.1 * rng.normal(size=(frames, 6)),
        "mean_features": tokens.mean(1),
        "token_features": tokens,
        "encoder_features": np.concatenate([tokens, tokens[..., ::-1]], -1),
        "relevance": rng.random(frames),
    }


def equal_fields(frames: int) -> dict[str, Any]:
    """The same candidate again and again."""
    one = random_fields(5, 1)
    return {name: np.concatenate([np.asarray(value)] * frames) for name, value in one.items()}


def zero_fields(frames: int) -> dict[str, Any]:
    """Black pictures and zeros."""
    return {name: np.zeros_like(value) for name, value in equal_fields(frames).items()}
