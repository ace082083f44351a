"""The tiered memory: what stays of a frame, what covers the past, and what a question brings back."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from streamprune.cache.choice_of_frames import chosen_rows
from streamprune.cache.context import BlockContext
from streamprune.cache.memory import Heard, Room
from streamprune.cache.moment import NewsDesk
from streamprune.cache.page_index import Found, PageIndex, Reading
from streamprune.cache.tiered import Tiered
from streamprune.cache.tiered_memory import TieredMemory
from streamprune.errors import InvalidTypeError, InvalidValueError, UnknownNameError
from tests.cache.made_stream import (
    LAYERS,
    QUERY_HEADS,
    begun,
    made_block,
    made_head,
    made_room,
    question,
    written,
)

NOTHING = Heard()
# so that a small memory has frames in every tier
EVEN: dict[str, Any] = {"recent_share": 0.25, "mid_share": 0.25, "archive_share": 0.5}


def _begun(room: Room, **options: Any) -> TieredMemory:
    memory = begun(Tiered(**options), room)
    assert isinstance(memory, TieredMemory)
    return memory


def _write(memory: TieredMemory, *numbers: int, **options: Any) -> None:
    for number in numbers:
        memory.write(made_block(number, **options), NOTHING)


def _intervals(memory: TieredMemory) -> list[tuple[float, float]]:
    """What every page and every frame covers, oldest first."""
    pages = [(page.start_seconds, page.stop_seconds) for page in memory.archive.pages]
    blocks = [moment.block for tier in (memory.mid, memory.recent) for moment in tier]
    return pages + [(block.start_seconds, block.stop_seconds) for block in blocks]


def _numbers(memory: TieredMemory, queries: torch.Tensor | None) -> list[int]:
    """Frames of a recalled context, by their places in a stream of 12 positions each."""
    room = memory.room
    context = replace(memory.method, gaps="keep")
    memory.method = context
    found = memory.recall(queries)
    assert isinstance(found, BlockContext)
    places = found.positions()[0][3:] - 3
    return sorted({int(place) // room.tokens_per_frame for place in places})


@pytest.mark.parametrize("axes", [1, 3])
def test_while_everything_fits_an_answer_reads_all_frames_as_they_came(axes: int) -> None:
    room = made_room(10**6, axes=axes, context_tokens=60)
    memory = _begun(room)
    blocks = [made_block(number, axes=axes) for number in range(5)]
    for block in blocks:
        memory.write(block, NOTHING)
    expected = BlockContext([made_head(axes=axes), *blocks], memory.method.gap, room.rotation)
    found = memory.recall(question())
    assert found.end == expected.end
    assert torch.equal(written(found), written(expected))
    _write(memory, 5, axes=axes)
    assert memory.recall(question()).tokens <= 3 + 60


@pytest.mark.parametrize("seed", range(4))
def test_every_second_is_covered_once_until_the_last_level_drops(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    options: dict[str, Any] = {"levels": 2 + seed, "page_frames": 2 + seed, "event_novelty": 0.7}
    least = Tiered(**options).minimum_bytes(made_room(1))
    memory = _begun(made_room(least + 6000 * seed), **options)
    # the least there can be has no two pages
    dropped = False
    for number in range(120):
        tokens = int(torch.randint(0, 13, (), generator=generator)) if number else 12
        memory.write(made_block(number, tokens, grid_tokens=12), NOTHING)
        intervals = _intervals(memory)
        assert all(before[1] == after[0] for before, after in pairwise(intervals))
        assert intervals[-1][1] == number + 1
        assert memory.remembers_from() == intervals[0][0]
        dropped |= bool(memory.archive.levels[-1]) or seed == 0
        assert intervals[0][0] == 0 or dropped
    in_use = [moment.row for tier in (memory.recent, memory.mid) for moment in tier]
    in_use += [row for page in memory.archive.pages for row in page.rows]
    assert sorted(in_use) == (memory.index.numbers >= 0).nonzero()[:, 0].tolist()


def test_ten_times_the_frames_are_in_as_many_pages() -> None:
    memory = _begun(made_room(40_000), levels=3, **EVEN)
    counts, shown = [], 0
    for frames in (100, 500, 1000):
        _write(memory, *range(shown, frames))
        shown = frames
        counts.append(len(memory.archive))
    assert max(counts) - min(counts) <= 3
    assert min(counts) > 3


def test_a_page_ends_before_an_event() -> None:
    memory = _begun(made_room(40_000), event_novelty=0.9, page_frames=3, **EVEN)
    for number in range(40):
        block = replace(made_block(number), novelty=float(number % 5 == 0))
        memory.write(block, NOTHING)
    for page in memory.archive.levels[0]:
        numbers = [moment.block.number for moment in memory.archive.read(page.rows)]
        assert all(number % 5 for number in numbers[1:])
        assert len(numbers) in (2, 3)


def test_text_of_any_length_stays_and_never_stops_the_stream() -> None:
    method = Tiered()
    least = method.minimum_bytes(made_room(1, header_tokens=2))
    for more in (0, 20_000):
        room = made_room(least + more, header_tokens=2)
        memory = _begun(room)
        for number in range(60):
            _write(memory, number, tokens=12 + 2 * number % 30, text=2 * number % 30, grid_tokens=12)
        frames = [moment.block for tier in (memory.recent, memory.mid) for moment in tier]
        frames += [m.block for page in memory.archive.pages for m in memory.archive.read(page.rows)]
        assert len(frames) >= 3 or not more
        for block in frames:
            assert int((block.cells < 0).sum()) == 2 * block.number % 30
        assert room.ledger.peak <= room.ledger.memory_bytes
        memory.close()


def test_frames_without_visual_tokens_lengthen_the_last() -> None:
    memory = _begun(made_room(10**5))
    _write(memory, 0)
    memory.write(made_block(1, 2, text=2, grid_tokens=12), NOTHING)
    assert _intervals(memory) == [(0.0, 2.0)]
    assert memory.recent.tokens == 12


@pytest.mark.parametrize("tier", ["recent", "mid", "archive"])
def test_a_question_brings_back_the_frame_it_points_at(tier: str) -> None:
    options = EVEN | {"newest_frames": 1, "brought": 2, "reading": "mean", "detrend": False}
    memory = _begun(made_room(60_000), **options)
    _write(memory, *range(100))
    held = {
        "recent": [moment.block for moment in memory.recent][:-1],
        "mid": [moment.block for moment in memory.mid],
        "archive": [m.block for page in memory.archive.pages for m in memory.archive.read(page.rows)],
    }[tier]
    assert len(held) > 2
    for block in (held[0], held[len(held) // 2]):
        original = made_block(block.number)
        row = int((memory.index.numbers == block.number).nonzero())
        wanted = memory.index.keys[:, :, row, 0].float()
        queries = torch.zeros(LAYERS, QUERY_HEADS, 1, wanted.shape[-1])
        for place, layer in enumerate(memory.index.layers):
            queries[layer, :, 0] = wanted[place].repeat_interleave(2, 0)
        token = int((original.keys[memory.index.layers[0], 0] - wanted[0, 0]).square().sum(-1).argmin())
        assert torch.allclose(original.keys[memory.index.layers[0], 0, token], wanted[0, 0], atol=2e-3)
        assert block.number in _numbers(memory, queries)
    assert len(_numbers(memory, question())) == 3


def test_new_frames_attend_to_the_newest_and_answers_without_a_question_too() -> None:
    options = EVEN | {"local_frames": 3, "newest_frames": 2, "brought": 2}
    memory = _begun(made_room(60_000, context_tokens=60), **options)
    _write(memory, *range(50))
    assert memory.context().tokens == 3 + 3 * 12
    assert memory.recall(None).tokens == 3 + 2 * 12
    assert _numbers(memory, None) == [48, 49]
    alone = _begun(made_room(60_000), local_frames=0)
    _write(alone, *range(5))
    assert alone.context().tokens == 3


def test_a_context_holds_the_newest_frame_however_little_is_asked_for() -> None:
    room = made_room(60_000, context_tokens=5)
    memory = _begun(room, context=2)
    _write(memory, *range(20))
    assert memory.recall(question()).tokens == 3 + 12 == 3 + memory.method.context_tokens(room)


def test_what_goes_to_disk_is_recalled_all_the_same(tmp_path: Path) -> None:
    options = {"archive_share": 0.01, "mid_share": 0.01, "recent_share": 0.1, "index_share": 0.2}
    plain = _begun(made_room(10**6, context_tokens=100), **options | {"archive_share": 0.5})
    room = made_room(10**6, context_tokens=100, spill_folder=tmp_path, spill_bytes=10**7)
    spilled = _begun(room, **options)
    for number in range(250):
        _write(plain, number)
        _write(spilled, number)
    pages = list(spilled.archive.pages)
    assert sum(page.buffer is None for page in pages) > len(pages) / 2
    assert len(pages) == len(list(plain.archive.pages))
    for seed in range(4):
        ours, theirs = spilled.recall(question(seed)), plain.recall(question(seed))
        assert torch.equal(written(ours), written(theirs))
    assert spilled.tiers()["archive"].tokens == plain.tiers()["archive"].tokens
    assert spilled.tiers()["archive"].bytes < plain.tiers()["archive"].bytes
    spilled.close()
    assert not list(tmp_path.iterdir())


def test_a_state_of_other_options_is_refused() -> None:
    memory = _begun(made_room(20_000))
    with pytest.raises(InvalidValueError, match=r"memory_bytes, or options .*give the same"):
        _begun(made_room(30_000)).restore(*memory.state())


def _news(layers: tuple[int, ...] = (0, 1), cells: int = 12, **weights: float) -> NewsDesk:
    return NewsDesk(made_room(1).shape, layers, cells, **weights)


def test_a_token_unlike_the_last_kept_one_of_its_cell_stays() -> None:
    news, first = _news(value_weight=0.0), made_block(0)
    assert news.choose(first, 12, 3) is not None
    changed = first.keys.clone()
    changed[:, :, 7] = -changed[:, :, 7]
    again = replace(first, number=1, keys=changed)
    choice = news.choose(again, 3, 2)
    assert choice is not None
    # all others are as they were: the lowest numbers are taken among equals
    assert 7 in choice.few.tolist()
    assert choice.representatives[0] == 7
    assert choice.utility == pytest.approx(1, abs=1e-5)
    still = news.choose(again, 3, 2)
    assert still is not None
    assert still.utility == pytest.approx(0, abs=1e-5)


def test_slow_drift_counts_from_what_was_kept_last() -> None:
    news, first = _news(value_weight=0.0), made_block(0)
    news.choose(first, 12, 3)
    side = torch.randn(first.keys[:, :, 5].shape, generator=torch.Generator().manual_seed(1))
    kept = []
    for step in range(1, 40):
        keys = first.keys.clone()
        keys[:, :, 5] += 0.05 * step * side
        choice = news.choose(replace(first, keys=keys), 1, 1)
        assert choice is not None
        kept.append((choice.few.tolist(), choice.utility))
    # with one token a frame, the drifting one is compared with itself each time it is kept
    assert all(few == [5] for few, _ in kept)
    sparse = _news(value_weight=0.0)
    sparse.choose(first, 12, 3)
    keys = first.keys.clone()
    keys[:, :, 5] += 0.05 * 39 * side
    jump = sparse.choose(replace(first, keys=keys), 1, 1)
    assert jump is not None
    assert jump.utility > 3 * max(utility for _, utility in kept)


def test_large_values_stay_and_text_always_does() -> None:
    block = made_block(3, 14, text=2)
    values = block.values.clone()
    values[:, :, 9] *= 50
    choice = _news(redundancy_weight=0.0).choose(replace(block, values=values), 1, 3)
    assert choice is not None
    assert choice.few.tolist() == [0, 1, 9]
    assert choice.representatives.tolist() == [9]
    assert _news().choose(made_block(0, 2, text=2, grid_tokens=12), 4, 3) is None


def test_cells_beyond_the_frame_and_cells_seen_twice_are_compared_safely() -> None:
    block = made_block(0, 6)
    cells = torch.tensor([2, 2, 3, 40, 41, 42], dtype=torch.int32)
    news = _news()
    for _ in range(2):
        choice = news.choose(replace(block, cells=cells), 6, 6)
        assert choice is not None
        utility = choice.utility
        assert choice.few.tolist() == list(range(6))
    # three of six are known by now, and equal; the second in a cell is compared with the first
    unlike = 1 - torch.cosine_similarity(block.keys[:, :, 0], block.keys[:, :, 1], dim=-1).mean()
    assert utility == pytest.approx((3 + float(unlike)) / 6, abs=1e-3)


def _index(frames: int, representatives: int = 3) -> tuple[PageIndex, torch.Tensor]:
    """An index of all layers, and the keys (frames, layers, kv_heads, some, dim) that were put there."""
    room = made_room(1)
    index = PageIndex(room.shape, tuple(range(LAYERS)), representatives, frames)
    keys = torch.stack([made_block(number, representatives).keys for number in range(frames)])
    # not in the order of the stream
    for number in torch.randperm(frames, generator=torch.Generator().manual_seed(0)).tolist():
        index.add(keys[number], number, 2.0 * number)
    return index, keys


@pytest.mark.parametrize("reading", ["words", "mean"])
@pytest.mark.parametrize("detrend", [False, True])
def test_scores_are_what_the_docstring_says(reading: Reading, detrend: bool) -> None:
    index, keys = _index(20)
    queries = question(1, 4)
    found = index.search(queries, reading, detrend)
    assert found.numbers.tolist() == list(range(20))
    total = torch.zeros(20)
    for layer in range(LAYERS):
        best = []
        for head in range(2):
            wanted = queries[layer, 2 * head : 2 * head + 2].mean(0)
            for token in wanted.mean(0)[None] if reading == "mean" else wanted:
                of_frames = keys[:, layer, head].half().float()
                if reading == "mean":
                    scores = torch.cosine_similarity(of_frames, token, dim=-1).amax(1)
                else:
                    scores = (of_frames @ token).amax(1)
                best.append((scores - scores.mean()) / scores.std(correction=0))
        score = torch.stack(best).amax(0)
        if detrend:
            times = torch.arange(20.0)
            design = torch.stack([times, torch.ones(20)], 1)
            line = torch.linalg.lstsq(design, score[:, None]).solution
            score = score - times * line[0]
        total += (score - score.mean()) / score.std(correction=0) / LAYERS
    assert torch.allclose(found.scores, total, atol=1e-4)


def test_attention_is_shared_among_all_frames() -> None:
    index, keys = _index(20)
    queries = question(2, 4)
    total = torch.zeros(20)
    for layer in range(LAYERS):
        shares = []
        for head in range(QUERY_HEADS):
            of_frames = keys[:, layer, head // 2].half().float()
            logits = (of_frames @ queries[layer, head].T).flatten(0, 1) / of_frames.shape[-1] ** 0.5
            shares.append(logits.softmax(0).unflatten(0, (20, -1)).sum(1))
        mean = torch.stack(shares).mean(0)
        total += mean[:, -1] + mean.amax(1)
    found = index.search(queries, "attention", True)
    assert torch.allclose(found.scores, (total - total.mean()) / total.std(correction=0), atol=1e-4)


def test_where_in_the_stream_a_frame_stands_is_nothing_to_attention() -> None:
    scores = []
    for first in (0, 500):
        memory = _begun(made_room(60_000))
        for number in range(8):
            block = made_block(number)
            later = replace(block, number=first + number, begin=(block.begin[0] + 12 * first,))
            memory.write(later, NOTHING)
        found = memory.index.search(memory._asked(question()), "attention", True)
        scores.append(found.scores)
    assert torch.equal(*scores)


def test_an_index_gives_rows_again_and_few_keys_are_repeated() -> None:
    index, keys = _index(6)
    assert index.room == 0
    before = index.search(question(), "words", True)
    index.drop(int(before.rows[2]))
    assert index.search(question(), "words", True).numbers.tolist() == [0, 1, 3, 4, 5]
    row = index.add(keys[2], 2, 4.0)
    assert row == int(before.rows[2])
    assert torch.equal(index.search(question(), "words", True).scores, before.scores)
    single, same = PageIndex(made_room(1).shape, (1,), 3, 2), PageIndex(made_room(1).shape, (1,), 1, 2)
    for number in range(2):
        single.add(keys[number, :, :, :1], number, number)
        same.add(keys[number, :, :, :1], number, number)
    assert torch.equal(
        single.search(question(), "words", False).scores, same.search(question(), "words", False).scores
    )
    assert len(PageIndex(made_room(1).shape, (0,), 1, 4).search(question(), "words", True).rows) == 0


def _found(scores: list[float], numbers: list[int] | None = None) -> Found:
    count = len(scores)
    named = torch.arange(count) if numbers is None else torch.tensor(numbers)
    return Found(torch.arange(count) + 100, named, torch.tensor(scores))


def test_the_best_frames_are_chosen_neighbours_last() -> None:
    found = _found([0, 5, 4, 1, 3, 2])
    assert chosen_rows(found, 3) == [101, 102, 104]
    assert chosen_rows(found, 3, suppress_frames=1) == [101, 104, 102]
    assert chosen_rows(found, 9, suppress_frames=1) == [101, 104, 102, 105, 100, 103]
    assert chosen_rows(found, 3, without=[101, 999]) == [102, 104, 105]
    assert chosen_rows(found, 4, suppress_frames=1, expand=1) == [101, 100, 102, 104]
    assert chosen_rows(found, 3, recency=10) == [105, 104, 102]
    far = _found([0, 5, 4, 1, 3, 2], [0, 10, 20, 30, 40, 50])
    assert chosen_rows(far, 3, suppress_frames=9) == [101, 102, 104]
    assert chosen_rows(_found([1, 1, 1]), 2) == [100, 101]
    assert chosen_rows(_found([]), 2) == []


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"recent_share": 0.0}, InvalidValueError, "recent_share must be in"),
        ({"archive_share": 0.9}, InvalidValueError, r"must add up to 1 at most, got 1\.15"),
        ({"levels": 0}, InvalidValueError, "levels must be at least 1"),
        ({"bits": 5}, InvalidValueError, "bits must be 2, 4 or 8"),
        ({"values": "head"}, InvalidValueError, "'head'"),
        ({"reading": "word"}, UnknownNameError, "Did you mean 'words'"),
        ({"gaps": "none"}, UnknownNameError, "unknown rule 'none'"),
        ({"max_gap_frames": -1}, InvalidValueError, "max_gap_frames"),
        ({"index_layers": 3}, InvalidTypeError, "index_layers must be a list"),
        ({"index_layers": []}, InvalidTypeError, "index_layers must be a list"),
        ({"index_layers": [-1]}, InvalidValueError, "index_layers must be at least 0"),
        ({"event_novelty": 2.0}, InvalidValueError, "event_novelty"),
        ({"detrend": 1}, InvalidTypeError, "detrend must be True or False"),
        ({"moment_tokens": 0}, InvalidValueError, "moment_tokens must be at least 1"),
        ({"expand": -1}, InvalidValueError, "expand must be at least 0"),
        ({"recency": -0.5}, InvalidValueError, "recency must be in"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        Tiered(**options)


def test_layers_that_the_model_does_not_have_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="index_layers must be below 2"):
        Tiered(index_layers=(0, 2)).begin(made_room(10**6))
    assert Tiered(index_layers=[1]).index_layers == (1,)  # type: ignore[arg-type]


def test_shares_given_for_the_index_are_taken() -> None:
    shares = {"recent_share": 0.2, "mid_share": 0.2, "archive_share": 0.2}
    few = _begun(made_room(50_000), index_share=0.05, **shares)
    many = _begun(made_room(50_000), index_share=0.4, **shares)
    assert many.plan.rows > 6 * few.plan.rows
    assert many.plan.recent_bytes == few.plan.recent_bytes
    for memory in (few, many):
        _write(memory, *range(150))
        assert memory.room.ledger.peak <= memory.room.ledger.memory_bytes
        assert memory.recall(question()).tokens <= 63
