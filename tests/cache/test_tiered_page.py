"""Pages of small integers, the file they may go to, and the levels on which they are merged."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from streamprune.cache.archive import Archive
from streamprune.cache.block import CacheShape
from streamprune.cache.ledger import Ledger
from streamprune.cache.moment import Moment
from streamprune.cache.page import Page, PageFormat, ValueScales, read_page
from streamprune.cache.spill import SpillFile
from streamprune.errors import InvalidTypeError, InvalidValueError, UnknownNameError
from tests.cache.made_stream import DIM, KV_HEADS, LAYERS, QUERY_HEADS, made_block

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def _shape(dtype: torch.dtype = torch.float32, axes: int = 1) -> CacheShape:
    return CacheShape(LAYERS, QUERY_HEADS, KV_HEADS, DIM, axes, dtype, torch.device("cpu"))


def _moment(number: int, tokens: int = 3, **options: Any) -> Moment:
    block = made_block(number, tokens, grid_tokens=12, **options)
    return Moment(block, row=number, utility=float(number * 7 % 5))


def _page_of(page_format: PageFormat, moments: list[Moment]) -> Page:
    buffer = page_format.pack(moments)
    tokens = sum(moment.block.tokens for moment in moments)
    rows = tuple(moment.row for moment in moments)
    return Page(tokens, rows, 0.0, 1.0, buffer.nbytes, buffer)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("values", ["token", "channel"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_numbers_come_back_within_half_a_step_and_all_else_as_it_was(
    dtype: torch.dtype, values: ValueScales, bits: int
) -> None:
    page_format = PageFormat(_shape(dtype, 3), bits, values)
    # odd numbers of tokens, so that codes do not fill their bytes
    moments = [_moment(number, tokens, dtype=dtype, axes=3) for number, tokens in ((4, 2), (5, 4), (9, 1))]
    page = _page_of(page_format, moments)
    assert page.buffer is not None
    assert page.nbytes == page_format.nbytes(7, 3) == page.buffer.untyped_storage().nbytes()
    found = read_page(page_format, page, page.buffer)
    for name in ("keys", "values"):
        x = torch.cat([getattr(moment.block, name) for moment in moments], 2).float()
        y = torch.cat([getattr(moment.block, name) for moment in found], 2).float()
        along = 2 if name == "keys" or values == "channel" else 3
        step = (x.amax(along, keepdim=True) - x.amin(along, keepdim=True)) / (2**bits - 1)
        rounding = x.abs().amax() * 3 * torch.finfo(page_format.scale_dtype).eps
        assert bool(((x - y).abs() <= step / 2 + rounding).all())
        assert bool(((x - y).abs() > 0).any())
    for ours, theirs in zip(moments, found, strict=True):
        assert (theirs.row, theirs.utility) == (ours.row, ours.utility)
        assert torch.equal(theirs.block.offsets, ours.block.offsets)
        assert torch.equal(theirs.block.cells, ours.block.cells)
        assert theirs.block.keys.dtype == dtype
        for name in ("number", "start_seconds", "stop_seconds", "begin", "span"):
            assert getattr(theirs.block, name) == getattr(ours.block, name)
        assert theirs.block.novelty == pytest.approx(ours.block.novelty)
        # nothing keeps the whole page alive
        assert theirs.block.nbytes == sum(tensor.nbytes for tensor in theirs.block.tensors)


def test_some_frames_of_a_page_read_alone_are_as_among_all() -> None:
    page_format = PageFormat(_shape())
    page = _page_of(page_format, [_moment(number, 3 + number % 2) for number in range(5)])
    assert page.buffer is not None
    every = read_page(page_format, page, page.buffer)
    for wanted in ([1], [4, 0]):
        some = read_page(page_format, page, page.buffer, wanted)
        for place, moment in zip(wanted, some, strict=True):
            pairs = zip(moment.block.tensors, every[place].block.tensors, strict=True)
            assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


def test_equal_numbers_come_back_exactly_and_huge_ones_stay_finite() -> None:
    page_format = PageFormat(_shape())
    moment = _moment(0, 5)
    keys = torch.full_like(moment.block.keys, 0.75)
    values = torch.full_like(moment.block.values, -3.0e6)
    moment = replace(moment, block=replace(moment.block, keys=keys, values=values))
    page = _page_of(page_format, [moment])
    assert page.buffer is not None
    (found,) = read_page(page_format, page, page.buffer)
    assert torch.equal(found.block.keys, keys)
    assert bool(found.block.values.isfinite().all())


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="bits must be 2, 4 or 8, got 3"):
        PageFormat(_shape(), 3)
    with pytest.raises(InvalidTypeError, match="bits"):
        PageFormat(_shape(), "4")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="unknown values 'head'"):
        PageFormat(_shape(), 4, "head")  # type: ignore[arg-type]


@pytest.fixture
def spill(tmp_path: Path) -> Iterator[SpillFile]:
    file = SpillFile(tmp_path / "made" / "here", 1000, 10**6)
    yield file
    file.close()


def test_slots_give_back_what_was_put_and_are_used_again(spill: SpillFile) -> None:
    put = {}
    for number in range(50):
        buffer = torch.randint(0, 256, (1000 - number,), dtype=torch.uint8)
        slot = spill.put(buffer)
        assert slot is not None
        put[slot] = buffer
    assert len(put) == 50
    spill.give(7)
    more = torch.ones(3, dtype=torch.uint8)
    assert spill.put(more) == 7
    put[7] = more
    for slot, buffer in put.items():
        assert torch.equal(spill.get(slot, len(buffer), torch.device("cpu")), buffer)
    assert spill.put(torch.ones(1001, dtype=torch.uint8)) is None


def test_a_file_grows_to_its_bound_only_and_leaves_no_name(tmp_path: Path) -> None:
    bound = 50_000
    file = SpillFile(tmp_path, 1000, bound)
    slots = 0
    while file.put(torch.zeros(1000, dtype=torch.uint8)) is not None:
        slots += 1
        assert file.nbytes <= bound
    assert slots > 30
    assert not file.has_room
    assert not list(tmp_path.iterdir())
    file.close()
    file.close()
    assert file.put(torch.zeros(1, dtype=torch.uint8)) is None


def test_a_full_disk_is_said_once_and_nothing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    file = SpillFile(tmp_path, 100, 10**6)
    with caplog.at_level(logging.WARNING, "streamprune.cache"):
        assert [file.put(torch.zeros(10, dtype=torch.uint8)) for _ in range(3)] == [None] * 3
    assert len(caplog.records) == 1
    assert "No space left on device" in caplog.text
    assert str(tmp_path) in caplog.text
    file.close()


def test_a_folder_that_is_a_file_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    file = SpillFile(tmp_path / "file", 100, 10**6)
    with caplog.at_level(logging.WARNING, "streamprune.cache"):
        assert file.put(torch.zeros(10, dtype=torch.uint8)) is None
        assert file.put(torch.zeros(10, dtype=torch.uint8)) is None
    assert len(caplog.records) == 1
    file.close()


def _archive(pages: int, spill: SpillFile | None = None, levels: int = 3) -> tuple[Archive, Ledger]:
    page_format = PageFormat(_shape())
    memory_bytes = pages * page_format.nbytes(12, 4)
    ledger = Ledger(memory_bytes)
    return Archive(page_format, levels, 4, memory_bytes, ledger, spill), ledger


def _fill(archive: Archive, pages: int, first: int = 0) -> set[int]:
    """Rows held after adding ``pages`` of four frames each."""
    rows = set(range(4 * first))
    for page in range(first, first + pages):
        moments = [_moment(number) for number in range(4 * page, 4 * page + 4)]
        rows |= {moment.row for moment in moments}
        rows -= set(archive.add(moments, 4.0 * page, 4.0 * page + 4))
    return rows


def test_nothing_is_merged_while_there_is_room() -> None:
    archive, _ = _archive(10)
    rows = _fill(archive, 10)
    assert rows == set(range(40))
    assert [len(level) for level in archive.levels] == [10, 0, 0]


def test_merged_pages_cover_the_past_once_and_keep_what_was_new() -> None:
    archive, ledger = _archive(9)
    seen_merging = False
    for page in range(100):
        rows = _fill(archive, 1, page)
        del rows
        pages = list(archive.pages)
        assert archive.nbytes == ledger.total <= archive.memory_bytes
        assert all(before.stop_seconds == after.start_seconds for before, after in pairwise(pages))
        assert pages[-1].stop_seconds == 4.0 * page + 4
        covered = pages[0].start_seconds
        if not archive.levels[2]:
            assert covered == 0
        seen_merging |= bool(archive.levels[1])
    assert seen_merging
    assert max(len(level) for level in archive.levels) <= 4
    oldest = archive.levels[1][0]
    moments = archive.read(oldest.rows)
    # of eight frames, whose utilities are 0 to 4 in turn, the four best stay
    assert sorted(moment.utility for moment in moments)[0] >= 2


def test_the_best_frames_of_two_pages_stay_in_their_order_and_ties_go_to_the_older() -> None:
    archive, _ = _archive(2, levels=2)
    first = [replace(_moment(number), utility=utility) for number, utility in enumerate((1, 0, 2, 0))]
    second = [replace(_moment(number + 4), utility=utility) for number, utility in enumerate((0, 1, 1, 3))]
    assert archive.add(first, 0, 4) == []
    assert archive.add(second, 4, 8) == []
    assert archive.shrink() == [1, 3, 4, 6]
    (page,) = archive.pages
    assert page.rows == (0, 2, 5, 7)
    assert (page.start_seconds, page.stop_seconds) == (0, 8)
    assert [archive.holds(row) for row in range(8)] == [row in page.rows for row in range(8)]


def test_the_last_level_drops_its_oldest_page() -> None:
    archive, _ = _archive(4, levels=1)
    assert _fill(archive, 5) == set(range(4, 20))
    assert next(archive.pages).start_seconds == 4


def test_pages_on_disk_are_as_pages_in_memory(tmp_path: Path) -> None:
    slot = PageFormat(_shape()).nbytes(12, 4)
    with_disk = SpillFile(tmp_path, slot, 10**6)
    spilled, ledger = _archive(4, with_disk)
    plain, _ = _archive(40)
    assert _fill(spilled, 30) == _fill(plain, 30)
    assert ledger.total <= 4 * slot
    assert sum(page.buffer is None for page in spilled.pages) == 26
    for ours, theirs in zip(spilled.read(range(0, 120, 7)), plain.read(range(0, 120, 7)), strict=True):
        assert ours.row == theirs.row
        assert torch.equal(ours.block.keys, theirs.block.keys)
        assert torch.equal(ours.block.values, theirs.block.values)
    (tensors, about), (of_plain, about_plain) = spilled.state(), plain.state()
    assert about == about_plain
    assert all(torch.equal(tensor, of_plain[name]) for name, tensor in tensors.items())
    spilled.close()
    assert ledger.total == 0


def test_merging_goes_on_when_the_disk_is_full_too(tmp_path: Path) -> None:
    slot = PageFormat(_shape()).nbytes(12, 4)
    spilled, ledger = _archive(4, SpillFile(tmp_path, slot, 20 * slot))
    for page in range(150):
        _fill(spilled, 1, page)
        pages = list(spilled.pages)
        assert all(before.stop_seconds == after.start_seconds for before, after in pairwise(pages))
        assert spilled.nbytes == ledger.total == sum(page.nbytes for page in pages if page.buffer is not None)
    assert any(page.buffer is None for page in pages)
    rows = [row for page in pages for row in page.rows]
    numbers = [moment.block.number for moment in spilled.read(rows)]
    assert numbers == sorted(numbers) == rows
    spilled.close()
