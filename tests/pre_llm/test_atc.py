"""ATC against a float64 reference that merges cluster by cluster, and by hand."""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from streamprune.budget import Budget
from streamprune.ops.linkage import Linkage
from streamprune.pre_llm.atc import ATC
from streamprune.reduce import reduce_tokens, run_reducer
from streamprune.tokens import VideoGrid, VisualTokens
from tests.contract.table import clip


def clusters_of(frame: npt.NDArray[np.float64], count: int, linkage: Linkage) -> list[list[int]]:
    unit = frame / np.linalg.norm(frame, axis=1, keepdims=True)
    groups = [[token] for token in range(len(frame))]

    def apart(pair: tuple[list[int], list[int]]) -> float:
        distances = [1 - float(unit[a] @ unit[b]) for a in pair[0] for b in pair[1]]
        if linkage == "average":
            return sum(distances) / len(distances)
        return max(distances) if linkage == "complete" else min(distances)

    while len(groups) > count:
        one, other = min(itertools.combinations(groups, 2), key=apart)
        one += other
        groups.remove(other)
    return sorted(sorted(group) for group in groups)


@pytest.mark.parametrize("linkage", ["average", "complete", "single"])
@pytest.mark.parametrize(("shape", "keep_ratio"), [((2, 4, 5), 0.2), ((2, 3, 6), 0.6), ((1, 5, 1), 0.1)])
def test_against_the_reference(linkage: Linkage, shape: tuple[int, int, int], keep_ratio: float) -> None:
    features, per_frame = clip(*shape), shape[1] * shape[2]
    reduction = reduce_tokens(features, "atc", keep_ratio=keep_ratio, linkage=linkage)
    row = 0
    for frame in range(shape[0]):
        x = features[frame].reshape(per_frame, -1).double().numpy()
        for cluster in clusters_of(x, max(1, int(per_frame * keep_ratio)), linkage):
            assert int(reduction.index[row]) == frame * per_frame + cluster[0]
            members = (reduction.source == row).nonzero()[:, 0] - frame * per_frame
            assert members.tolist() == cluster
            np.testing.assert_allclose(reduction.features[row], x[cluster].mean(0), atol=1e-5)
            row += 1
    assert row == len(reduction)


def test_angles_by_hand_and_earlier_sizes_weigh() -> None:
    angles = [math.radians(angle) for angle in (0, 50, 1, 120, 51)]
    features = torch.tensor([[math.cos(angle), math.sin(angle)] for angle in angles])
    sized = VisualTokens(features, VideoGrid(1, 1, 5), size=torch.tensor([3.0, 1, 1, 1, 1]))
    reduction = run_reducer(ATC(budget=Budget(keep_tokens=3)), sized)
    assert reduction.source.tolist() == [0, 1, 0, 2, 1]
    assert reduction.size.tolist() == [4.0, 2.0, 1.0]
    torch.testing.assert_close(reduction.features[0], 0.75 * features[0] + 0.25 * features[2])


def test_keys_decide_where_they_are_asked_for() -> None:
    features, keys = clip(2, 4, 4), clip(2, 4, 4, 6, scene=1)
    by_keys = reduce_tokens(features, "atc", keep_ratio=0.5, metric="keys", signals={"keys": keys})
    assert torch.equal(by_keys.source, reduce_tokens(keys, "atc", keep_ratio=0.5).source)
    assert not torch.equal(by_keys.source, reduce_tokens(features, "atc", keep_ratio=0.5).source)
    assert ATC(metric="keys").needs == ("keys",)


def test_the_count_is_rounded_as_released() -> None:
    # 0.29 * 100 is a hair below 29
    assert ATC(budget=Budget(keep_ratio=0.29)).count(VideoGrid(2, 10, 10)) == 56


def test_defaults() -> None:
    assert asdict(ATC()) == {"budget": asdict(Budget()), "linkage": "average", "metric": "features"}


@pytest.mark.parametrize("options", [{"linkage": "ward"}, {"metric": "values"}], ids=str)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        ATC(**options)
