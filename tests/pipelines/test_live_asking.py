"""Questions about a stream while frames come in: none changes another, and frames go first."""

from __future__ import annotations

import asyncio
import importlib
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest

import streamprune as sp
from streamprune import errors
from streamprune.embedded.world import Clip, clip
from streamprune.pipelines import live_recall
from streamprune.pipelines.answers import Answer
from streamprune.pipelines.live import LiveStream
from streamprune.pipelines.offline import VideoLLM

FRAMES = 12
THREADS = 8
SETTINGS: dict[str, Any] = {"memory": "rekv", "memory_bytes": 8_000_000, "gate": False}
# one for each way of reading: queries of the question, whole frames, visual tokens
MEMORIES = ("rekv", "window", "tiered")


@pytest.fixture(scope="module")
def vlm() -> VideoLLM:
    return sp.load("embedded")


@pytest.fixture(scope="module")
def video() -> Clip:
    return clip(9_100, FRAMES, split="eval", questions=8)


@pytest.fixture
def live(vlm: VideoLLM, video: Clip) -> Iterator[LiveStream]:
    with vlm.open_stream(**SETTINGS) as opened:
        for frame in video.frames:
            opened.push(frame)
        yield opened


def texts(live: LiveStream, question: str) -> str:
    return live.ask(question).text


def together(work: Sequence[Callable[[], Any]]) -> list[Any]:
    """Results of all ``work``, done in a thread each; the first error is raised."""
    found: list[Any] = [None] * len(work)

    def do(place: int) -> None:
        try:
            found[place] = work[place]()
        except BaseException as error:
            found[place] = error

    threads = [threading.Thread(target=do, args=(place,)) for place in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return found


def test_many_at_once_are_each_alone(live: LiveStream, video: Clip) -> None:
    questions = [one.text for one in video.questions]
    alone = [live.ask(question).text for question in questions]
    assert len(set(alone)) > 2
    assert together([partial(texts, live, question) for question in questions]) == alone
    assert live.stats().held["working"] < live.stats().peak_bytes


@pytest.mark.parametrize("memory", MEMORIES)
def test_answers_are_those_of_their_moment(
    vlm: VideoLLM, video: Clip, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While frames are pushed as fast as they can be, every answer is that of one state of the stream."""
    questions = [one.text for one in video.questions[:3]]
    settings = {**SETTINGS, "memory": memory}
    with vlm.open_stream(**settings) as live:
        live.push(video.frames[0])
        answers: list[tuple[int, str, str]] = []

        def ask(question: str) -> None:
            for _ in range(2):
                answer = live.ask(question)
                answers.append((answer.stats.frames, question, answer.text))

        def push() -> None:
            for number in range(1, 9):
                assert live.push(video.frames[number % FRAMES]).accepted

        together([push, *[partial(ask, question) for question in questions]])
        assert live.stats().frames.accepted == 9
    seen = {frames for frames, _, _ in answers}
    assert len(answers) == 2 * len(questions)
    assert len(seen) > 1, "answers of one moment alone prove little"
    with vlm.open_stream(**settings) as again:
        for number in range(9):
            again.push(video.frames[number % FRAMES])
            for frames, question, text in answers:
                if frames == number + 1:
                    assert again.ask(question).text == text


def test_the_soak_in_short(vlm: VideoLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``make soak`` does for a minute; how long anything takes is for it to judge."""
    monkeypatch.syspath_prepend("demos")
    seen = importlib.import_module("ask_soak").ride(vlm, seconds=1.5, threads=THREADS, fps=4.0)
    told = seen.summary()
    assert told["differing"] == 0
    assert told["answers"] >= THREADS
    assert 0 < told["taken"] <= told["frames"] <= 6


def test_a_question_is_read_once_more_when_a_frame_comes_between(
    live: LiveStream, video: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = live_recall._queries, [5]

    def pushes(*args: Any) -> Any:
        found = real(*args)
        left[0] -= 1
        if left[0] > 2:
            live.push(video.frames[left[0]])
        return found

    monkeypatch.setattr(live_recall, "_queries", pushes)
    answer = live.ask(video.questions[0].text)
    assert (left[0], answer.stats.frames) == (2, FRAMES + 2)
    assert answer.text == live.ask(video.questions[0].text).text


def test_the_last_try_holds_the_memory_still(
    live: LiveStream, video: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tries, pushed = live_recall._queries, [0], []

    def pushes(*args: Any) -> Any:
        tries[0] += 1
        thread = threading.Thread(target=lambda: pushed.append(live.push(video.frames[tries[0]])))
        thread.start()
        if tries[0] <= live_recall._MOST_TRIES:
            thread.join(60)
        return real(*args)

    monkeypatch.setattr(live_recall, "_queries", pushes)
    answer = live.ask(video.questions[0].text)
    assert tries[0] == live_recall._MOST_TRIES + 1
    assert answer.stats.frames == FRAMES + live_recall._MOST_TRIES


def test_frames_come_in_while_an_answer_is_given(live: LiveStream, video: Clip) -> None:
    stream = live.ask("describe what happens in the first scene", max_new_tokens=30, stream=True)
    first = next(stream)
    assert live.push(video.frames[3]).accepted
    assert live.stats().frames.accepted == FRAMES + 1
    assert (first + "".join(stream)).startswith(first)
    assert stream.answer.stats.frames == FRAMES
    assert stream.answer.pts_seconds == (0.0, FRAMES - 1.0)


def test_a_cancelled_answer_leaves_nothing(live: LiveStream, video: Clip) -> None:
    question = "describe what happens in the first scene"
    whole, held = live.ask(question, max_new_tokens=40), live.stats().held
    with live.ask(question, max_new_tokens=40, stream=True) as stream:
        next(stream)
    assert 0 < stream.answer.stats.new_tokens < whole.stats.new_tokens
    assert live.stats().held == held
    unread = live.ask(question, stream=True)
    unread.close()
    assert live.stats().held == held
    assert live.ask(question, max_new_tokens=40).text == whole.text


def test_one_that_waits_for_its_turn_can_be_cancelled(
    live: LiveStream, vlm: VideoLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = "describe what happens in the first scene"
    # an id that cannot come up: the first goes on and on
    monkeypatch.setattr(vlm.family.model.generation_config, "eos_token_id", 10**6)
    first = live.ask(question, max_new_tokens=240, stream=True)
    next(first)
    # the first holds the only working copy until it is read or closed
    waiting = live.ask(question, stream=True)
    reader = threading.Thread(target=lambda: list(waiting))
    reader.start()
    waiting.close()
    reader.join(60)
    assert waiting.answer.text == ""
    assert waiting.answer.stats.new_tokens == 0
    first.close()
    assert 1 <= first.answer.stats.new_tokens < 240, "it was at work all the time"


def test_closing_ends_answers(vlm: VideoLLM, video: Clip) -> None:
    live = vlm.open_stream(**SETTINGS)
    live.push(video.frames[0])
    stream = live.ask("describe what happens in the first scene", max_new_tokens=100, stream=True)
    next(stream)
    live.close()
    list(stream)
    assert stream.answer.stats.new_tokens < 100
    late = vlm.open_stream(**SETTINGS)
    late.push(video.frames[0])
    unread = late.ask("is there a star?", stream=True)
    late.close()
    with pytest.raises(errors.StreamClosedError):
        next(unread)


def test_several_copies_are_set_aside(vlm: VideoLLM, video: Clip) -> None:
    with vlm.open_stream(**SETTINGS, answers_at_once=2) as live:
        live.push(video.frames[0])
        streams = [live.ask("is there a star?", stream=True) for _ in range(2)]
        with live.ask("is there a star?", stream=True) as one:
            first = next(one)
            assert live.ask("is there a star?").text.startswith(first)
        assert ["".join(stream) for stream in streams] == [one.answer.text] * 2


def test_what_was_said_before(vlm: VideoLLM, video: Clip) -> None:
    """Later questions see remembered ones as a chat about the same video would."""
    questions = [one.text for one in video.questions[:3]]
    with vlm.open_stream(**SETTINGS, dialogue_bytes=200) as live:
        for frame in video.frames:
            live.push(frame)
        chat = vlm.chat(video.frames, num_frames=FRAMES)
        for question in questions[:2]:
            forgotten = live.ask(question)
            assert live.ask(question, remember=True).text == chat.ask(question).text
            assert forgotten.text
        assert live.stats().held["dialogue"] > 0
        last = live.ask(questions[2])
        assert last.text == chat.ask(questions[2]).text
        assert last.stats.prompt_tokens > live_tokens(vlm, video, questions[2])
        for _ in range(10):
            live.ask(questions[0], remember=True)
            assert 0 < live.stats().held["dialogue"] <= 200
        live.reset()
        assert live.stats().held["dialogue"] == 0


def live_tokens(vlm: VideoLLM, video: Clip, question: str) -> int:
    """Tokens that the model reads for a question without a dialogue."""
    with vlm.open_stream(**SETTINGS) as live:
        live.push(video.frames[0])
        return live.ask(question).stats.prompt_tokens


def test_a_dialogue_makes_room_for_the_question(vlm: VideoLLM, video: Clip) -> None:
    question = video.questions[0].text
    with vlm.open_stream(**SETTINGS, answer_tokens=40, dialogue_bytes=2000) as live:
        live.push(video.frames[0])
        first = live.ask(question, max_new_tokens=8)
        for _ in range(6):
            answer = live.ask(question, max_new_tokens=8, remember=True)
            assert answer.stats.prompt_tokens < 2 * 40
        assert first.text
        with pytest.raises(errors.InvalidValueError, match=r"more than answer_tokens=40, .*set aside"):
            live.ask(question, max_new_tokens=39)


def test_streams_share_a_model(vlm: VideoLLM, video: Clip) -> None:
    others = clip(9_101, FRAMES, split="eval", questions=1).frames
    question = video.questions[0].text
    with vlm.open_stream(**SETTINGS) as one, vlm.open_stream(**{**SETTINGS, "memory": "tiered"}) as two:
        for first, second in zip(video.frames, others, strict=True):
            one.push(first)
            two.push(second)
        found = one.ask(question).text, two.ask(question).text

        def alone(frames: Any, memory: str) -> str:
            with vlm.open_stream(**{**SETTINGS, "memory": memory}) as live:
                for frame in frames:
                    live.push(frame)
                return live.ask(question).text

        assert found == (alone(video.frames, "rekv"), alone(others, "tiered"))
        assert found[0] != found[1]
        threads = [lambda: one.ask(question).text, lambda: two.ask(question).text] * 3
        assert together(threads) == [*found] * 3


def test_pushes_from_several_threads(vlm: VideoLLM, video: Clip) -> None:
    with vlm.open_stream(**SETTINGS) as live:
        pushed = together([partial(live.push, frame) for frame in video.frames])
        assert sorted(one.pts_seconds for one in pushed) == [float(number) for number in range(FRAMES)]
        assert live.stats().frames == (FRAMES, FRAMES, 0)


def test_awaiting(vlm: VideoLLM, video: Clip) -> None:
    async def main() -> None:
        with vlm.open_stream(**SETTINGS) as live:
            with pytest.raises(errors.InvalidValueError, match="nothing to ask about yet"):
                await live.ask_async("is there a star?")
            for frame in video.frames:
                assert (await live.push_async(frame)).accepted
            question = video.questions[0].text
            found = await asyncio.gather(*[live.ask_async(question) for _ in range(3)])
            assert {answer.text for answer in found} == {live.ask(question).text}
            with pytest.raises(errors.InvalidTypeError, match="remember must be True or False"):
                await live.ask_async(question, remember=1)
            task = asyncio.create_task(
                live.ask_async("describe what happens in the first scene", max_new_tokens=150)
            )
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"question": " "}, "question must not be empty"),
        ({"question": ["a"]}, "question must be text"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"max_new_tokens": 2000}, "more than answer_tokens=256"),
        ({"temperature": -1}, "temperature must be in"),
        ({"top_p": 0.5}, "at temperature 0 none is drawn"),
        ({"stop": 7}, "stop must be a text"),
        ({"max_tokens": 7}, r"unknown setting of ask\(\) 'max_tokens'. Did you mean 'max_new_tokens'"),
        ({"question": "what is <video>?"}, "must not contain the placeholders"),
    ],
)
def test_questions_that_cannot_be_meant(live: LiveStream, settings: dict[str, Any], message: str) -> None:
    held = live.stats().held
    with pytest.raises(ValueError, match=message):
        live.ask(**{"question": "is there a star?", **settings})
    assert live.stats().held == held


def test_words_are_drawn(live: LiveStream) -> None:
    def said(**settings: Any) -> str:
        answer: Answer = live.ask("is there a star?", max_new_tokens=8, temperature=5.0, **settings)
        return answer.text

    assert said(seed=1) == said(seed=1)
    assert len({said(seed=seed) for seed in range(4)}) > 1


def test_frames_of_any_size_and_shape(vlm: VideoLLM) -> None:
    """They are shown as large as the first."""
    with vlm.open_stream(**SETTINGS) as live:
        for number, size in enumerate([(96, 96), (40, 300), (1, 1), (500, 20)]):
            image = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
            assert live.push(image).tokens_kept == 36
        assert live.ask("is there a star?").text
