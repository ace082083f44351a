"""The grid and the tokens refuse nonsense and say what was expected."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from streamprune.errors import SignalError
from streamprune.tokens import VideoGrid, VisualTokens


def test_a_grid_counts_its_tokens() -> None:
    grid = VideoGrid(3, 4, 5)
    assert (grid.tokens_per_frame, grid.tokens) == (20, 60)
    assert grid == VideoGrid(3, 4, 5)


@pytest.mark.parametrize("sides", [(0, 4, 5), (3, -1, 5), (3, 4, 2.0), (3, 4, True), ("3", 4, 5)])
def test_a_grid_has_positive_integer_sides(sides: tuple[Any, Any, Any]) -> None:
    with pytest.raises(ValueError, match=r"VideoGrid\.(frames|rows|cols) must be an integer of at least 1"):
        VideoGrid(*sides)


def test_from_grid_wraps_without_copying() -> None:
    features = torch.randn(2, 3, 4, 5)
    tokens = VisualTokens.from_grid(features, pts_seconds=(0.0, 0.5))
    assert tokens.features.data_ptr() == features.data_ptr()
    assert tokens.grid == VideoGrid(2, 3, 4)
    assert len(tokens) == 24
    assert torch.equal(tokens.frames[1, 7], features[1, 1, 3])


@pytest.mark.parametrize(
    ("features", "error", "said"),
    [
        (torch.zeros(2, 3, 4), ValueError, r"got shape \(2, 3, 4\)"),
        (torch.zeros(2, 0, 4, 5), ValueError, "non-empty"),
        (torch.zeros(0, 3, 4, 5), ValueError, "non-empty"),
        (torch.zeros(2, 3, 4, 5, dtype=torch.int64), TypeError, "must be floating point"),
        ([[1.0]], TypeError, "must be a torch tensor"),
        (None, TypeError, "must be a torch tensor"),
    ],
)
def test_from_grid_refuses(features: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        VisualTokens.from_grid(features)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"features": torch.zeros(23, 5)}, ValueError, "24 tokens"),
        ({"pts_seconds": (0.0,)}, ValueError, r"one time per frame \(2\), got 1"),
        ({"pts_seconds": (0.0, float("nan"))}, ValueError, "finite numbers of seconds, got nan"),
        ({"pts_seconds": 3.0}, TypeError, "pts_seconds must be a tuple"),
        ({"size": torch.ones(23)}, ValueError, "size must be"),
        ({"signals": [torch.zeros(2)]}, TypeError, "signals must map names to tensors, got list"),
    ],
)
def test_parts_must_fit_together(arguments: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        VisualTokens(**{"features": torch.zeros(24, 5), "grid": VideoGrid(2, 3, 4), **arguments})


def test_a_signal_is_checked_when_asked_for() -> None:
    signals = {"saliency": torch.zeros(2, 3, 4), "gap": torch.tensor([1.0, float("inf")])}
    tokens = VisualTokens.from_grid(torch.zeros(2, 3, 4, 5), signals)
    assert tokens.signal("saliency", (2, None, 4)) is signals["saliency"]
    with pytest.raises(SignalError, match=r"must have shape \(2, 3, 5\), got \(2, 3, 4\)"):
        tokens.signal("saliency", (2, 3, 5))
    with pytest.raises(SignalError, match=r"'text' of shape \(\*\) .* not given \(given: gap, saliency\)"):
        tokens.signal("text", (None,))
    with pytest.raises(SignalError, match="must be finite"):
        tokens.signal("gap", (2,))


def test_a_signal_is_computed_only_when_asked_for() -> None:
    class Lazy(dict[str, torch.Tensor]):
        asked = 0

        def __missing__(self, name: str) -> torch.Tensor:
            self.asked += 1
            return torch.zeros(2)

    lazy = Lazy()
    tokens = VisualTokens.from_grid(torch.zeros(2, 3, 4, 5), lazy)
    assert lazy.asked == 0
    tokens.signal("times", (2,))
    assert lazy.asked == 1


def test_places_invert_the_flat_index() -> None:
    grid = VideoGrid(3, 4, 5)
    frame, row, col = grid.places(torch.arange(grid.tokens))
    assert torch.equal(frame * 20 + row * 5 + col, torch.arange(60))
    assert (int(row.max()), int(col.max())) == (3, 4)
    assert [int(ids[47]) for ids in (frame, row, col)] == [2, 1, 2]
