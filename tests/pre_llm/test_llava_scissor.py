"""LLaVA-Scissor against a float64 reference that follows connections one by one, and by hand."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from streamprune.budget import Budget
from streamprune.pre_llm.llava_scissor import LLaVAScissor
from streamprune.reduce import reduce_tokens
from streamprune.tokens import VideoGrid
from tests.contract.table import clip

Floats = npt.NDArray[np.float64]


def cosine_of(x: Floats) -> Floats:
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(unit @ unit.T)


def groups_above(cosine: Floats, frame: list[int], threshold: float) -> tuple[list[list[int]], list[int]]:
    """Groups of rows connected inside their frames and the leader of each, ordered by leader."""
    rows = range(len(frame))
    near = [[j for j in rows if frame[i] == frame[j] and cosine[i, j] > threshold] for i in rows]
    groups, seen = [], set[int]()
    for start in rows:
        stack, members = [start], set[int]()
        while stack:
            row = stack.pop()
            if row not in seen:
                seen.add(row)
                members.add(row)
                stack += near[row]
        if members:
            groups.append(sorted(members))
    found = sorted((min(group, key=lambda row: (-len(near[row]), row)), group) for group in groups)
    return [group for _, group in found], [leader for leader, _ in found]


def threshold_leaving(cosine: Floats, frame: list[int], count: int) -> float:
    """A threshold between the weakest cosine that has to connect and the next."""
    rows = range(len(frame))
    values = sorted(
        {cosine[i, j] for i in rows for j in rows if i < j and frame[i] == frame[j]}, reverse=True
    )
    for above, below in zip(values, [*values[1:], values[-1] - 1], strict=True):
        if len(groups_above(cosine, frame, (above + below) / 2)[0]) <= count:
            return float((above + below) / 2)
    return -2.0


def reference(
    features: Floats, threshold: float | None, counts: tuple[int, int] = (0, 0)
) -> tuple[list[int], Floats]:
    """Where the output tokens stand and their values, for (frames, tokens, channels)."""
    _, per_frame, channels = features.shape
    x = features.reshape(-1, channels)
    frame = [token // per_frame for token in range(len(x))]
    index, values, of_rows = list(range(len(x))), x, frame
    for count in counts:
        cosine, step = cosine_of(values), threshold
        if step is None:
            step = 2.0 if len(values) <= count else threshold_leaving(cosine, of_rows, count)
        groups, leaders = groups_above(cosine, of_rows, step)
        values = np.stack([values[group].mean(0) for group in groups])
        index, of_rows = [index[leader] for leader in leaders], [0] * len(leaders)
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    nearest = (x @ unit.T).argmax(1)
    joined = [[values[row], *x[nearest == row]] for row in range(len(values))]
    return index, np.stack([np.mean(members, axis=0) for members in joined])


@pytest.mark.parametrize("threshold", [0.2, 0.45, 0.6, 0.8, 0.95, 1.5])
@pytest.mark.parametrize("shape", [(4, 4, 4), (1, 5, 5), (6, 3, 2)])
def test_thresholds_against_the_reference(threshold: float, shape: tuple[int, int, int]) -> None:
    features = clip(*shape, 6)
    reduction = reduce_tokens(features, "llava_scissor", similarity_threshold=threshold)
    index, values = reference(features.flatten(1, 2).double().numpy(), threshold)
    assert reduction.index.tolist() == index
    np.testing.assert_allclose(reduction.features, values, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "keep_ratio", "spatial_part", "between"),
    [
        ((4, 4, 4), 0.25, 0.5, 32),
        ((4, 4, 4), 0.25, 0.0, 64),
        ((4, 4, 4), 0.25, 1.0, 16),
        ((3, 4, 5), 0.6, 0.5, 46),
        ((6, 3, 2), 0.05, 1.0, 6),
    ],
)
def test_budgets_against_the_reference(
    shape: tuple[int, int, int], keep_ratio: float, spatial_part: float, between: int
) -> None:
    features, kept = clip(*shape, 6), int(math.prod(shape) * keep_ratio)
    reduction = reduce_tokens(features, "llava_scissor", keep_ratio=keep_ratio, spatial_part=spatial_part)
    index, values = reference(features.flatten(1, 2).double().numpy(), None, (between, kept))
    assert len(reduction) == kept
    assert reduction.index.tolist() == index
    np.testing.assert_allclose(reduction.features, values, atol=1e-5)


def test_a_path_is_one_token_and_stands_in_its_middle() -> None:
    # at a threshold of cos 35 degrees the first three are a path, the others apart
    angles = [math.radians(angle) for angle in (0, 30, 60, 150, 250)]
    features = torch.tensor([[math.cos(angle), math.sin(angle)] for angle in angles]).reshape(1, 1, 5, 2)
    reduction = reduce_tokens(features, "llava_scissor", similarity_threshold=math.cos(math.radians(35)))
    assert reduction.index.tolist() == [1, 3, 4]
    assert reduction.source.tolist() == [0, 0, 0, 1, 2]


def test_equal_tokens_become_one_and_two_groups_their_means() -> None:
    alike = reduce_tokens(torch.ones(3, 2, 2, 4), "llava_scissor", similarity_threshold=0.9)
    torch.testing.assert_close(alike.features, torch.ones(1, 4))
    groups = torch.eye(2).repeat(4, 1).reshape(2, 2, 2, 2) * torch.tensor([1.0, 3.0])[:, None, None, None]
    apart = reduce_tokens(groups, "llava_scissor", similarity_threshold=0.9)
    assert apart.features.tolist() == [[2.0, 0.0], [0.0, 2.0]]
    assert apart.size.tolist() == [4.0, 4.0]


def test_nothing_is_above_a_threshold_above_one() -> None:
    features = clip(2, 3, 3)
    reduction = reduce_tokens(features, "llava_scissor", similarity_threshold=1.5)
    assert reduction.index.tolist() == list(range(18))
    torch.testing.assert_close(reduction.features, features.flatten(0, 2))


def test_a_token_of_another_frame_may_be_the_most_similar_one() -> None:
    angles = torch.deg2rad(torch.tensor([[0.0, 40.0], [38.0, 90.0]]))
    features = torch.stack([angles.cos(), angles.sin()], -1).reshape(2, 1, 2, 2)
    reduction = reduce_tokens(features, "llava_scissor", similarity_threshold=math.cos(math.radians(45)))
    # 0 and 40 degrees join in their frame, and with 38 over the clip; 40 is nearer to none else
    assert reduction.index.tolist() == [0, 3]
    weights = reduction.weights.to_dense()
    torch.testing.assert_close(weights.sum(1), torch.ones(2))
    # of four: the mean of a mean and a token, (1/4, 1/4, 1/2), and each of the three tokens that joined it
    torch.testing.assert_close(weights[0, :3], torch.tensor([5.0, 5.0, 6.0]) / 16)


def test_the_count_is_the_budget_and_open_with_a_threshold() -> None:
    grid = VideoGrid(3, 4, 4)
    assert LLaVAScissor(budget=Budget(keep_ratio=0.25)).count(grid) == 12
    assert LLaVAScissor(similarity_threshold=0.9).count(grid) is None


def test_defaults() -> None:
    assert asdict(LLaVAScissor()) == {
        "budget": asdict(Budget()),
        "similarity_threshold": None,
        "spatial_part": 0.5,
    }


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"similarity_threshold": 2.5}, ValueError),
        ({"similarity_threshold": "high"}, TypeError),
        ({"spatial_part": 1.1}, ValueError),
        ({"budget": Budget(keep_ratio=0.5), "similarity_threshold": 0.9}, ValueError),
    ],
    ids=str,
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=list(options)[-1]):
        LLaVAScissor(**options)
