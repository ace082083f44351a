"""Towers of every family that compute what is new in a frame: exact where they must be, bounded elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from streamprune.cache.ledger import Ledger
from streamprune.catalog.info import TOWER_IN_PARTS
from streamprune.encoder.stc import STCCacher
from streamprune.errors import SignalError, SnapshotError, UnsupportedModelError
from streamprune.metrics.memory import tensor_bytes
from streamprune.models.base import EncodedFrames, VideoFamily
from streamprune.models.loading import load_model
from streamprune.models.tower_rows import tower_layers
from streamprune.models.tower_stream import TowerStream, remembered_bytes
from tests.models.test_families import SAVE

KEYS = STCCacher()
PIXELS = STCCacher(choose="pixels")
EVERYTHING = STCCacher(choose="pixels", pixel_change=0.0, full_above=1.0)


@pytest.fixture(scope="module", params=TOWER_IN_PARTS)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VideoFamily:
    return load_model(SAVE[request.param](tmp_path_factory.mktemp(request.param)))


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> VideoFamily:
    return load_model(SAVE["llava_onevision"](tmp_path_factory.mktemp("llava")))


def opened(family: VideoFamily, method: STCCacher | None, memory_bytes: int = 2**30) -> TowerStream:
    return TowerStream(family, method, Ledger(memory_bytes))


def frames(family: VideoFamily, number: int, *, seed: int = 0) -> list[torch.Tensor]:
    """Prepared frames of tokens that have nothing in common."""
    count = number * family.frames_per_slice
    pictures = np.random.default_rng(seed).integers(0, 256, (count, 48, 64, 3), dtype=np.uint8)
    return list(torch.split(family.preprocess(list(pictures)), family.frames_per_slice))


def with_patch(frame: torch.Tensor, *, more: float = 1.0) -> torch.Tensor:
    """The same frame, brighter in a block at the upper left."""
    changed = frame.clone()
    changed[:, :, : frame.shape[2] // 3, : frame.shape[3] // 3] += more
    return changed


def difference(left: EncodedFrames, right: EncodedFrames) -> float:
    """The largest of features and of what goes along."""
    pairs = [(left.features, right.features)]
    if left.carried is not None and right.carried is not None:
        pairs.append((left.carried, right.carried))
    return max(float((one - other).abs().max()) for one, other in pairs)


def close(left: EncodedFrames, right: EncodedFrames) -> None:
    scale = float(right.features.abs().max())
    assert difference(left, right) <= 1e-5 * max(1.0, scale)


def modules(family: VideoFamily) -> list[torch.nn.Module]:
    """The stock layers."""
    return [layer.module for layer in tower_layers(family.model.get_encoder("video"))]


@pytest.mark.parametrize(
    "method", [STCCacher(update_ratio=1.0, interval=9), EVERYTHING], ids=["keys", "pixels"]
)
def test_recomputing_everything_is_the_plain_tower(family: VideoFamily, method: STCCacher) -> None:
    tower = opened(family, method)
    for number, frame in enumerate(frames(family, 3)):
        encoded, plain = tower.encode(frame), family.encode(frame)
        close(encoded, plain)
        assert encoded.tower_share == 1
        assert tower.reused_cells is not None
        assert tower.reused_cells.shape == encoded.features.shape[1:3]
        assert not tower.reused_cells.any()
        assert all((index is None) == (number == 0) for index in tower.updated)


@pytest.mark.parametrize("ratio", [0.01, 0.25, 0.9])
def test_a_frame_that_did_not_change_comes_out_as_it_was(family: VideoFamily, ratio: float) -> None:
    frame = frames(family, 1)[0]
    by_keys = opened(family, STCCacher(update_ratio=ratio, interval=3))
    reference = by_keys.encode(frame)
    assert torch.equal(reference.features, family.encode(frame).features)
    for _ in range(2):
        again = by_keys.encode(frame)
        close(again, reference)
        assert 0 < again.tower_share <= ratio + 0.03
    by_pixels = opened(family, PIXELS)
    by_pixels.encode(frame)
    again = by_pixels.encode(frame)
    assert difference(again, reference) == 0
    assert again.tower_share == 0
    assert by_pixels.reused_cells is not None
    assert by_pixels.reused_cells.all()


class Composite:
    """What is meant by recomputing some rows, on stock layers that compute all of them.

    In every layer the rows that are not among the chosen ones are what they were.
    """

    def __init__(self, family: VideoFamily) -> None:
        self.family, self.modules = family, modules(family)
        self.entering: dict[int, torch.Tensor] = {}
        self.leaving: dict[int, torch.Tensor] = {}

    def encode(self, frame: torch.Tensor, index: Sequence[int] | None) -> EncodedFrames:
        """One frame of which the rows at ``index`` are new, None = all."""
        with self._hooked(index):
            return self.family.encode(frame)

    @contextmanager
    def _hooked(self, index: Sequence[int] | None) -> Iterator[None]:
        def mixed(number: int, new: torch.Tensor, held: dict[int, torch.Tensor]) -> torch.Tensor:
            flat = new.flatten(0, -2)
            if index is not None:
                left = held[number].clone()
                left[list(index)] = flat[list(index)]
                flat = left
            held[number] = flat.clone()
            return flat.view(new.shape)

        def enter(number: int, args: Any, kwargs: Any) -> Any:
            if args:
                return (mixed(number, args[0], self.entering), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": mixed(number, kwargs["hidden_states"], self.entering)}

        handles: list[Any] = []
        for number, module in enumerate(self.modules):

            def before(module: Any, args: Any, kwargs: Any, number: int = number) -> Any:
                return enter(number, args, kwargs)

            def after(module: Any, args: Any, out: torch.Tensor, number: int = number) -> torch.Tensor:
                return mixed(number, out, self.leaving)

            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            # ahead of those by which stock models keep their hidden states
            handles.append(module.register_forward_hook(after, prepend=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def test_patches_that_changed_see_the_others_as_they_were(family: VideoFamily) -> None:
    tower, expected = opened(family, PIXELS), Composite(family)
    first = frames(family, 1)[0]
    second = with_patch(first)
    third = second.clone()
    third[..., -4:] -= 0.9
    for number, frame in enumerate((first, second, third, first)):
        encoded = tower.encode(frame)
        index = tower.updated[0]
        assert all(one is index for one in tower.updated), "the same in every layer"
        close(encoded, expected.encode(frame, None if index is None else index.tolist()))
        if number in (1, 2):
            assert index is not None
            assert 0 < encoded.tower_share < 0.6
            assert difference(encoded, family.encode(frame)) > 1e-3
        else:  # what comes back as it was comes out as it was
            close(encoded, family.encode(frame))


def test_cells_are_reused_where_no_pixel_changed(family: VideoFamily) -> None:
    tower = opened(family, PIXELS)
    first = frames(family, 1)[0]
    tower.encode(first)
    tower.encode(with_patch(first))
    reused = tower.reused_cells
    assert reused is not None
    rows, cols = reused.shape
    high, wide = first.shape[2] // 3, first.shape[3] // 3
    for row in range(rows):
        for col in range(cols):
            inside = (row + 1) * first.shape[2] <= high * rows and (col + 1) * first.shape[3] <= wide * cols
            # one cell further, as pooling and patches may reach over a border
            outside = (row - 1) * first.shape[2] >= high * rows or (col - 1) * first.shape[3] >= wide * cols
            assert not (inside and reused[row, col])
            assert reused[row, col] or not outside
    assert 0 < reused.mean() < 1


def test_the_tower_is_left_as_it_was(family: VideoFamily, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = modules(family)
    frame = frames(family, 1)[0]
    plain = family.encode(frame).features

    def hooks() -> int:
        return sum(len(one._forward_hooks) for layer in layers for one in layer.modules())

    def unspoilt() -> bool:
        return hooks() == stock_hooks and not any("forward" in layer.__dict__ for layer in layers)

    def fail(*args: Any) -> torch.Tensor:
        raise ArithmeticError

    stock_hooks = hooks()
    for method in (KEYS, PIXELS):
        tower = opened(family, method)
        tower.encode(frame)
        assert unspoilt()
        with monkeypatch.context() as patch:
            patch.setattr("streamprune.models.tower_rows.TowerLayer.attended", fail)
            with pytest.raises(ArithmeticError):
                tower.encode(with_patch(frame))
        assert unspoilt()
        assert torch.equal(family.encode(frame).features, plain)
        # what was half-way written is not used
        assert torch.equal(tower.encode(frame).features, plain)
        assert tower.updated[0] is None


def test_bytes_are_what_was_announced(family: VideoFamily) -> None:
    frame = frames(family, 1)[0]
    for method in (KEYS, PIXELS):
        ledger = Ledger(2**30)
        tower = TowerStream(family, method, ledger)
        assert (tower.nbytes, ledger.total) == (0, 0)
        tower.encode(frame)
        announced = remembered_bytes(family, method, (int(frame.shape[2]), int(frame.shape[3])))
        assert tower.nbytes == ledger.held["tower"] == tensor_bytes(tower.tensors()) == announced
        tower.encode(with_patch(frame))
        assert (tower.nbytes, ledger.peak) == (announced, announced)
        tower.close()
        tower.close()
        assert (tower.nbytes, ledger.total) == (0, 0)


def test_a_stream_goes_on_where_it_was_saved(family: VideoFamily) -> None:
    first, other = frames(family, 2)
    second = with_patch(first)
    for method in (STCCacher(interval=3), PIXELS):
        tower = opened(family, method)
        tower.encode(first)
        tower.encode(second)
        tensors, about = tower.state()
        saved = {name: tensor.clone() for name, tensor in tensors.items()}
        later = opened(family, method)
        later.encode(other)
        later.restore(saved, about)
        for frame in (with_patch(second, more=-2.0), first):
            one, same = tower.encode(frame), later.encode(frame)
            assert difference(one, same) == 0
            assert one.tower_share == same.tower_share
            assert np.array_equal(np.asarray(tower.reused_cells), np.asarray(later.reused_cells))


def schedule(tower: TowerStream, shown: Sequence[torch.Tensor]) -> list[bool]:
    """Which frames became references."""
    return [(tower.encode(frame), tower.updated[0] is None)[1] for frame in shown]


def test_references_come_by_age_and_when_they_must(llava: VideoFamily) -> None:
    still = frames(llava, 1) * 7
    busy = frames(llava, 4)
    assert schedule(opened(llava, KEYS), still) == [True, False] * 3 + [True]
    four = [True, False, False, False, True, False, False]
    assert schedule(opened(llava, STCCacher(interval=4)), still) == four
    assert schedule(opened(llava, STCCacher(interval=1)), still[:3]) == [True] * 3
    assert schedule(opened(llava, PIXELS), still) == [True] + [False] * 6
    assert schedule(opened(llava, STCCacher(choose="pixels", interval=3)), still[:4]) == [
        True,
        False,
        False,
        True,
    ]
    guarded = STCCacher(interval=9, reference_similarity=0.9)
    assert schedule(opened(llava, guarded), still[:3]) == [True, False, False]
    assert schedule(opened(llava, guarded), busy) == [True] * 4
    assert schedule(opened(llava, PIXELS), busy) == [True] * 4
    assert schedule(opened(llava, EVERYTHING), busy) == [True] + [False] * 3
    # a forced reference starts the count anew
    cut = [*still[:2], busy[1], *busy[1:2] * 3]
    assert schedule(opened(llava, STCCacher(choose="pixels", interval=3)), cut) == [
        *[True, False, True],
        *[False, False, True],
    ]


@pytest.mark.parametrize("method", [STCCacher(reference_similarity=1.0), PIXELS], ids=["keys", "pixels"])
def test_a_busy_stream_is_the_plain_tower(family: VideoFamily, method: STCCacher) -> None:
    tower = opened(family, method)
    for frame in frames(family, 3):
        encoded = tower.encode(frame)
        assert encoded.tower_share == 1
        assert difference(encoded, family.encode(frame)) == 0


def test_forgetting_makes_the_next_frame_a_reference(llava: VideoFamily) -> None:
    shown = [*frames(llava, 1) * 2, with_patch(frames(llava, 1)[0])]
    tower = opened(llava, PIXELS)
    first = [tower.encode(frame) for frame in shown]
    tower.reset()
    assert tower.nbytes == 0
    assert tower.state() == ({}, {})
    again = [tower.encode(frame) for frame in shown]
    assert all(torch.equal(a.features, b.features) for a, b in zip(first, again, strict=True))


def test_frames_of_another_size_begin_anew(tmp_path_factory: pytest.TempPathFactory) -> None:
    family = load_model(SAVE["qwen2_vl"](tmp_path_factory.mktemp("qwen2_vl")))
    ledger = Ledger(2**30)
    tower = TowerStream(family, PIXELS, ledger)
    wide = frames(family, 1)[0]
    high = wide.transpose(2, 3).contiguous()[:, :, :, : wide.shape[3] // 16 * 8]
    assert schedule(tower, [wide, wide, high, high, wide]) == [True, False, True, False, True]
    assert ledger.total == tower.nbytes == tensor_bytes(tower.tensors())
    assert torch.equal(tower.encode(high).features, family.encode(high).features)


@pytest.mark.parametrize(
    "method",
    [STCCacher(interval=5, update_ratio=0.1), STCCacher(choose="pixels", interval=5, pixel_change=0.02)],
    ids=["keys", "pixels"],
)
def test_references_bound_what_a_slow_change_adds_up_to(llava: VideoFamily, method: STCCacher) -> None:
    first, last = frames(llava, 2)
    steps = 40

    def errors(one: STCCacher) -> list[float]:
        tower = opened(llava, one)
        found = []
        for step in range(steps):
            frame = torch.lerp(first, last, step / steps)
            found.append(float((tower.encode(frame).features - llava.encode(frame).features).norm()))
        return found

    drift = errors(method)
    assert all(drift[number] == 0 for number in range(0, steps, 5))
    assert max(drift[5:]) <= 1.5 * max(drift[:5])
    never = STCCacher(
        choose=method.choose, interval=10**6, pixel_change=0.5, update_ratio=method.update_ratio
    )
    assert errors(never)[-1] > 3 * max(drift)


def test_small_changes_add_up_until_they_count(llava: VideoFamily) -> None:
    tower = opened(llava, STCCacher(choose="pixels", interval=100, full_above=1.0))
    frame = frames(llava, 1)[0]
    # in colours half as much: pixels are in [-1, 1]
    shares = [tower.encode(frame + 0.03 * step).tower_share for step in range(7)]
    assert shares == [1, 0, 0, 1, 0, 0, 1]


def test_without_room_every_frame_is_computed_in_full(
    llava: VideoFamily, caplog: pytest.LogCaptureFixture
) -> None:
    frame = frames(llava, 1)[0]
    ledger = Ledger(1000)
    tower = TowerStream(llava, PIXELS, ledger)
    for _ in range(3):
        encoded = tower.encode(frame)
        assert torch.equal(encoded.features, llava.encode(frame).features)
        assert encoded.tower_share == 1
        assert (tower.nbytes, ledger.total, ledger.peak) == (0, 0, 0)
        assert tower.reused_cells is not None
        assert not tower.reused_cells.any()
    assert [record.message for record in caplog.records if "in full" in record.message] != []
    assert len(caplog.records) == 1


def test_what_was_saved_of_another_tower_is_refused(
    llava: VideoFamily, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = load_model(SAVE["internvl"](tmp_path_factory.mktemp("internvl")))
    tower = opened(other, PIXELS)
    tower.encode(frames(other, 1)[0])
    tensors, about = tower.state()
    for method in (PIXELS, KEYS, None):
        later = opened(llava, method)
        with pytest.raises(SnapshotError, match="was saved with"):
            later.restore(tensors, about)
        assert later.nbytes == 0
    with pytest.raises(SnapshotError, match="incomplete"):
        opened(llava, PIXELS).restore({}, about)
    empty = opened(llava, PIXELS)
    empty.encode(frames(llava, 1)[0])
    empty.restore({}, {})
    assert empty.nbytes == 0


def test_signals_that_need_the_whole_tower_are_refused(family: VideoFamily) -> None:
    tower = opened(family, KEYS)
    frame = frames(family, 1)[0]
    with pytest.raises(SignalError, match="is read inside the vision tower"):
        tower.encode(frame, ("received_attention",))
    states = ("encoder_features", "early_features", "projector_sensitivity", "image_embeds")
    names = (*family.cheap_signals(), *states, "pixel_change", "pixel_entropy")
    plain = family.encode(with_patch(frame), names, before=frame[0])
    tower = opened(family, STCCacher(update_ratio=1.0, interval=9))
    tower.encode(frame, names)
    encoded = tower.encode(with_patch(frame), names, frame[0])
    assert encoded.signals.keys() == plain.signals.keys()
    for name, signal in plain.signals.items():
        torch.testing.assert_close(encoded.signals[name], signal, rtol=1e-4, atol=1e-4)
    assert encoded.signals["image_embeds"] is encoded.features


def test_several_frames_at_once_are_seen_one_after_the_other(family: VideoFamily) -> None:
    first = frames(family, 1)[0]
    shown = [first, with_patch(first), first]
    names = ("pixel_change",)
    alone, together = opened(family, KEYS), opened(family, KEYS)
    parts, before = [], None
    for frame in shown:
        parts.append(alone.encode(frame, names, before))
        before = frame[0]
    joined = together.encode(torch.cat(shown), names)
    assert torch.equal(joined.features, torch.cat([part.features for part in parts]))
    assert torch.equal(joined.signals["pixel_change"], torch.cat([p.signals["pixel_change"] for p in parts]))
    assert joined.tower_share == pytest.approx(sum(part.tower_share for part in parts) / 3)


def test_without_a_method_it_is_the_plain_tower(llava: VideoFamily) -> None:
    frame = frames(llava, 1)[0]
    tower = opened(llava, None)
    for _ in range(2):
        assert torch.equal(tower.encode(frame).features, llava.encode(frame).features)
    assert tower.nbytes == 0
    assert tower.reused_cells is not None
    assert not tower.reused_cells.any()


def test_other_towers_are_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    assert set(SAVE) - set(TOWER_IN_PARTS) == {"minicpmv4_6"}
    family = load_model(SAVE["minicpmv4_6"](tmp_path_factory.mktemp("minicpm")))
    with pytest.raises(UnsupportedModelError, match="minicpmv4_6 models cannot recompute some"):
        opened(family, KEYS)


def test_half_precision_runs(llava: VideoFamily, tmp_path_factory: pytest.TempPathFactory) -> None:
    half = load_model(SAVE["qwen2_5_vl"](tmp_path_factory.mktemp("half")), dtype=torch.bfloat16)
    frame = frames(half, 1)[0]
    for method in (KEYS, PIXELS):
        tower = opened(half, method)
        tower.encode(frame)
        encoded = tower.encode(with_patch(frame))
        assert encoded.features.dtype == torch.bfloat16
        assert torch.isfinite(encoded.features).all()
        assert 0 < encoded.tower_share < 1
