"""Questions about videos, end to end, on a small random model that must repeat what the stock model says."""

from __future__ import annotations

import gc
import inspect
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import streamprune as sp
from streamprune import errors
from streamprune.metrics.flops import DecoderShape
from streamprune.models.base import EncodedFrames
from streamprune.pipelines import encoding
from streamprune.pipelines.offline import VideoLLM
from streamprune.pipelines.request import ASK_ARGUMENTS
from streamprune.readers import open_source
from streamprune.tokens import Reduction, VisualTokens

QUESTION = "what colour is the circle ?"
OTHER = "where is the big red square moving ?"
Video = NDArray[np.uint8]


@pytest.fixture(scope="module")
def video() -> Video:
    return np.random.default_rng(1).integers(0, 256, (20, 36, 44, 3), dtype=np.uint8)


def stock_text(vlm: VideoLLM, images: Sequence[Video], question: str, max_new_tokens: int) -> str:
    """Ask the stock model with pixels, every placeholder written out."""
    family = vlm.family
    content = [{"type": "video"}, {"type": "text", "text": question}]
    text = family.tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    ).replace("<video>", "<video>" * (len(images) * 16 + 1))
    ids = torch.tensor([family.tokenizer(text)["input_ids"]])
    out = family.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values_videos=family.preprocess(images)[None],
        do_sample=False,
        max_new_tokens=max_new_tokens,
    )
    said: str = family.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
    return said.strip()


@pytest.mark.parametrize("frames_per_batch", [None, 3, 100])
def test_all_tokens_say_what_the_stock_model_says(
    vlm: VideoLLM, video: Video, frames_per_batch: int | None
) -> None:
    answer = vlm.ask(video, QUESTION, num_frames=10, max_new_tokens=12, frames_per_batch=frames_per_batch)
    assert answer.text == stock_text(vlm, list(video[1::2]), QUESTION, 12)
    assert answer.pts_seconds == tuple(range(1, 20, 2))
    assert str(answer) == answer.text
    assert (answer.question, answer.recipe, answer.warnings) == (QUESTION, "none", ())


@pytest.mark.parametrize("recipe", ["random", "stride", "fastvid"])
def test_a_share_of_one_changes_nothing(vlm: VideoLLM, video: Video, recipe: str) -> None:
    everything = vlm.ask(video, QUESTION, num_frames=9, max_new_tokens=10)
    answer = vlm.ask(video, QUESTION, num_frames=9, max_new_tokens=10, recipe=recipe, keep_ratio=1)
    assert (answer.text, answer.stats.tokens_kept) == (everything.text, 9 * 16)


def test_stats_count_what_happened(vlm: VideoLLM, video: Video) -> None:
    answer = vlm.ask(video, QUESTION, recipe="stride", keep_ratio=0.25, num_frames=8, max_new_tokens=6)
    stats = answer.stats
    fixed = vlm.family.fixed_tokens(QUESTION)
    assert (stats.frames, stats.tokens_in, stats.tokens_kept) == (8, 128, 32)
    assert (stats.prompt_tokens, stats.new_tokens) == (fixed + 32, 6)
    # 3 layers, keys and values, 2 heads of 12, float32; the last new token is not in the cache
    assert stats.kv_bytes == (stats.prompt_tokens + 5) * 3 * 2 * 2 * 12 * 4
    shape = DecoderShape.from_config(vlm.family.text_config)
    assert stats.prefill_flops == shape.prefill_flops(stats.prompt_tokens)
    assert stats.decode_flops == shape.decode_flops(stats.prompt_tokens, 6)
    times = (stats.decode_ms, stats.preprocess_ms, stats.encode_ms, stats.reduce_ms, stats.prefill_ms)
    assert min(*times, stats.generate_ms) > 0
    plain = json.loads(json.dumps(answer.to_dict()))
    assert plain["stats"] == stats.to_dict()
    assert plain["pts_seconds"] == list(answer.pts_seconds)


def count_calls(monkeypatch: pytest.MonkeyPatch, thing: Any, name: str) -> list[int]:
    calls: list[int] = []
    real = getattr(thing, name)

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(thing, name, counted)
    return calls


def test_several_questions_encode_and_reduce_once(
    vlm: VideoLLM, video: Video, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"recipe": "random", "keep_ratio": 0.3, "num_frames": 6, "max_new_tokens": 8}
    apart = [vlm.ask(video, one, **settings).text for one in (QUESTION, OTHER)]
    encoded = count_calls(monkeypatch, vlm.family, "encode")
    reduced = count_calls(monkeypatch, sp.pipelines.asking, "run_reducer")
    answers = vlm.ask(video, [QUESTION, OTHER], **settings)
    assert [answer.text for answer in answers] == apart
    assert [answer.question for answer in answers] == [QUESTION, OTHER]
    assert (len(encoded), len(reduced)) == (1, 1)
    assert apart[0] != apart[1]
    assert [one.question for one in vlm.ask(video, [OTHER], **settings)] == [OTHER]


def test_an_encoded_video_answers_like_the_video(
    vlm: VideoLLM, video: Video, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"recipe": "fastvid", "keep_ratio": 0.4, "max_new_tokens": 8}
    expected = vlm.ask(video, QUESTION, num_frames=12, **settings)
    encoded = vlm.encode(video, num_frames=12)
    assert repr(encoded) == "EncodedVideo('array', VideoGrid(frames=12, rows=4, cols=4))"
    calls = count_calls(monkeypatch, vlm.family, "encode")
    answer = vlm.ask(encoded, QUESTION, **settings)
    assert (answer.text, answer.pts_seconds) == (expected.text, expected.pts_seconds)
    assert answer.stats.tokens_kept == expected.stats.tokens_kept < 12 * 16
    assert calls == []
    with pytest.raises(errors.InvalidValueError, match="cannot be given with an EncodedVideo"):
        vlm.ask(encoded, QUESTION, num_frames=3)
    with pytest.raises(errors.InvalidTypeError, match="signals must be a list"):
        vlm.encode(video, signals="saliency")


def test_positions_can_be_chosen(vlm: VideoLLM, video: Video) -> None:
    encoded = vlm.encode(video, num_frames=12)
    rules: dict[str, Any] = {
        "keep": "keep",
        "renumber": "renumber",
        "one": sp.Positions("clipped", 1),
        "none": sp.Positions("clipped", 0),
        "long": sp.Positions("clipped", 100),
    }
    texts = {
        name: vlm.ask(encoded, QUESTION, recipe="stride", keep_ratio=0.2, positions=rule).text
        for name, rule in rules.items()
    }
    assert len({texts["keep"], texts["renumber"], texts["one"]}) == 3
    assert texts["none"] == texts["renumber"]
    assert texts["long"] == texts["keep"]
    recipe = sp.Recipe.from_toml(
        'keep_ratio = 0.2\n[pre_llm]\nmethod = "stride"\n[positions]\nrule = "clipped"\nmax_gap = 1\n'
    )
    assert vlm.ask(encoded, QUESTION, recipe=recipe).text == texts["one"]
    assert vlm.ask(encoded, QUESTION, recipe=recipe, positions="keep").text == texts["keep"]


def test_words_are_drawn_when_asked_for(vlm: VideoLLM, video: Video) -> None:
    encoded = vlm.encode(video, num_frames=4)
    greedy = vlm.ask(encoded, QUESTION, max_new_tokens=12)
    hot: dict[str, Any] = {"temperature": 3.0, "max_new_tokens": 12}
    texts = [vlm.ask(encoded, QUESTION, seed=seed, **hot).text for seed in (1, 1, 2)]
    assert texts[0] == texts[1]
    assert len({greedy.text, *texts}) == 3
    assert vlm.ask(encoded, QUESTION, top_k=1, **hot).text == greedy.text
    assert vlm.ask(encoded, QUESTION, top_p=1e-6, **hot).text == greedy.text
    assert vlm.ask(encoded, QUESTION, repetition_penalty=5.0, max_new_tokens=12).text != greedy.text
    end = texts[0].split()[-1]
    cut = vlm.ask(encoded, QUESTION, seed=1, stop=end, **hot)
    assert cut.text == texts[0][: texts[0].index(end)].strip()
    stream = vlm.ask(encoded, QUESTION, seed=1, stop=[end], stream=True, **hot)
    assert "".join(stream) == cut.text


def test_one_seed_for_words_and_for_a_method_that_draws(vlm: VideoLLM, video: Video) -> None:
    encoded = vlm.encode(video, num_frames=12)
    settings: dict[str, Any] = {"recipe": "random", "keep_ratio": 0.2, "max_new_tokens": 12}
    assert len({vlm.ask(encoded, QUESTION, seed=seed, **settings).text for seed in range(4)}) > 1
    toml = 'keep_ratio = 0.2\n[pre_llm]\nmethod = "random"\nseed = 3\n'
    named = vlm.ask(encoded, QUESTION, recipe=sp.Recipe.from_toml(toml), max_new_tokens=12).text
    assert vlm.ask(encoded, QUESTION, seed=3, **settings).text == named
    fixed = vlm.ask(encoded, QUESTION, recipe="stride", keep_ratio=0.2, seed=3, max_new_tokens=12)
    assert fixed.text == vlm.ask(encoded, QUESTION, recipe="stride", keep_ratio=0.2, max_new_tokens=12).text


def test_a_method_of_the_users_own(vlm: VideoLLM, video: Video) -> None:
    class LastFrame:
        def __init__(self, budget: sp.Budget, skip: int = 0) -> None:
            self.skip = skip

        needs = ()

        def count(self, grid: sp.VideoGrid) -> int:
            return grid.tokens_per_frame

        def reduce(self, tokens: VisualTokens) -> Reduction:
            assert tokens.pts_seconds is not None
            end = len(tokens) - self.skip * 16
            return Reduction.select(tokens, torch.arange(end - 16, end))

    sp.register_method(LastFrame, "last_frame_for_tests")
    try:
        answer = vlm.ask(video, QUESTION, recipe="last_frame_for_tests", num_frames=5, skip=1, keep_ratio=0.9)
    finally:
        sp.unregister_method("last_frame_for_tests")
    assert answer.stats.tokens_kept == 16


def test_a_method_with_nothing_but_reduce(vlm: VideoLLM, video: Video) -> None:
    class FirstFrame:
        def reduce(self, tokens: VisualTokens) -> Reduction:
            return Reduction.select(tokens, torch.arange(16))

    sp.register_method(FirstFrame, "first_frame_for_tests")
    try:
        answer = vlm.ask(video, QUESTION, recipe="first_frame_for_tests", num_frames=5)
    finally:
        sp.unregister_method("first_frame_for_tests")
    assert answer.stats.tokens_kept == 16


def test_a_method_without_its_signals_fails_before_decoding(bare_vlm: VideoLLM) -> None:
    with pytest.raises(errors.SignalError, match=r"'saliency'.*pooling_head=PATH.*stride"):
        bare_vlm.ask("does/not/exist.mp4", QUESTION, recipe="fastvid", keep_ratio=0.5)


def test_too_long_a_prompt_fails_before_encoding(
    bare_vlm: VideoLLM, video: Video, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = count_calls(monkeypatch, bare_vlm.family, "encode")
    with pytest.raises(errors.ContextLengthError, match=r"more than the model's context of 64"):
        bare_vlm.ask(video, QUESTION, num_frames=4, max_new_tokens=4)
    with pytest.raises(errors.ContextLengthError, match=r"original positions reach .* positions='renumber'"):
        bare_vlm.ask(video, QUESTION, num_frames=8, recipe="stride", keep_tokens=8, max_new_tokens=4)
    assert calls == []
    renumbered = bare_vlm.ask(
        video, QUESTION, num_frames=8, recipe="stride", keep_tokens=8, max_new_tokens=4, positions="renumber"
    )
    assert renumbered.stats.tokens_kept == 8


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"recipe": "random", "keep_ratio": 0.5, "sead": 1}, errors.UnknownNameError, "Did you mean 'seed'"),
        ({"keep_raito": 0.1}, errors.UnknownNameError, r"ask\(\) itself has 'keep_ratio'"),
        ({"frames_per_batch": 0}, errors.InvalidValueError, "frames_per_batch must be at least 1"),
        ({"frames_per_batch": 1.5}, errors.InvalidTypeError, "frames_per_batch must be an integer"),
        ({"backend": "pyaw"}, errors.UnknownNameError, "Did you mean 'pyav'"),
        ({"num_frames": -1}, errors.InvalidValueError, "num_frames must be"),
        ({"keep_ratio": 0.1}, errors.InvalidValueError, "need a method"),
        ({"start_seconds": 30}, errors.InvalidValueError, "start_seconds=30 "),
        ({"temperature": -0.5}, errors.InvalidValueError, r"temperature must be in \[0, 100\]"),
        ({"top_k": 5}, errors.InvalidValueError, "top_k narrow .* give temperature="),
        ({"stop": ""}, errors.InvalidValueError, "stop must not hold an empty text"),
        ({"temprature": 1.0}, errors.UnknownNameError, r"ask\(\) itself has 'temperature'"),
    ],
)
def test_calls_that_cannot_be_meant(
    vlm: VideoLLM, video: Video, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        vlm.ask(video, QUESTION, **settings)


def test_every_setting_of_ask_can_be_suggested() -> None:
    parameters = inspect.signature(VideoLLM.ask).parameters.values()
    named = tuple(one.name for one in parameters if one.kind is one.KEYWORD_ONLY)
    assert named == ASK_ARGUMENTS


def test_more_frames_than_there_are_gives_each_once(vlm: VideoLLM, video: Video) -> None:
    answer = vlm.ask(video[:3], QUESTION, num_frames=16, max_new_tokens=4)
    assert answer.stats.frames == 3
    assert answer.pts_seconds == (0.0, 1.0, 2.0)


def test_only_the_asked_part_is_seen(vlm: VideoLLM, video: Video) -> None:
    answer = vlm.ask(video, QUESTION, fps=1, start_seconds=5, end_seconds=8, max_new_tokens=4)
    assert answer.pts_seconds == (5.0, 6.0, 7.0)


def test_an_open_source_stays_open_and_an_iterator_is_read(vlm: VideoLLM, video: Video) -> None:
    with open_source(video) as source:
        first = vlm.ask(source, QUESTION, num_frames=4, max_new_tokens=4)
        assert vlm.ask(source, QUESTION, num_frames=4, max_new_tokens=4).text == first.text
    frames: Iterator[Video] = iter(video)
    answer = vlm.ask(frames, QUESTION, num_frames=4, end_seconds=20, max_new_tokens=4)
    assert answer.text == first.text


def test_huge_frames_are_fetched_in_pieces(
    vlm: VideoLLM, video: Video, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"num_frames": 40, "max_new_tokens": 6, "frames_per_batch": 1}
    whole = vlm.ask(video, QUESTION, **settings)
    monkeypatch.setattr(encoding, "_MAX_HELD_BYTES", 3 * 36 * 44 * 3)
    pieces = vlm.ask(video, QUESTION, **settings)
    assert (pieces.text, pieces.pts_seconds) == (whole.text, whole.pts_seconds)
    assert whole.stats.frames == 20


def test_a_file_is_asked_and_its_damage_reported(vlm: VideoLLM, media: Callable[[str], Path]) -> None:
    sound = vlm.ask(media("h264.mp4"), QUESTION, num_frames=5, max_new_tokens=4)
    assert (sound.stats.frames, sound.warnings) == (5, ())
    with open_source(media("h264.mp4")) as source:
        frames = source.sample(sound.pts_seconds)
    assert sound.text == stock_text(vlm, [frame.image for frame in frames], QUESTION, 4)


def test_what_the_reader_lost_reaches_the_answer(
    vlm: VideoLLM, video: Video, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_source(video) as source:
        source.report.corrupt_frames = 2
        answer = vlm.ask(source, QUESTION, num_frames=4, max_new_tokens=4)
    assert answer.warnings == ("2 frames are damaged",)
    assert answer.to_dict()["warnings"] == ["2 frames are damaged"]


def test_a_source_without_a_frame_to_show_is_an_error(
    vlm: VideoLLM, video: Video, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_source(video) as source:
        monkeypatch.setattr(source, "sample", lambda times: [])
        with pytest.raises(errors.SourceFormatError, match="array: none of the 16 frames"):
            vlm.ask(source, QUESTION)


def test_progress_goes_through_the_stages(vlm: VideoLLM, video: Video) -> None:
    seen: list[tuple[str, int, int]] = []
    vlm.ask(
        video,
        QUESTION,
        num_frames=5,
        frames_per_batch=2,
        max_new_tokens=3,
        progress=lambda *now: seen.append(now),
    )
    assert seen == [
        ("decode", 5, 5),
        ("encode", 2, 5),
        ("encode", 4, 5),
        ("encode", 5, 5),
        ("generate", 3, 3),
    ]


def test_running_out_of_memory_while_encoding(
    vlm: VideoLLM, video: Video, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(*given: object, **named: object) -> EncodedFrames:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(vlm.family, "encode", too_much)
    with pytest.raises(errors.DeviceError, match="not enough GPU memory for encoding 8 frames at once"):
        vlm.ask(video, QUESTION)


def test_threads_sharing_a_model_get_their_own_answers(vlm: VideoLLM, video: Video) -> None:
    clips = [video[:10], video[10:]]
    jobs = [(clip, question) for clip in clips for question in (QUESTION, OTHER)]
    settings: dict[str, Any] = {"num_frames": 6, "max_new_tokens": 10, "recipe": "stride", "keep_ratio": 0.5}
    expected = [vlm.ask(clip, question, **settings).text for clip, question in jobs]
    assert len(set(expected)) > 2
    found: dict[int, str] = {}

    def work(number: int) -> None:
        clip, question = jobs[number]
        for _ in range(3):
            found[number] = vlm.ask(clip, question, **settings).text

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(len(jobs))] == expected


def test_the_model_is_left_as_it_was(vlm: VideoLLM, video: Video) -> None:
    stock_text(vlm, list(video[:2]), QUESTION, 2)  # transformers itself leaves hooks that record states

    def hooks() -> list[int]:
        return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in vlm.family.model.modules()]

    hooked = hooks()
    before = {name: value.clone() for name, value in vlm.family.model.state_dict().items()}
    config = vlm.family.model.generation_config.to_dict()
    vlm.ask(video, QUESTION, recipe="fastvid", keep_ratio=0.5, num_frames=8, max_new_tokens=4)
    gc.collect()
    assert all(torch.equal(value, before[name]) for name, value in vlm.family.model.state_dict().items())
    assert vlm.family.model.generation_config.to_dict() == config
    assert hooks() == hooked


def test_it_says_what_it_is(vlm: VideoLLM) -> None:
    assert repr(vlm).startswith("VideoLLM('/")
    assert repr(vlm).endswith("llava_onevision, cpu)")
