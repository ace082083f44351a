"""Memories of visual tokens: what they hold, what an answer reads, and that they stay within their bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from streamprune.cache.block import Block, CacheShape, FeatureBlock, storage_bytes
from streamprune.cache.feature_memory import FeatureMethod
from streamprune.cache.flash_memory import GroupedMemory, StarMemory
from streamprune.cache.flash_vstream import FlashVStream
from streamprune.cache.ledger import Ledger
from streamprune.cache.memory import Heard, Room
from streamprune.cache.rekv import ReKV
from streamprune.cache.stc import STCMemory
from streamprune.cache.streamvln import StreamVLN, stride_places
from streamprune.cache.timechat_online import TimeChatOnlineMemory
from streamprune.cache.window import Window
from streamprune.errors import InvalidTypeError, InvalidValueError
from streamprune.ops.weighted_kmeans import weighted_kmeans
from streamprune.pipelines.live_options import StreamOptions
from streamprune.registry import build_method

WIDTH = 6
METHODS: list[FeatureMethod] = [
    Window(),
    Window(tokens=20, seconds=2.5),
    TimeChatOnlineMemory(max_tokens=30),
    StreamVLN(turns=2, memory_frames=3),
    FlashVStream(temporal_frames=4, abstract_tokens=5, retrieved_frames=2, buffer_frames=6),
    FlashVStream(form="flash", synopsis_frames=5, detail_frames=3),
]


def names(method: FeatureMethod) -> str:
    form = f"-{method.form}" if isinstance(method, FlashVStream) else ""
    return type(method).__name__ + form


def make_room(memory_bytes: int, tokens: int = 16, context_tokens: int = 4096) -> Room:
    shape = CacheShape(1, 1, 1, 2, 1, torch.float32, torch.device("cpu"))
    rotation: Any = None  # features are not rotated
    ledger = Ledger(memory_bytes)
    return Room(
        shape, rotation, ledger, memory_bytes, tokens, feature_bytes=4 * WIDTH, context_tokens=context_tokens
    )


def make_frame(
    number: int, tokens: int = 16, value: float | None = None, kept: int | None = None
) -> FeatureBlock:
    generator = torch.Generator().manual_seed(number)
    cells = torch.randperm(tokens, generator=generator)[: tokens if kept is None else kept].sort().values
    features = torch.randn(len(cells), WIDTH, generator=generator)
    if value is not None:
        features = torch.full((len(cells), WIDTH), value)
    return FeatureBlock(number, number, number + 1.0, features, cells.int())


def fed(method: FeatureMethod, frames: Sequence[FeatureBlock], room: Room | None = None) -> Any:
    memory: Any = method.begin(room or make_room(10**6, tokens=16))
    for frame in frames:
        memory.write(frame, Heard())
    return memory


def texts(blocks: Sequence[FeatureBlock]) -> list[Any]:
    return [
        (b.number, b.start_seconds, b.stop_seconds, b.features.tolist(), b.cells.tolist()) for b in blocks
    ]


@pytest.mark.parametrize("method", METHODS, ids=names)
@pytest.mark.parametrize("extra", [0, 1, 777, 10**5])
def test_bytes_stay_within_the_budget_and_are_counted_as_they_are(method: FeatureMethod, extra: int) -> None:
    least = method.minimum_bytes(make_room(1))
    room = make_room(least + extra)
    memory = method.begin(room)
    generator = torch.Generator().manual_seed(extra)
    for number in range(40):
        kept = int(torch.randint(0, 17, (), generator=generator))
        memory.write(make_frame(number, kept=kept), Heard())
        tensors = list(memory.tensors())
        assert storage_bytes(tensors) == room.ledger.total == memory.tiers()["features"].bytes
        assert len({tensor.untyped_storage().data_ptr() for tensor in tensors if len(tensor)}) == len(tensors)
        read = memory.recall(None)
        assert sum(block.tokens for block in read) <= method.context_tokens(room)
        assert memory.remembers_from() is None or 0 <= memory.remembers_from() <= number  # type: ignore[operator]
    assert room.ledger.peak <= least + extra
    assert memory.recall(None)
    memory.close()
    assert room.ledger.total == 0
    assert list(memory.tensors()) == []


@pytest.mark.parametrize("method", METHODS, ids=names)
def test_too_little_room_is_refused_with_the_minimum(method: FeatureMethod) -> None:
    least = method.minimum_bytes(make_room(1))
    with pytest.raises(InvalidValueError, match=f"leaves {least - 1} bytes .* needs {least}; give 1 more"):
        method.begin(make_room(least - 1))


@pytest.mark.parametrize("method", METHODS, ids=names)
def test_recalling_changes_nothing_and_a_saved_memory_goes_on_alike(method: FeatureMethod) -> None:
    memory = fed(method, [make_frame(number) for number in range(13)])
    once = texts(memory.recall(None))
    tensors, about = memory.state()
    again = method.begin(make_room(10**6))
    again.write(make_frame(99), Heard())
    again.restore({name: tensor.clone() for name, tensor in tensors.items()}, json.loads(json.dumps(about)))
    for number in range(13, 20):
        assert texts(memory.recall(None)) == texts(again.recall(None)) == once
        assert again.room.ledger.held == memory.room.ledger.held
        for one in (memory, again):
            one.write(make_frame(number), Heard())
        once = texts(memory.recall(None))


@pytest.mark.parametrize("method", METHODS, ids=names)
def test_a_small_context_gets_the_newest_and_never_more(method: FeatureMethod) -> None:
    room = make_room(10**6, context_tokens=37)
    memory = fed(method, [make_frame(number) for number in range(13)], room)
    read = memory.recall(None)
    assert 0 < sum(block.tokens for block in read) <= method.context_tokens(room) <= 37
    assert method.describe().reproduces


@pytest.mark.parametrize("method", METHODS, ids=names)
def test_keys_and_values_are_no_visual_tokens(method: FeatureMethod) -> None:
    empty = torch.empty(1, 1, 0, 2)
    none = torch.empty(1, 0, dtype=torch.int32)
    block = Block(0, 0.0, 1.0, empty, empty, none, (0,), (0,), none[0])
    with pytest.raises(InvalidTypeError, match="must be a FeatureBlock, got Block"):
        method.begin(make_room(10**6)).write(block, Heard())


def test_a_window_holds_the_newest_and_still_frames_lengthen_the_last() -> None:
    frames = [make_frame(number) for number in range(6)]
    assert [b.number for b in fed(Window(seconds=2), frames).recall(None)] == [3, 4, 5]
    memory = fed(Window(tokens=40), [*frames, make_frame(6, kept=0), make_frame(7, kept=0)])
    assert [(b.number, b.stop_seconds) for b in memory.recall(None)] == [(4, 5.0), (5, 8.0)]
    with pytest.raises(ValueError, match="seconds must be positive, got 0"):
        Window(seconds=0)


def test_a_queue_of_tokens_lets_the_oldest_out_first() -> None:
    memory = fed(TimeChatOnlineMemory(max_tokens=30), [make_frame(n, kept=5 + n % 2) for n in range(20)])
    read = memory.recall(None)
    assert [block.number for block in read] == [15, 16, 17, 18, 19]
    assert 30 - 6 < sum(block.tokens for block in read) <= 30
    dropper = build_method(
        "pre_llm", str(TimeChatOnlineMemory.pre_llm_default), TimeChatOnlineMemory.pre_llm_options
    )
    assert dropper.causal
    assert dropper.threshold == 0.25


def test_older_frames_stand_at_even_steps_and_windows_start_anew() -> None:
    assert stride_places(64, 8) == list(range(0, 64, 8))
    assert stride_places(67, 8) == list(range(0, 64, 8))
    assert stride_places(3, 8) == [0, 1, 2]
    memory = StreamVLN().begin(make_room(10**6))
    for number in range(75):
        memory.write(make_frame(number), Heard())
        read = [block.number for block in memory.recall(None)]
        start = number // 8 * 8
        older = list(range(0, start, max(1, start // 8)))[:8]
        assert read == [*older, *range(start, number + 1)]


def test_without_room_the_oldest_frames_are_no_longer_among_the_older_ones() -> None:
    method = StreamVLN(turns=2, memory_frames=2)
    room = make_room(7 * make_frame(0).nbytes)
    memory = fed(method, [make_frame(number) for number in range(20)], room)
    assert memory.remembers_from() == 13.0
    assert [block.number for block in memory.recall(None)] == [13, 15, 18, 19]


def test_star_reads_as_many_tokens_as_published() -> None:
    method, room = FlashVStream(), make_room(10**7, tokens=64)
    memory = method.begin(room)
    for number in range(40):
        memory.write(make_frame(number, 64), Heard())
        tokens = [block.tokens for block in memory.recall(None)]
        assert sum(tokens) == 681 if number >= 24 else sum(tokens) < 681
    assert tokens == [25, *[16] * 25, *[64] * 4]
    assert method.context_tokens(room) == 681


def test_groups_weigh_the_frames_that_were_seen_and_keep_their_times() -> None:
    for method in METHODS[-2:]:
        memory = fed(method, [])
        for number in range(30):
            memory.write(make_frame(number), Heard())
            groups = memory.groups
            assert sum(groups.weights) == number + 1
            assert groups.numbers == sorted(groups.numbers)
            mean = sum(w * s for w, s in zip(groups.weights, groups.seconds, strict=True)) / (number + 1)
            assert mean == pytest.approx(number / 2 + 0.5)
            if number < 4:
                assert groups.numbers == [float(n) for n in range(number + 1)]
                pooled = torch.stack([memory.grid.pooled(make_frame(n)) for n in range(number + 1)])
                assert torch.equal(groups.means, pooled)


@pytest.mark.parametrize("form", ["star", "flash"])
def test_two_kinds_of_frames_become_two_groups(form: Any) -> None:
    method = FlashVStream(form=form, temporal_frames=2, synopsis_frames=2, detail_frames=2)
    memory: GroupedMemory = fed(method, [make_frame(n, value=5.0 * (n % 3 == 0)) for n in range(24)])
    assert memory.groups is not None
    found = sorted(zip(memory.groups.weights, memory.groups.means[:, 0, 0].tolist(), strict=True))
    assert found == [(8.0, 5.0), (16.0, 0.0)]


def test_abstract_tokens_move_by_a_share_and_stay_bounded() -> None:
    method = FlashVStream(abstract_tokens=2, temporal_frames=3)
    memory: StarMemory = fed(method, [make_frame(0, value=1.0), make_frame(1, value=2.0)])
    assert memory.slots is not None
    assert memory.slots[:, 0].tolist() == [1.0, 2.0]
    memory.write(make_frame(2, value=-3.0), Heard())
    torch.testing.assert_close(memory.slots[:, 0], torch.tensor([0.2, 1.0]))
    for number in range(3, 30):
        memory.write(make_frame(number, value=(-1.0) ** number * 3), Heard())
        assert memory.slots.abs().max() <= 3


def test_frames_nearest_to_the_heaviest_groups_are_retrieved() -> None:
    values = [0.0] * 6 + [10.0, 11.0, 10.4, 10.0] + [30.0] + [50.0] * 3
    frames = [make_frame(number, value=value) for number, value in enumerate(values)]
    star = FlashVStream(temporal_frames=4, abstract_tokens=0, retrieved_frames=2)
    read = fed(star, frames).recall(None)
    # the mean of the second group is 10.35; the newest frame comes last
    assert [block.number for block in read[-3:]] == [0, 8, 13]
    flash = FlashVStream(form="flash", synopsis_frames=4, detail_frames=2)
    read = fed(flash, frames).recall(None)
    # 10.4 lost its place when it joined a group whose mean was 10.1
    assert [block.features[0, 0].item() for block in read[:2]] == [0.0, 10.0]
    assert [block.features[0, 0].item() for block in read[2:]] == pytest.approx([0.0, 10.35, 30.0, 50.0])
    assert [block.cells.tolist() for block in read[2:]] == [[0, 2, 8, 10]] * 4


def test_what_is_carried_goes_with_its_tokens() -> None:
    method = FlashVStream(temporal_frames=2, abstract_tokens=1, retrieved_frames=0)
    room = make_room(10**6)
    memory = method.begin(room)
    for number in range(4):
        frame = make_frame(number)
        carried = frame.features[:, :2].double() * 2
        memory.write(
            FeatureBlock(number, number, number + 1.0, frame.features, frame.cells, carried), Heard()
        )
    for block in memory.recall(None):
        assert block.carried is not None
        assert block.carried.dtype == torch.float64
        torch.testing.assert_close(block.carried.float(), block.features[:, :2] * 2)


@dataclass(frozen=True)
class Case:
    points: list[float]
    weights: list[float]
    count: int
    means: list[float]
    group: list[int]


@pytest.mark.parametrize(
    "case",
    [
        Case([3, 1, 2], [1, 1, 1], 3, [3, 1, 2], [0, 1, 2]),
        Case([3, 1, 2], [1, 1, 1], 5, [3, 1, 2], [0, 1, 2]),
        Case([0, 10, 11, 20], [1, 1, 3, 1], 3, [0, 10.75, 20], [0, 1, 1, 2]),
        # joining a light point costs less than a heavy one that is nearer
        Case([0, 9, 20], [1, 9, 9], 2, [0.9 * 9, 20], [0, 0, 1]),
        Case([0, 1, 2, 3], [1, 1, 1, 1], 2, [0.5, 2.5], [0, 0, 1, 1]),
        Case([7, 7, 7], [1, 2, 3], 1, [7], [0, 0, 0]),
    ],
)
def test_groups_are_found_from_a_fixed_start(case: Case) -> None:
    means, group = weighted_kmeans(
        torch.tensor(case.points)[:, None], torch.tensor(case.weights), case.count, iterations=10
    )
    assert means[:, 0].tolist() == pytest.approx(case.means)
    assert group.tolist() == case.group


def test_stc_is_rekv_behind_its_two_parts() -> None:
    ours = STCMemory()
    assert (ours.topk, ours.window_tokens) == (ReKV().topk, ReKV().window_tokens)
    assert (ours.encoder_default, ours.pre_llm_default) == ("stc", "stc")
    opened = StreamOptions.read(None, "stc", "64MB")
    assert {stage: choice.method for stage, choice in opened.recipe.stages.items()} == {
        "encoder": "stc", "pre_llm": "stc",
    }  # fmt: skip
    assert opened.recipe.budget.per_frame(1, 196) == 60
    named = StreamOptions.read("encoder:tome+pre_llm:stride", "stc", "64MB", keep_ratio=0.5)
    assert named.recipe.stages["encoder"].method == "tome"
    assert named.recipe.stages["pre_llm"].method == "stride"
    assert named.recipe.budget.keep_ratio == 0.5
