"""The frame gate: near duplicates are told from the smallest news, and news from what is usual."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from streamprune.cache.gate import FrameGate, Look, block_means
from streamprune.cache.ledger import Ledger
from streamprune.embedded.world import Stream, stream
from streamprune.errors import MemoryBudgetError

Image = NDArray[np.uint8]
FRAMES = 448


def looks(gate: FrameGate, world: Stream, frames: int = FRAMES) -> list[Look]:
    return [gate.look(world.frame(number)) for number in range(frames)]


def noisy(picture: Image, seed: int, sigma: float, jitter: float) -> Image:
    rng = np.random.default_rng(seed)
    values = picture * rng.uniform(1 - jitter, 1 + jitter) + rng.normal(0, sigma, picture.shape)
    noised: Image = np.clip(values, 0, 255).astype(np.uint8)
    return noised


@pytest.fixture(scope="module")
def watched() -> dict[bool, tuple[Stream, list[Look]]]:
    """A fixed and a moving camera, with everything a gate said."""
    worlds = {static: stream(1, static=static, era_frames=FRAMES) for static in (True, False)}
    return {static: (world, looks(FrameGate(), world)) for static, world in worlds.items()}


@pytest.mark.parametrize("static", [True, False])
def test_every_needle_gets_through(watched: dict[bool, tuple[Stream, list[Look]]], static: bool) -> None:
    world, said = watched[static]
    needles = [event for event in world.events(0, FRAMES) if event.role != "main"]
    assert len(needles) == 14
    assert not any(said[needle.start].duplicate for needle in needles)
    assert sum(look.duplicate for look in said) > 0.02 * FRAMES


def test_cuts_are_events_and_the_rest_seldom_is(watched: dict[bool, tuple[Stream, list[Look]]]) -> None:
    world, said = watched[False]
    starts = [32 * chapter + scene.start for chapter in range(14) for scene in world._chapter(chapter).scenes]
    assert min(said[start].novelty for start in starts) > 0.8
    others = [look for number, look in enumerate(said) if number not in starts]
    assert sum(look.event for look in others) < 0.05 * len(others)
    assert float(np.mean([look.novelty for look in others])) < 0.25
    assert all(0 <= look.novelty <= 1 for look in said)


@pytest.mark.parametrize("sigma", [0, 4, 10])
def test_noise_and_exposure_of_a_still_camera_are_no_change(sigma: float) -> None:
    picture, gate = stream(1, static=True).frame(3), FrameGate()
    said = [gate.look(noisy(picture, turn, sigma, 0.06)) for turn in range(60)]
    assert not said[0].duplicate
    assert sum(look.duplicate for look in said) >= 57
    assert not any(look.event for look in said[1:])


@pytest.mark.parametrize("cell", [(0, 0), (2, 3), (5, 5)])
def test_one_cell_of_a_noisy_still_picture_counts(cell: tuple[int, int]) -> None:
    picture, gate = stream(1, static=True).frame(3), FrameGate()
    for turn in range(20):
        gate.look(noisy(picture, turn, 8, 0.06))
    changed, (row, col) = picture.copy(), cell
    patch = changed[16 * row : 16 * row + 16, 16 * col : 16 * col + 16]
    patch[...] = np.where(patch > 127, patch - 60, patch + 60)
    look = gate.look(noisy(changed, 99, 8, 0.06))
    assert (look.duplicate, look.event) == (False, True)


def test_slow_drift_is_not_lost() -> None:
    picture = stream(1, static=True).frame(3).astype(np.int32)
    gate = FrameGate()
    accepted = []
    for step in range(40):
        drifted = picture.copy()
        drifted[40:56, 40:56] = np.clip(drifted[40:56, 40:56] + 2 * step, 0, 255)
        if not gate.look(drifted.astype(np.uint8)).duplicate:
            accepted.append(step)
    assert len(accepted) >= 5
    assert max(np.diff(accepted)) <= 8, "never more than the threshold behind"


def test_fading_and_going_dark_are_changes() -> None:
    picture, gate = stream(1, static=True).frame(3), FrameGate()
    gate.look(picture)
    assert gate.look((picture * 0.9).astype(np.uint8)).duplicate
    assert not gate.look((picture * 0.6).astype(np.uint8)).duplicate
    assert not gate.look(np.zeros_like(picture)).duplicate
    assert not gate.look(picture).duplicate


def test_only_repetitions_are_duplicates_at_zero() -> None:
    picture, gate = np.full((96, 96, 3), 100, np.uint8), FrameGate(duplicate_threshold=0)
    assert [gate.look(one).duplicate for one in (picture, picture, picture + 1, picture + 1)] == [
        False,
        True,
        False,
        True,
    ]


def test_the_future_changes_nothing() -> None:
    world = stream(3, era_frames=FRAMES)
    whole = looks(FrameGate(), world, 80)
    assert looks(FrameGate(), world, 50) == whole[:50]


def test_a_picture_of_another_size_goes_on_or_begins_anew() -> None:
    picture, gate = stream(1).frame(3), FrameGate()
    gate.look(picture)
    assert gate.look(picture.repeat(3, 0).repeat(3, 1)).duplicate, "the same in more pixels"
    assert gate.look(picture[:5, :7]) == Look(1.0, False, True)
    assert gate.look(picture[:5, :7]).duplicate


def test_state_goes_on_alike() -> None:
    world, gate, other = stream(2, era_frames=FRAMES), FrameGate(), FrameGate()
    looks(gate, world, 40)
    tensors, about = gate.state()
    other.restore({name: value.clone() for name, value in tensors.items()}, json.loads(json.dumps(about)))
    for number in range(40, 60):
        assert gate.look(world.frame(number)) == other.look(world.frame(number))
    gate.reset()
    assert gate.look(world.frame(3)) == Look(1.0, False, True)
    with pytest.raises(ValueError, match=r"24 blocks and this one has blocks=8; make it with as many"):
        FrameGate(blocks=8).restore(tensors, about)


def test_the_ledger_counts_what_is_held() -> None:
    ledger = Ledger(10_000)
    gate = FrameGate(ledger=ledger)
    held = sum(tensor.untyped_storage().nbytes() for tensor in gate.tensors())
    assert ledger.held["frames"] == held == 24 * 24 * 3 * 4
    looks(gate, stream(2), 3)
    assert ledger.total == held
    with pytest.raises(MemoryBudgetError):
        FrameGate(ledger=ledger)
    gate.close()
    gate.close()
    assert ledger.total == 0


def test_block_means_are_means() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (96, 64, 3), dtype=np.uint8)
    got = block_means(picture, 24)
    expected = picture[:, _columns(64, 24, 2)].reshape(24, 4, 24, 2, 3).mean((1, 3))
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert block_means(np.full((1080, 1920, 3), 255, np.uint8), 24).min() == 255
    assert torch.from_numpy(block_means(picture[:1, :2], 24)).equal(torch.from_numpy(picture[:1, :2]).float())


def _columns(cols: int, blocks: int, samples: int) -> NDArray[np.int64]:
    return (2 * np.arange(blocks * samples) + 1) * cols // (2 * blocks * samples)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"duplicate_threshold": -0.1}, r"duplicate_threshold must be in \[0, 1\]"),
        ({"noise_limit": 2}, r"noise_limit must be in \[0, 1\]"),
        ({"brightness_jitter": float("nan")}, "brightness_jitter must be in"),
        ({"event_threshold": 0}, r"event_threshold must be in \(0, 1\]"),
        ({"memory_frames": 1}, "memory_frames must be at least 2"),
        ({"blocks": 0}, "blocks must be at least 1"),
        ({"blocks": 500}, "blocks must be at most 256"),
        ({"blocks": 2.5}, "blocks must be an integer"),
    ],
)
def test_options_are_checked(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        FrameGate(**options)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8), "frame.png"]
)
def test_what_is_no_picture_is_refused_and_not_seen(image: Any) -> None:
    gate = FrameGate()
    with pytest.raises(ValueError, match="image must"):
        gate.look(image)
    assert gate.look(np.zeros((4, 4, 3), np.uint8)) == Look(1.0, False, True)
