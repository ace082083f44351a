from __future__ import annotations

import numpy as np
import pytest
import torch

from streamprune.encoder.base import LayerInput, LayerSignals, TowerShape
from streamprune.encoder.earlytom import EarlyTom, FrameLikeness, merge_neighbours, segments
from tests.encoder.towers import DEPTH, SHAPE, Array, NumpyTower, pixels, run, unit


def frames_alike(table: list[float]) -> FrameLikeness:
    """Frames of one token whose cosine with the first frame is as given."""
    rows = [[similarity, (1 - similarity**2) ** 0.5] for similarity in table]
    return FrameLikeness(torch.tensor(rows)[:, None])


def test_equal_frames_are_cut_by_length_alone() -> None:
    alike = FrameLikeness(torch.ones(32, 2, 3))
    assert segments(alike, 0.8, 6, 0.9) == [*((s, s + 4) for s in range(0, 30, 5)), (30, 31)]
    assert segments(alike, 0.8, 8, 0.9) == [(0, 6), (7, 13), (14, 20), (21, 27), (28, 31)]


def test_the_running_similarity_starts_at_one() -> None:
    generator = torch.Generator().manual_seed(0)
    # every frame 0.4 like every other: 0.9 * 0.4 + 0.1 = 0.46
    apart = torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q[:7]
    states = (0.4**0.5 * apart[:1] + 0.6**0.5 * apart[1:])[:, None]
    alike = FrameLikeness(states)
    assert alike(0, 3) == pytest.approx(0.4, abs=1e-5)
    assert segments(alike, 0.5, 6, 0.9) == [(frame, frame) for frame in range(6)]
    assert segments(alike, 0.45, 6, 0.9) == [(0, 1), (2, 3), (4, 5)], "then 0.9 * 0.4 + 0.1 * 0.46 = 0.406"
    assert segments(alike, 0.39, 6, 0.9) == [(0, 4), (5, 5)]


@pytest.mark.parametrize(
    ("pairs", "threshold", "released", "corrected"),
    [
        ([], 0.1, ([0], [1]), ([0], [1])),
        ([0.9], 0.1, ([0, 0], [1, 0]), ([0, 0], [0.5, 0.5])),
        ([0.9], 0.95, ([0, 0], [1, 0]), ([0, 1], [1, 1])),
        ([0.9, 0.8], 0.1, ([0, 0, 0], [9 / 17, 8 / 17, 0]), ([0, 0, 1], [9 / 17, 8 / 17, 1])),
        ([0.9, 0.9], 0.1, ([0, 1, 1], [1, 1, 0]), ([0, 1, 1], [1, 0.5, 0.5])),
        ([0.5, 0.6, 0.4], 0.3, ([0, 1, 1, 1], [1, 0.6, 0.4, 0]), ([0, 1, 1, 2], [1, 0.6, 0.4, 1])),
        ([0.2, 0.1], 0.3, ([0, 1, 1], [1, 1, 0]), ([0, 1, 2], [1, 1, 1])),
        ([-0.1, -0.5], -0.9, ([0, 0, 0], [0.5, 0.5, 0]), ([0, 0, 1], [0.5, 0.5, 1])),
    ],
)
def test_middle_frames(
    pairs: list[float],
    threshold: float,
    released: tuple[list[int], list[float]],
    corrected: tuple[list[int], list[float]],
) -> None:
    for as_released, (places, shares) in ((True, released), (False, corrected)):
        found = merge_neighbours(pairs, threshold, as_released)
        assert found[0] == places
        assert found[1] == pytest.approx(shares)


def decide(states: torch.Tensor, **options: object) -> list[int]:
    """Which frame each one of (frames, tokens, width) leaves in."""
    frames, tokens = states.shape[:2]
    place = torch.arange(tokens).expand(frames, -1)
    at = LayerInput(TowerShape(1, tokens, 1), 0, states, None, place, LayerSignals())
    step = EarlyTom(**options).reduce_layer(at).step  # type: ignore[arg-type]
    return list(range(frames)) if step is None else (step.slot[:, 0] // tokens).tolist()


def test_short_segments_stay_and_longer_ones_keep_their_ends() -> None:
    still = torch.ones(5, 4, 3)
    for frames in (1, 2, 3):
        assert decide(still[:frames]) == list(range(frames))
    # equal frames are not more alike than the first and the last
    assert decide(still) == [0, 1, 2, 2, 3]
    assert decide(still, as_released=False) == [0, 1, 2, 3, 4]
    drifting = torch.stack([torch.tensor([1.0, 0.1 * t]).expand(4, -1) for t in (0, 2, 2.5, 3.5, 6)])
    assert decide(drifting) == [0, 1, 1, 1, 2]
    assert decide(drifting, as_released=False) == [0, 1, 1, 2, 3]
    assert decide(drifting, similarity_threshold=0.9999) == [0, 1, 2, 3, 4]


def test_what_cannot_merge_changes_nothing() -> None:
    assert EarlyTom(similarity_threshold=1.01).changes_nothing(SHAPE)
    assert EarlyTom(max_segment=3).changes_nothing(SHAPE)
    assert not EarlyTom(max_segment=4).changes_nothing(SHAPE)
    assert EarlyTom().counts(SHAPE) == (36,) * 4, "only frames become fewer"


def test_default_layers_lie_where_the_published_ones_do_and_below_the_last() -> None:
    assert EarlyTom().acting_layers(TowerShape(26, 27, 27)) == (6, 21, 23)
    assert EarlyTom().acting_layers(SHAPE) == (0, 2)
    assert EarlyTom().acting_layers(TowerShape(1, 2, 2)) == (0,)


def cosines(one: Array, other: Array) -> float:
    return float((unit(one) * unit(other)).sum(-1).mean())


def reference(tower: NumpyTower, given: torch.Tensor, tau: float, longest: int, layers: list[int]) -> Array:
    """A whole run in the released form, frame lists and loops."""
    states = [tower.begin(frame) for frame in given]
    holds = [[number] for number in range(len(states))]
    for layer in range(DEPTH):
        states = [tower.feed(layer, tower.attend(layer, one)[0]) for one in states]
        if layer not in layers:
            continue
        cut, running = [0], 1.0
        for number in range(1, len(states)):
            running = 0.9 * cosines(states[cut[-1]], states[number]) + 0.1 * running
            if running < tau or number - cut[-1] + 1 >= longest:
                cut.append(number)
                running = 1.0
        left: list[tuple[Array, list[int]]] = []
        for start, end in zip(cut, [*cut[1:], len(states)], strict=True):
            part, who = states[start:end], holds[start:end]
            if len(part) < 3:
                left += zip(part, who, strict=True)
                continue
            tau_merge, middle = cosines(part[0], part[-1]), list(range(1, len(part) - 1))
            left.append((part[0], who[0]))
            at = 0
            while at < len(middle) - 1:
                a, b = middle[at], middle[at + 1]
                alike = cosines(part[a], part[b])
                following = cosines(part[b], part[middle[at + 2]]) if at + 2 < len(middle) else None
                if alike > tau_merge and (following is None or alike > following):
                    weight = 1.0 if following is None else alike / (alike + following)
                    left.append((weight * part[a] + (1 - weight) * part[b], [*who[a], *who[b]]))
                    at += 2
                else:
                    left.append((part[a], who[a]))
                    at += 1
            if len(middle) == 1:
                left.append((part[1], who[1]))
            elif at == len(middle) - 1:
                left[-1] = (left[-1][0], [*left[-1][1], *who[middle[at]]])
            left.append((part[-1], who[-1]))
        states, holds = [one for one, _ in left], [who for _, who in left]
    out = np.empty((len(given), *states[0].shape))
    for one, patches in zip(states, holds, strict=True):
        out[patches] = one
    return out


@pytest.mark.parametrize(
    ("tau", "longest", "layers"), [(0.6, 6, (0, 2)), (0.3, 9, (1,)), (0.85, 5, (0, 1, 2))]
)
def test_a_whole_run_equals_loops_in_double_precision(
    tau: float, longest: int, layers: tuple[int, ...]
) -> None:
    given = torch.cat([pixels(9, seed=1, drift=0.06), pixels(6, seed=2, drift=0.02)])
    out = run(EarlyTom(similarity_threshold=tau, max_segment=longest, layers=layers), given)
    assert out.share < 1
    expected = reference(NumpyTower(), given, tau, longest, list(layers))
    torch.testing.assert_close(out.states[0], torch.from_numpy(expected).float(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"similarity_threshold": 3}, "similarity_threshold must be in"),
        ({"max_segment": 1}, "max_segment must be at least 2"),
        ({"momentum": -0.1}, "momentum must be in"),
        ({"as_released": None}, "as_released must be True or False"),
    ],
)
def test_options_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EarlyTom(**options)  # type: ignore[arg-type]
