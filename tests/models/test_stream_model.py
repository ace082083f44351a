"""Reading a stream frame by frame is reading the stock prompt, in every family whose positions allow it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from streamprune.cache.block import Block
from streamprune.cache.context import BlockContext, GapRule
from streamprune.cache.ledger import Ledger
from streamprune.cache.working import WorkingCache
from streamprune.errors import UnsupportedModelError
from streamprune.models.base import Prompt, VideoFamily
from streamprune.models.generation import generate
from streamprune.models.sampling import Sampling
from streamprune.models.stream_answer import answer
from streamprune.models.stream_model import StreamModel
from streamprune.tokens import Reduction, VideoGrid
from tests.models.small_minicpm import save_small_minicpm
from tests.pipelines.stock_calls import NAMES, load_small, pixels_of

QUESTION = "where is the big square ?"
# their prompts name the number of frames, or count them, which no stream can know
UNKNOWN_LENGTH = ("internvl", "smolvlm")
GB = 2**30


@pytest.fixture(scope="module", params=NAMES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VideoFamily:
    return load_small(request.param, tmp_path_factory.mktemp(request.param))


class Watched:
    """A small video, read frame by frame."""

    def __init__(self, family: VideoFamily, keep: slice = slice(None)) -> None:
        encoded = family.encode(pixels_of(family))
        self.family = family
        self.grid = VideoGrid(*encoded.features.shape[:3])
        self.times = tuple(float(number) for number in range(self.grid.frames))
        self.model = StreamModel(family)
        self.shape = self.model.shape(self.grid)
        self.ledger = Ledger(GB)
        self.cache = WorkingCache(self.shape, 2000, self.ledger)
        cells = torch.arange(self.grid.tokens_per_frame)[keep]
        index = (torch.arange(self.grid.frames)[:, None] * self.grid.tokens_per_frame + cells).flatten()
        tokens = encoded.tokens({}, self.times)
        self.kept = Reduction.select(tokens, index)
        self.blocks = [self._head()]
        self.end = self.blocks[0].span
        for number in range(self.grid.frames):
            rows = tokens.frames[number, cells]
            every = number * self.grid.tokens_per_frame + cells
            carried = None if tokens.carried is None else tokens.carried[every]
            self._frame(number, rows, cells, carried)

    def _head(self) -> Block:
        begin = (0,) * self.shape.axes
        head = self.model.head(self.grid)
        reading = self.model.read(head, begin, self.cache)
        return self.model.block(head, reading, self.cache, number=-1, seconds=(0, 0), begin=begin)

    def _frame(
        self, number: int, rows: torch.Tensor, cells: torch.Tensor, carried: torch.Tensor | None
    ) -> None:
        chunk = self.model.frame(self.grid, self.times[number], rows, cells, carried, first=number == 0)
        reading = self.model.read(chunk, self.end, self.cache)
        seconds = (self.times[number], self.times[number] + 1)
        self.blocks.append(
            self.model.block(chunk, reading, self.cache, number=number, seconds=seconds, begin=self.end)
        )
        self.end = tuple(at + wide for at, wide in zip(self.end, chunk.span, strict=True))

    def prompt(self) -> Prompt:
        """The stock prompt about the same."""
        return self.family.prompt(QUESTION, self.kept, pts_seconds=self.times)

    def logits(self, cache: WorkingCache) -> torch.Tensor:
        """After the question, over ``cache``, which is as it was afterwards."""
        length = cache.length
        tail = self.model.tail(self.grid, QUESTION)
        reading = self.model.read(tail, self.model.tail_place(self.grid, self.end), cache)
        cache.cut(length)
        return reading.logits

    def stock(self) -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = self.family.model(**self.prompt().model_inputs()).logits[0, -1]
        return found.float()


@pytest.fixture(scope="module")
def watched(family: VideoFamily) -> Watched:
    return Watched(family)


def _close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_frame_by_frame_is_the_stock_prompt(watched: Watched) -> None:
    if watched.family.model_type in UNKNOWN_LENGTH:
        return  # what differs is held by the next tests
    _close(watched.logits(watched.cache), watched.stock())


def test_what_was_reduced_is_read_where_it_stood(family: VideoFamily) -> None:
    if family.model_type in UNKNOWN_LENGTH:
        return
    some = Watched(family, slice(0, None, 2))
    _close(some.logits(some.cache), some.stock())


def test_blocks_without_rotation_make_the_same_cache(watched: Watched) -> None:
    context = BlockContext(watched.blocks, GapRule("keep"), watched.model.rotation)
    assert (context.tokens, context.end) == (watched.cache.length, watched.end)
    with WorkingCache(watched.shape, context.tokens + 50, watched.ledger) as again:
        again.fill(context)
        for one, other in zip(again.layers, watched.cache.layers, strict=True):
            expected = other.keys[:, :, : context.tokens]
            torch.testing.assert_close(
                one.keys[:, :, : context.tokens], expected, rtol=0, atol=1e-5 * float(expected.abs().max())
            )
        _close(watched.logits(again), watched.logits(watched.cache))


def test_a_block_is_as_large_as_it_says(watched: Watched) -> None:
    for block in watched.blocks:
        assert block.nbytes == sum(tensor.nbytes for tensor in block.tensors)
        assert (block.cells < 0).sum() + watched.grid.tokens_per_frame * (block.number >= 0) == block.tokens


def test_queries_are_those_before_rotation(watched: Watched) -> None:
    length = watched.cache.length
    tail = watched.model.tail(watched.grid, QUESTION)
    found = []
    for shift in (0, 7):
        begin = tuple(at + shift for at in watched.model.tail_place(watched.grid, watched.end))
        reading = watched.model.read(tail, begin, watched.cache, queries=True)
        watched.cache.cut(length)
        assert reading.queries is not None
        found.append(reading.queries)
    shape = watched.shape
    assert found[0].shape == (shape.layers, shape.query_heads, len(tail), shape.head_dim)
    # the first layer has seen nothing of positions yet
    torch.testing.assert_close(found[0][0], found[1][0])
    assert not torch.allclose(found[0][-1], found[1][-1], atol=1e-6)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0, seed=3), Sampling(repetition_penalty=1.5)])
def test_an_answer_is_that_of_generate(watched: Watched, sampling: Sampling) -> None:
    if watched.family.model_type in UNKNOWN_LENGTH:
        return
    length = watched.cache.length
    place = watched.model.tail_place(watched.grid, watched.end)
    tail = watched.model.tail(watched.grid, QUESTION)
    said: list[str] = []
    found = answer(
        watched.model, tail, place, watched.cache, max_new_tokens=6, sampling=sampling, on_text=said.append
    )
    watched.cache.cut(length)
    if sampling.repetition_penalty is None:  # which generate counts over the whole prompt
        expected = generate(watched.family, watched.prompt(), max_new_tokens=6, sampling=sampling)
        assert (found.token_ids, found.text) == (expected.token_ids, expected.text)
    assert "".join(said) == found.text


def test_recurrent_layers_are_refused(tmp_path: Path) -> None:
    from streamprune.models.loading import load_model

    with pytest.raises(UnsupportedModelError, match="forget and bring back"):
        StreamModel(load_model(save_small_minicpm(tmp_path)))


def test_a_closed_cache_gives_its_bytes_back(watched: Watched) -> None:
    before = watched.ledger.total
    cache = WorkingCache(watched.shape, 10, watched.ledger)
    assert watched.ledger.total - before == sum(x.untyped_storage().nbytes() for x in cache.tensors())
    cache.close()
    cache.close()
    assert watched.ledger.total == before


def test_tokens_of_one_cell_may_be_several(watched: Watched) -> None:
    rows = torch.zeros(3, watched.kept.features.shape[1])
    carried = watched.kept.carried
    extra = None if carried is None else torch.zeros(3, carried.shape[1])
    chunk = watched.model.frame(watched.grid, 1.0, rows, torch.tensor([0, 0, 1]), extra)
    visual = chunk.cells >= 0
    assert chunk.cells[visual].tolist() == [0, 0, 1]
    assert torch.equal(chunk.offsets[:, visual][:, 0], chunk.offsets[:, visual][:, 1])
