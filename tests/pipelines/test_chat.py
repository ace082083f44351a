"""Conversations: every turn is what the whole conversation would get at once, on every family."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from streamprune import errors
from streamprune.cache.kept import KeptCache
from streamprune.metrics.flops import DecoderShape
from streamprune.models.attach import attach
from streamprune.models.conversation import next_turn_ids, next_turn_text
from streamprune.models.prompt import Prompt
from streamprune.models.prompt_rows import VisualRows
from streamprune.pipelines import asking
from streamprune.pipelines.answer_cache import answer_cache
from streamprune.pipelines.chat import Chat
from streamprune.pipelines.offline import VideoLLM, load
from streamprune.recipe import Choice, Recipe
from streamprune.registry import get_method
from tests.matrix.cells import watched_logits
from tests.models.small_llava import save_small_llava
from tests.models.test_families import SAVE

QUESTIONS = ["what colour is the circle ?", "where is it moving ?", "is the small square left ?"]
HYBRID = {"minicpmv4_6", "qwen3_5"}  # some of whose layers hand on a state
OTHER = "red blue what"  # has an answer of different words
NEW = 3

# behind another method, so that it does not decide about everything
FASTV = Recipe(
    stages={"pre_llm": "stride", "in_llm": Choice("fastv", {"layer": 1, "keep_ratio": 0.5})}  # type: ignore[dict-item]
).with_budget(0.7)
SNAPKV = Recipe(stages={"kv": Choice("snapkv", {"window": 4, "keep_ratio": 0.6, "protect_text": False})})
RECIPES = {"none": None, "fastv": FASTV, "snapkv": SNAPKV}


@pytest.fixture(scope="module", params=sorted(SAVE))
def family_vlm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VideoLLM:
    return load(SAVE[request.param](tmp_path_factory.mktemp(request.param)))


@pytest.fixture(scope="module")
def video() -> Any:
    return np.random.default_rng(3).integers(0, 256, (6, 40, 48, 3), dtype=np.uint8)


def held(chat: Chat) -> tuple[Prompt, tuple[int, ...]]:
    """The first question's prompt, and the ids that came behind it."""
    assert chat._talk is not None
    return chat._talk.prompt, chat._talk.said


@contextmanager
def acting(vlm: VideoLLM, chat: Chat) -> Iterator[Any]:
    """The recipe of ``chat`` for as long as the block lasts; yields an empty cache."""
    talk, request = chat._talk, chat._asking.request
    assert talk is not None
    reduction, prompt, model = talk.reduced.reduction, talk.prompt, vlm.family.model
    cache: Any = answer_cache(vlm.family, request.cache_method(), prompt, reduction)
    method = request.in_llm()
    rows = VisualRows(prompt.kept_columns, reduction.index, reduction.grid)
    with ExitStack() as stack:
        if method is not None:
            found = iter([[rows]])  # the first call brings the video
            stack.enter_context(attach(model, method, lambda ids: next(found, [None])))
        if isinstance(cache, KeptCache):
            stack.enter_context(cache.watch(model))
        yield cache


@torch.no_grad()
def replayed(vlm: VideoLLM, chat: Chat, parts: list[int]) -> list[torch.Tensor]:
    """Logits of the conversation's last row of each part, fed as parts of so many tokens with one cache."""
    prompt, said = held(chat)
    whole = prompt.followed_by(said)
    logits, done = [], 0
    with acting(vlm, chat) as cache:
        for part in parts:
            inputs = whole.model_inputs(cached=done)
            inputs["input_ids"] = whole.input_ids[:, done : done + part]
            inputs["position_ids"] = whole.position_ids[..., done : done + part]
            inputs["attention_mask"] = whole.input_ids.new_ones(1, done + part)
            if not done:
                inputs["mm_encoder_outputs"] = prompt.model_inputs()["mm_encoder_outputs"]
            out = vlm.family.model(**inputs, past_key_values=cache, use_cache=True)
            cache, done = out.past_key_values, done + part
            logits.append(out.logits[0, -1])
    return logits


@pytest.mark.parametrize("recipe", ["fastv", "snapkv"])
def test_turns_are_those_of_the_conversation(family_vlm: VideoLLM, video: Any, recipe: str) -> None:
    settings: dict[str, Any] = {"recipe": RECIPES[recipe], "max_new_tokens": NEW}
    if recipe == "fastv" and not get_method("in_llm", "fastv").runs_on(family_vlm.family.model_type):
        with pytest.raises(errors.UnsupportedModelError, match="tokens can only be dropped below layers of"):
            family_vlm.chat(video, **settings)
        return
    chat = family_vlm.chat(video, **settings)
    with watched_logits(family_vlm) as found:
        answers = [chat.ask(question) for question in QUESTIONS]
    assert [answer.stats.new_tokens for answer in answers] == [NEW] * 3, (
        "an answer that ends at once shows little"
    )
    prompt, said = held(chat)
    turns = [family_vlm.family.next_turn_ids(question) for question in QUESTIONS[1:]]
    # the last token of an answer is fed with the next question
    parts = [len(prompt), *[1] * (NEW - 1)]
    for turn in turns:
        parts += [1 + len(turn), *[1] * (NEW - 1)]
    expected = replayed(family_vlm, chat, parts)
    assert len(expected) == len(found) == 3 * NEW
    for ours, row in zip(found, expected, strict=True):
        assert (ours[0, -1] - row).abs().max() <= 1e-5
    first, rest = said[:NEW], said[NEW:]
    assert list(rest[: len(turns[0])]) == turns[0]
    assert (
        answers[0].text
        == family_vlm.ask(video, QUESTIONS[0], **settings).text
        == family_vlm.family.tokenizer.decode(first, skip_special_tokens=True).strip()
    )


@torch.no_grad()
def test_turns_are_those_of_the_conversation_at_once(family_vlm: VideoLLM, video: Any) -> None:
    """One call without any cache, in which every token sees all before it."""
    chat = family_vlm.chat(video, recipe="stride", keep_ratio=0.5, max_new_tokens=NEW)
    with watched_logits(family_vlm) as found:
        for question in QUESTIONS[:2]:
            chat.ask(question)
    prompt, said = held(chat)
    whole = prompt.followed_by(said)
    logits = family_vlm.family.model(**whole.model_inputs()).logits[0]
    again = torch.stack([row[0, -1] for row in found[NEW:]])
    # a state that is handed on sums up in another order when more comes at once
    limit = 1e-4 if family_vlm.family.model_type in HYBRID else 1e-5
    assert (again - logits[-NEW - 1 : -1]).abs().max() <= limit
    # positions matter: the same conversation one position further on for its second turn is another one
    moved = whole.model_inputs()
    moved["position_ids"] = whole.position_ids.clone()
    moved["position_ids"][..., len(prompt) + NEW :] += 3
    assert (again - family_vlm.family.model(**moved).logits[0, -NEW - 1 : -1]).abs().max() > 1e-3


def test_it_follows_the_template(family_vlm: VideoLLM) -> None:
    """What is written between two answers is what the template writes there."""
    tokenizer, template = family_vlm.family.tokenizer, family_vlm.family.turn_template()
    text = tokenizer.apply_chat_template(
        [
            {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": QUESTIONS[0]}]},
            {"role": "assistant", "content": [{"type": "text", "text": "big red circle"}]},
            {"role": "user", "content": [{"type": "text", "text": QUESTIONS[1]}]},
        ],
        chat_template=template,
        tokenize=False,
        add_generation_prompt=True,
    )
    answer = tokenizer("big red circle", add_special_tokens=False)["input_ids"]
    turn = family_vlm.family.next_turn_ids(QUESTIONS[1])
    assert tokenizer(text, add_special_tokens=False)["input_ids"][-len(turn + answer) :] == [*answer, *turn]
    asked = tokenizer(QUESTIONS[1], add_special_tokens=False)["input_ids"]
    assert any(turn[i : i + len(asked)] == asked for i in range(len(turn)))


def test_the_end_token_is_the_templates(vlm: VideoLLM, video: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that has ended is followed by the template's end of turn, and not by two."""
    chat = vlm.chat(video, max_new_tokens=12)
    chat.ask(OTHER)
    ids = held(chat)[1]
    end = next(i for i, token in enumerate(ids) if token not in ids[:i] and i > 1)
    monkeypatch.setattr(vlm.family.model.generation_config, "eos_token_id", [99, ids[end]])
    chat = vlm.chat(video, max_new_tokens=12)
    with watched_logits(vlm) as found:
        assert chat.ask(OTHER).stats.new_tokens == end + 1
        assert held(chat)[1] == ids[:end]
        chat.ask(QUESTIONS[1])
    prompt, said = held(chat)
    turn = len(vlm.family.next_turn_ids(QUESTIONS[1]))
    rows = replayed(vlm, chat, [len(prompt) + end, turn])
    assert (found[end + 1][0, -1] - rows[1]).abs().max() <= 1e-5
    assert chat.history[1].stats.prompt_tokens == turn
    assert len(said) >= end + turn


def count_calls(monkeypatch: pytest.MonkeyPatch, thing: Any, name: str) -> list[int]:
    calls: list[int] = []
    real = getattr(thing, name)

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(thing, name, counted)
    return calls


def test_the_video_is_encoded_and_reduced_once(
    vlm: VideoLLM, video: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = count_calls(monkeypatch, vlm.family, "encode")
    reduced = count_calls(monkeypatch, asking, "run_reducer")
    settings: dict[str, Any] = {"recipe": "fastvid", "keep_ratio": 0.5, "max_new_tokens": 12}
    chat = vlm.chat(video, **settings)
    assert repr(chat) == "Chat('array', 0 turns)"
    answers = [chat.ask(question) for question in QUESTIONS]
    assert (len(encoded), len(reduced)) == (1, 1)
    assert chat.history == tuple(answers)
    assert [answer.question for answer in chat.history] == QUESTIONS
    assert repr(chat) == "Chat('array', 3 turns)"
    assert answers[1].text != vlm.ask(video, QUESTIONS[1], **settings).text
    chat.reset()
    assert chat.history == ()
    assert [chat.ask(question).text for question in QUESTIONS] == [answer.text for answer in answers]
    assert (len(encoded), len(reduced)) == (2, 3), (
        "ask() encodes and reduces, and so does every beginning reduce"
    )


def test_later_turns_cost_what_is_new(vlm: VideoLLM, video: Any) -> None:
    chat = vlm.chat(video, max_new_tokens=NEW)
    first, second = chat.ask(QUESTIONS[0]).stats, chat.ask(QUESTIONS[1]).stats
    new = 1 + len(vlm.family.next_turn_ids(QUESTIONS[1]))
    before = first.prompt_tokens + NEW - 1
    shape = DecoderShape.from_config(vlm.family.text_config)
    assert (second.prompt_tokens, second.tokens_kept) == (new, first.tokens_kept)
    assert second.prefill_flops == shape.prefill_flops(new, before) < first.prefill_flops / 5
    assert second.decode_flops == shape.decode_flops(before + new, NEW)
    assert second.kv_bytes == first.kv_bytes * (before + new + NEW - 1) // before


def test_a_reduced_cache_stays_reduced(vlm: VideoLLM, video: Any) -> None:
    recipe = Recipe(stages={"kv": Choice("streamingllm", {"keep_tokens": 30, "decoding": "hold"})})
    chat = vlm.chat(video, recipe=recipe, max_new_tokens=NEW)
    stats = [chat.ask(question).stats for question in QUESTIONS]
    talk = chat._talk
    assert talk is not None
    assert [layer.held for layer in talk.cache.report()] == [30] * 3
    assert stats[0].kv_bytes == stats[2].kv_bytes
    shape = DecoderShape.from_config(vlm.family.text_config)
    assert stats[2].prefill_flops == shape.prefill_flops(stats[2].prompt_tokens, 30)


def test_streams_are_turns(vlm: VideoLLM, video: Any) -> None:
    plain = vlm.chat(video, max_new_tokens=8)
    expected = [plain.ask(question).text for question in QUESTIONS]
    chat = vlm.chat(video, max_new_tokens=8)
    unread = chat.ask(QUESTIONS[2], stream=True)
    assert chat.ask(QUESTIONS[0]).text == expected[0]
    unread.close()
    assert len(chat.history) == 1, "a stream that nobody reads is no turn"
    stream = chat.ask(QUESTIONS[1], stream=True)
    assert "".join(stream) == expected[1] == stream.answer.text
    assert chat.ask(QUESTIONS[2]).text == expected[2]


def test_a_stream_closed_early_ends_its_answer_there(vlm: VideoLLM, video: Any) -> None:
    chat = vlm.chat(video, max_new_tokens=200)
    with chat.ask(QUESTIONS[0], stream=True) as stream:
        next(stream)
    prompt, said = held(chat)
    assert len(said) == chat.history[0].stats.new_tokens < 200
    with watched_logits(vlm) as found, chat.ask(QUESTIONS[1], stream=True) as stream:
        next(stream)
    row = replayed(vlm, chat, [len(prompt) + len(said), len(vlm.family.next_turn_ids(QUESTIONS[1]))])[-1]
    assert (found[0][0, -1] - row).abs().max() <= 1e-5


@pytest.mark.parametrize("recipe", ["none", "snapkv"])
def test_a_turn_that_fails_leaves_the_conversation_as_it_was(vlm: VideoLLM, video: Any, recipe: str) -> None:
    settings: dict[str, Any] = {"recipe": RECIPES[recipe], "max_new_tokens": NEW}
    plain = vlm.chat(video, **settings)
    expected = [plain.ask(question).text for question in QUESTIONS]
    chat = vlm.chat(video, **settings)
    chat.ask(QUESTIONS[0])

    def too_much(*given: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    # by then the first layer has taken the new tokens in
    hook = vlm.family.model.get_decoder().layers[1].register_forward_pre_hook(too_much)
    for question in QUESTIONS[1:]:
        with pytest.raises(errors.DeviceError, match="not enough GPU memory"):
            chat.ask(question)
    hook.remove()
    assert [answer.text for answer in chat.history] == expected[:1]
    texts = [chat.ask(question).text for question in QUESTIONS[1:]]
    if recipe == "none":  # what a policy drops in one go is not what it drops step by step
        assert texts == expected[1:]
    assert len(chat.history) == 3


def test_the_first_turn_may_fail_too(vlm: VideoLLM, video: Any) -> None:
    chat = vlm.chat(video, max_new_tokens=NEW)
    with pytest.raises(errors.InvalidValueError, match="must not contain the placeholders"):
        chat.ask("is <video> red ?")
    assert chat.history == ()
    assert chat.ask(QUESTIONS[0]).text == vlm.ask(video, QUESTIONS[0], max_new_tokens=NEW).text


def test_a_conversation_that_gets_too_long_says_so(tmp_path: Path, video: Any) -> None:
    vlm = load(save_small_llava(tmp_path, context_tokens=64))
    chat = vlm.chat(video, num_frames=2, max_new_tokens=6)
    chat.ask(QUESTIONS[0])
    for _ in range(2):
        with pytest.raises(errors.ContextLengthError, match=r"conversation of 80 tokens, .* 22 more .*64"):
            chat.ask(" ".join(QUESTIONS[:1] * 4))
    assert len(chat.history) == 1
    assert chat.ask("why ?").text
    chat.reset()
    assert chat.ask(QUESTIONS[0]).text
    with pytest.raises(errors.ContextLengthError, match="more than the model's context of 64"):
        vlm.chat(video, num_frames=6)


@pytest.mark.parametrize("decide", ["first", "each"])
def test_methods_that_read_the_question(
    vlm: VideoLLM, video: Any, monkeypatch: pytest.MonkeyPatch, decide: Any
) -> None:
    reduced = count_calls(monkeypatch, asking, "run_reducer")
    chat = vlm.chat(video, recipe="cdpruner", keep_ratio=0.2, max_new_tokens=NEW, decide=decide)
    kept = []
    with watched_logits(vlm) as found:
        for question in QUESTIONS:
            chat.ask(question)
            assert chat._talk is not None
            kept.append(chat._talk.reduced.reduction.index.tolist())
    each = decide == "each"
    assert len(reduced) == (3 if each else 1)
    assert (kept[0] != kept[1]) == each
    prompt, said = held(chat)
    logits = replayed(vlm, chat, [len(prompt) + len(said) - NEW, *[1] * (NEW - 1)])
    for ours, row in zip(found[-NEW:], logits, strict=True):
        assert (ours[0, -1] - row).abs().max() <= 1e-5
    entered = chat.history[2].stats.prompt_tokens
    assert (entered == len(prompt) + len(said) - NEW) == each


def test_frames_may_be_chosen_by_the_first_question(
    vlm: VideoLLM, video: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = vlm.chat(video, frames="quota", num_frames=3, max_new_tokens=NEW)
    assert repr(chat) == "Chat(not encoded yet, 0 turns)"
    alone = vlm.ask(video, QUESTIONS[0], frames="quota", num_frames=3, max_new_tokens=NEW)
    answers = [chat.ask(question) for question in QUESTIONS[:2]]
    assert (answers[0].text, answers[0].pts_seconds) == (alone.text, alone.pts_seconds)
    assert answers[1].pts_seconds == alone.pts_seconds


def together(*work: Callable[[], object]) -> None:
    threads = [threading.Thread(target=one) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def converse(chat: Chat) -> list[str]:
    return [chat.ask(question).text for question in QUESTIONS]


def test_threads_share_a_chat_and_a_model(vlm: VideoLLM, video: Any) -> None:
    chats = [vlm.chat(video, max_new_tokens=NEW), vlm.chat(video, recipe=FASTV, max_new_tokens=NEW)]
    expected = [converse(chat) for chat in chats]
    for chat in chats:
        chat.reset()
    together(*[partial(converse, chat) for chat in chats])
    assert [[answer.text for answer in chat.history] for chat in chats] == expected
    shared = vlm.chat(video, max_new_tokens=2)
    together(*[lambda: shared.ask(QUESTIONS[0])] * 4)
    once = vlm.chat(video, max_new_tokens=2)
    assert [answer.text for answer in shared.history] == [once.ask(QUESTIONS[0]).text for _ in range(4)]


def test_words_are_drawn_in_a_chat(vlm: VideoLLM, video: Any) -> None:
    def said(**settings: Any) -> list[str]:
        chat = vlm.chat(video, max_new_tokens=8, temperature=3.0, **settings)
        return [chat.ask(question).text for question in QUESTIONS]

    assert said(seed=1) == said(seed=1) != said(seed=2)


def test_the_penalty_for_repetition_sees_the_whole_conversation(vlm: VideoLLM, video: Any) -> None:
    chat = vlm.chat(video, max_new_tokens=NEW, repetition_penalty=3.0)
    for question in QUESTIONS[:2]:
        chat.ask(question)
    prompt, said = held(chat)
    whole = prompt.followed_by(said[:-NEW])
    out = vlm.family.model.generate(
        **whole.model_inputs(), do_sample=False, max_new_tokens=NEW, repetition_penalty=3.0
    )
    assert tuple(out[0, -NEW:].tolist()) == said[-NEW:]


@pytest.mark.parametrize("recipe", ["none", "snapkv"])
def test_turns_from_elsewhere_are_part_of_the_conversation(
    family_vlm: VideoLLM, video: Any, recipe: str
) -> None:
    settings: dict[str, Any] = {"recipe": RECIPES[recipe], "max_new_tokens": NEW}
    told = family_vlm.chat(video, **settings)
    told.recall(QUESTIONS[0], " red circle\n")
    last = told.ask(QUESTIONS[1])
    assert told.history == (last,)
    tokenizer, template = family_vlm.family.tokenizer, family_vlm.family.turn_template()
    turns: list[tuple[str, list[dict[str, str]]]] = [
        ("user", [{"type": "video"}, {"type": "text", "text": QUESTIONS[0]}]),
        # the space: of what a template glues to an answer no word is made
        ("assistant", [{"type": "text", "text": "red circle "}]),
        ("user", [{"type": "text", "text": QUESTIONS[1]}]),
    ]
    text = tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in turns],
        chat_template=template,
        tokenize=False,
        add_generation_prompt=True,
    )
    prompt, said = held(told)
    new = last.stats.prompt_tokens - len(prompt)  # nothing of it was in a cache
    assert 0 < len(said) - new <= NEW
    assert list(said[:new]) == tokenizer(text, add_special_tokens=False)["input_ids"][-new:]


def test_turns_from_elsewhere_that_cannot_be_meant(vlm: VideoLLM, video: Any) -> None:
    chat = vlm.chat(video, max_new_tokens=2)
    with pytest.raises(errors.InvalidTypeError, match="answer must be text, got NoneType"):
        chat.recall(QUESTIONS[0], None)  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidValueError, match="answer must not contain the placeholders '<video>'"):
        chat.recall(QUESTIONS[0], "a <video>")
    with pytest.raises(errors.InvalidValueError, match="question must not be empty"):
        chat.recall("", "red")
    assert chat.ask(QUESTIONS[0]).text == vlm.ask(video, QUESTIONS[0], max_new_tokens=2).text


def test_questions_that_cannot_be_meant(vlm: VideoLLM, video: Any) -> None:
    chat = vlm.chat(video, max_new_tokens=2)
    chat.ask(QUESTIONS[0])
    with pytest.raises(errors.InvalidValueError, match="question must not be empty"):
        chat.ask(" ")
    with pytest.raises(errors.InvalidTypeError, match="question must be text"):
        chat.ask(["a", "b"])  # type: ignore[call-overload]
    with pytest.raises(errors.InvalidValueError, match="must not contain the placeholders '<video>'"):
        chat.ask("is <video> red ?")
    with pytest.raises(errors.UnknownNameError, match="unknown decide 'last'"):
        vlm.chat(video, decide="last")  # type: ignore[arg-type]
    with pytest.raises(errors.UnknownNameError, match=r"ask\(\) itself has 'keep_ratio'"):
        vlm.chat(video, keep_raito=0.5)
    assert len(chat.history) == 1


def test_templates_without_conversations_are_refused(vlm: VideoLLM) -> None:
    with pytest.raises(errors.UnsupportedModelError, match="leaves out earlier answers"):
        next_turn_ids(vlm.family.tokenizer, "why ?", "{{ messages[-1]['content'][0]['text'] }}")
    with pytest.raises(errors.UnsupportedModelError, match=r"cannot write a second question: .*system"):
        next_turn_text(vlm.family.tokenizer, "why ?", "{{ raise_exception('no system') }}")
