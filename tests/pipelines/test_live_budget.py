"""Every byte that a stream holds is asked for first, and is never more than it may hold."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import streamprune as sp
from streamprune import errors
from streamprune.pipelines.live import LiveStream
from streamprune.pipelines.offline import VideoLLM
from streamprune.readers import Frame
from streamprune.registry import list_methods

MEMORIES = [row.name for row in list_methods("memory")]
QUESTION = "what color is the circle?"
SIZE = (96, 96)
BYTES = 2_500_000
# recipes, with their options
BEFORE: dict[str | None, dict[str, Any]] = {
    "encoder:stc": {},
    "encoder:stc+pre_llm:stc": {"keep_tokens": 10},
    "streaming_tom": {"keep_ratio": 0.3, "bucket": True},
    "timechat_online": {"threshold": 0.5},
    None: {"gate": False},
}
LITTLE: dict[str, Any] = {"frame_bytes": 0, "context_tokens": 200, "gate": False}


@pytest.fixture(scope="module")
def vlm() -> VideoLLM:
    return sp.load("embedded")


@pytest.fixture(scope="module")
def qwen() -> VideoLLM:
    return sp.load("embedded-qwen")


def noise(number: int) -> Any:
    return np.random.default_rng(number).integers(0, 256, (96, 96, 3), dtype=np.uint8)


def reachable(live: LiveStream) -> Iterator[torch.Tensor]:
    """Every tensor that can be got at from ``live`` without going through the model."""
    seen = {id(live.family), id(live.family.model), id(live.family.tokenizer)}
    seen |= {id(module) for module in live.family.model.modules()}
    todo: list[Any] = [live]
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, (type, ModuleType)):
            continue
        seen.add(id(one))
        if isinstance(one, torch.Tensor):
            yield one
        elif isinstance(one, FunctionType):
            todo += [one.__closure__, one.__defaults__, one.__kwdefaults__, one.__dict__]
        else:
            todo += gc.get_referents(one)


def storages(tensors: Iterator[torch.Tensor]) -> int:
    found = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}
    return sum(found.values())


def least_bytes(vlm: VideoLLM, **settings: Any) -> int:
    """What the error of a stream with next to nothing asks for."""
    with pytest.raises(errors.InvalidValueError, match=r"too small for .* at least") as caught:
        vlm.open_stream(memory_bytes=1000, **settings)
    assert repr(vlm.family.checkpoint.name) in str(caught.value)
    found = re.search(r"at least ([\d,]+) bytes", str(caught.value))
    assert found is not None
    return int(found[1].replace(",", ""))


def check(live: LiveStream) -> None:
    stats = live.stats()
    assert sum(stats.held.values()) == storages(reachable(live)) == storages(live.tensors())
    assert sum(stats.held.values()) <= stats.peak_bytes <= live.options.memory_bytes


@pytest.mark.parametrize("memory", MEMORIES)
def test_the_ledger_is_what_is_there(vlm: VideoLLM, memory: str) -> None:
    nbytes = least_bytes(vlm, memory=memory) * 5 // 4
    with vlm.open_stream(memory=memory, memory_bytes=nbytes) as live:
        check(live)
        for number in range(14):
            live.push(noise(number))
            if number == 7:
                check(live)
        answers = [live.ask(QUESTION, max_new_tokens=4).text for _ in range(2)]
        assert answers[0] == answers[1]
        live.ask(QUESTION, max_new_tokens=4, remember=True)
        check(live)
        stats = live.stats()
        assert stats.frames.accepted == 14
        assert stats.peak_bytes > nbytes / 2, "a budget that is not used proves nothing"
        live.reset()
        check(live)
        assert live.stats().frames == (0, 0, 0)
        assert live.push(noise(0)).pts_seconds == 0.0
    assert sum(live.stats().held.values()) == 0
    assert storages(reachable(live)) == 0


@pytest.mark.parametrize(("recipe", "settings"), BEFORE.items(), ids=str)
def test_what_stands_before_the_memory_is_counted(
    qwen: VideoLLM, recipe: str | None, settings: dict[str, Any]
) -> None:
    with qwen.open_stream(recipe, memory="rekv", memory_bytes=3 * BYTES, **settings) as live:
        for number in range(9):
            live.push(noise(number // 3))
            check(live)
        live.ask(QUESTION, max_new_tokens=3)
        check(live)


@pytest.mark.parametrize(
    ("memory", "model", "given"),
    [
        *((memory, "embedded", {}) for memory in MEMORIES),
        *((memory, "embedded-qwen", LITTLE) for memory in ("rekv", "timechat_online", "tiered")),
    ],
)
def test_it_says_how_little_is_enough(
    vlm: VideoLLM, qwen: VideoLLM, memory: str, model: str, given: dict[str, Any]
) -> None:
    asked = qwen if model == "embedded-qwen" else vlm
    least = least_bytes(asked, memory=memory, frame_size=SIZE, **given)
    with pytest.raises(errors.InvalidValueError, match="too small"):
        asked.open_stream(memory=memory, memory_bytes=least - 1, frame_size=SIZE, **given)
    with asked.open_stream(memory=memory, memory_bytes=least, frame_size=SIZE, **given) as live:
        for number in range(4):
            live.push(noise(number))
        live.ask(QUESTION, max_new_tokens=2)
        check(live)


@pytest.mark.parametrize("seed", range(5))
def test_any_stream_in_any_budget(vlm: VideoLLM, qwen: VideoLLM, seed: int) -> None:
    """Still and busy times, repeats, damaged frames, clocks set back, questions in between."""
    rng = np.random.default_rng(seed)
    asked = (vlm, qwen)[seed % 2]
    recipe, settings = list(BEFORE.items())[seed]
    settings = {**settings, "memory": str(rng.choice(MEMORIES)), "frame_size": SIZE}
    least = least_bytes(asked, recipe=recipe, **settings)
    nbytes = int(least * rng.uniform(1, 2))
    with asked.open_stream(recipe, memory_bytes=nbytes, **settings) as live:
        for number in range(40):
            pts_seconds = number - 30.0 * (number > 20) if rng.random() < 0.9 else None
            still = rng.random() < 0.4
            image = noise(number // 5 if still else 1000 * seed + number)
            if rng.random() < 0.1:
                live.push(Frame(image, float(number), number, corrupt=True))
            live.push(image, pts_seconds)
            if number % 13 == 12:
                live.ask(QUESTION, max_new_tokens=2, remember=bool(rng.integers(2)))
            assert live.stats().peak_bytes <= nbytes
        check(live)
        stats = live.stats()
        assert stats.frames.accepted > 20
        assert stats.tokens_kept > 0


def test_a_feed_is_counted_too(vlm: VideoLLM) -> None:
    with vlm.open_stream(memory="rekv", memory_bytes=BYTES) as live:
        seen = []

        def frames() -> Iterator[Frame]:
            for number in range(4):
                seen.append(live.stats().held["frames"])
                yield Frame(noise(number), float(number), number)

        before = live.stats().held["frames"]
        feed = live.push_from(frames())
        assert feed.join(30)
        assert max(seen) == before + feed.nbytes
        assert feed.nbytes >= 3 * 96 * 96 * 3
        assert live.stats().held["frames"] == before


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"memory_bytes": "lots"}, ValueError, "memory_bytes must be bytes, e.g."),
        ({"memory_bytes": 0}, ValueError, "memory_bytes must be at least 1"),
        ({"memory": "elephant"}, LookupError, "unknown memory method 'elephant'"),
        ({"memory": 7}, TypeError, "memory must be a name"),
        ({"memory_options": {"topk": 0}}, ValueError, "topk must be at least 1"),
        ({"memory_options": {"tokp": 1}}, LookupError, "unknown option of rekv 'tokp'"),
        ({"fps": 0}, ValueError, "fps must be"),
        ({"gate": "yes"}, TypeError, "gate must be True, False or options"),
        ({"gate": {"blocks": 0}}, ValueError, "blocks must be at least 1"),
        ({"answer_tokens": 1}, ValueError, "answer_tokens must be at least 2"),
        ({"answer_tokens": 10_000}, ValueError, "leave nothing of the model's context of 8192"),
        ({"frame_size": 96}, TypeError, r"frame_size must be \(rows, cols\)"),
        ({"spill_bytes": 5}, ValueError, "spill_bytes= needs spill_folder="),
        ({"recipe": "fastv"}, ValueError, "has a stage 'in_llm', which a stream does not carry out"),
        ({"recipe": "snapkv"}, ValueError, "has a stage 'kv'"),
        ({"recipe": "fastvid", "keep_ratio": 0.5}, ValueError, "frames that come later"),
        ({"recipe": "cdpruner", "keep_ratio": 0.5}, ValueError, "question|frames that come later"),
        ({"keep_ratio": 0.5, "recipe": None}, ValueError, "need a method that chooses what stays"),
        ({"keep_ratio": 0.5, "keep_tokens": 5, "recipe": "stc"}, ValueError, "not both"),
        ({"threshold": 0.5}, LookupError, "threshold"),
    ],
)
def test_settings_that_cannot_be_meant(
    vlm: VideoLLM, settings: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        vlm.open_stream(**{"memory": "rekv", "memory_bytes": BYTES, **settings})
