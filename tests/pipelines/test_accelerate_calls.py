"""Ways to call a model inside a block: each gives what the plain call gives, or is refused and says why."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import DynamicCache, GenerationConfig

import streamprune as sp
from streamprune.errors import InvalidTypeError, InvalidValueError, UnsupportedModelError
from streamprune.models.base import VideoFamily
from streamprune.models.prompt_rows import VisualRows
from streamprune.models.short_prompts import as_one
from streamprune.pipelines.stock_inputs import token_labels
from streamprune.positions import Positions
from streamprune.recipe import Choice, Recipe
from streamprune.tokens import VideoGrid
from tests.models.test_attach import traces
from tests.pipelines.stock_calls import (
    load_small,
    one_after_another,
    picture_inputs,
    pixels_of,
    side_by_side,
    text_inputs,
    video_inputs,
)

BEFORE = Recipe(stages={"pre_llm": Choice("stride")})
INSIDE = Recipe(stages={"in_llm": Choice("fastv", {"layer": 1})})
CACHE = Recipe(stages={"kv": Choice("streamingllm")})
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 5}


@pytest.fixture(scope="module", params=["qwen2_5_vl", "internvl"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VideoFamily:
    return load_small(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> VideoFamily:
    return load_small("qwen2_5_vl", tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def video(family: VideoFamily) -> dict[str, Any]:
    return video_inputs(family, pixels_of(family))


@pytest.fixture(scope="module")
def two(qwen: VideoFamily) -> list[dict[str, Any]]:
    """Videos of different shapes."""
    return [video_inputs(qwen, pixels_of(qwen, seed, wide)) for seed, wide in ((8, 50), (5, 30))]


class _Shown:
    """A streamer that remembers what it was shown."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.ended = 0

    def put(self, value: torch.Tensor) -> None:
        self.ids += value.flatten().tolist()

    def end(self) -> None:
        self.ended += 1


@pytest.mark.parametrize("recipe", [BEFORE, INSIDE, CACHE], ids=["before", "inside", "cache"])
def test_a_streamer_sees_the_whole_prompt(family: VideoFamily, video: dict[str, Any], recipe: Recipe) -> None:
    shown = _Shown()
    with sp.accelerate(family.model, recipe, keep_ratio=0.4):
        out = family.model.generate(**video, streamer=shown, **GREEDY)
    assert shown.ids == out[0].tolist()
    assert shown.ended == 1


def test_lengths_count_the_whole_prompt(family: VideoFamily, video: dict[str, Any]) -> None:
    length = video["input_ids"].shape[1]
    with sp.accelerate(family.model, BEFORE, keep_ratio=0.4):
        expected = family.model.generate(**video, **GREEDY)
        named = family.model.generate(**video, do_sample=False, max_length=length + 5)
        config = GenerationConfig(
            max_length=length + 5, min_length=length + 5, do_sample=False, eos_token_id=int(expected[0, -5])
        )
        # the first word would end the answer, and may not before the least length
        ended = family.model.generate(video["input_ids"], config, **_without_ids(video))
    assert torch.equal(named, expected)
    assert ended.shape == expected.shape
    assert int(expected[0, -5]) not in ended[0, -5:].tolist()


def _without_ids(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if name != "input_ids"}


def test_a_prompt_in_chunks(family: VideoFamily, video: dict[str, Any]) -> None:
    with sp.accelerate(family.model, BEFORE, keep_ratio=0.4):
        expected = family.model.generate(**video, **GREEDY)
        assert torch.equal(family.model.generate(**video, prefill_chunk_size=16, **GREEDY), expected)
    with (
        sp.accelerate(family.model, INSIDE, keep_ratio=0.4),
        pytest.raises(InvalidValueError, match="prefill_chunk_size=16 splits the prompt"),
    ):
        family.model.generate(**video, prefill_chunk_size=16, **GREEDY)


@pytest.mark.parametrize("recipe", [BEFORE, INSIDE], ids=["before", "inside"])
def test_guessed_words_and_beams_are_those_of_the_stock_loop(
    family: VideoFamily, video: dict[str, Any], recipe: Recipe
) -> None:
    """Several new tokens at once, taken back in part; several rows that share one prompt."""
    with sp.accelerate(family.model, recipe, keep_ratio=0.4):
        expected = family.model.generate(**video, **GREEDY)
        guessed = family.model.generate(**video, prompt_lookup_num_tokens=3, **GREEDY)
        beams = family.model.generate(**video, num_beams=3, num_return_sequences=2, **GREEDY)
        one = family.model.generate(**video, num_beams=1, num_return_sequences=1, **GREEDY)
    assert torch.equal(guessed, expected)
    assert torch.equal(one, expected)
    assert beams.shape == (2, expected.shape[1])
    assert not torch.equal(beams[0], beams[1])


def test_beams_find_what_they_find_with_masked_tokens(qwen: VideoFamily, two: list[dict[str, Any]]) -> None:
    video = two[0]
    settings = {**GREEDY, "num_beams": 3, "output_scores": True, "return_dict_in_generate": True}
    stays = torch.ones_like(video["input_ids"])
    columns = (video["input_ids"][0] == qwen.stock_inputs().token_id).nonzero()[:, 0]
    stays[0, columns] = 0
    kept = sp.reduce_tokens(torch.ones(4, 1, len(columns) // 4, 1), "stride", keep_ratio=0.4).index
    stays[0, columns[kept]] = 1
    places = qwen.stock_inputs().positions(video).values
    with sp.accelerate(qwen.model, BEFORE, keep_ratio=0.4):
        found = qwen.model.generate(**video, **settings)
    expected = qwen.model.generate(**{**video, "attention_mask": stays, "position_ids": places}, **settings)
    assert torch.equal(found.sequences, expected.sequences)
    torch.testing.assert_close(found.sequences_scores, expected.sequences_scores, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("recipe", "settings", "error", "said"),
    [
        (BEFORE, {"assistant_model": "itself"}, InvalidValueError, "assistant_model reads the prompt too"),
        (BEFORE, {"use_cache": False}, InvalidValueError, "use_cache=False"),
        (INSIDE, {"use_cache": False}, InvalidValueError, "use_cache=False"),
        (CACHE, {"use_cache": False}, InvalidValueError, "use_cache=False"),
        (CACHE, {"cache_implementation": "static"}, InvalidValueError, "cache_implementation='static'"),
        (CACHE, {"num_beams": 2}, InvalidValueError, "num_beams above 1 share one cache"),
        (CACHE, {"past_key_values": DynamicCache()}, InvalidTypeError, "with a kv method, got DynamicCache"),
        (INSIDE, {"cache_implementation": "static"}, InvalidValueError, "by which layers hold unequal"),
        (BEFORE, {"mm_encoder_outputs": {"video": 1}}, InvalidValueError, "encoded already"),
        (BEFORE, {"attention_mask": torch.ones(1, 3)}, InvalidValueError, "attention_mask must have"),
        (BEFORE, {"input_ids": None, "inputs_embeds": torch.ones(1, 3, 64)}, InvalidTypeError, "input_ids"),
        (INSIDE, {"input_ids": None, "inputs_embeds": torch.ones(1, 3, 64)}, InvalidTypeError, "input_ids"),
    ],
    ids=lambda value: str(next(iter(value))) if isinstance(value, dict) else "",
)
def test_calls_that_are_refused(
    qwen: VideoFamily,
    two: list[dict[str, Any]],
    recipe: Recipe,
    settings: dict[str, Any],
    error: type[Exception],
    said: str,
) -> None:
    found = traces(qwen.model)
    given = {**two[0], **settings}
    if "assistant_model" in given:
        given["assistant_model"] = qwen.model
    with sp.accelerate(qwen.model, recipe, keep_ratio=0.4), pytest.raises(error, match=said):
        qwen.model.generate(**given, **GREEDY)
    assert traces(qwen.model) == found


def test_inputs_that_do_not_fit_together(qwen: VideoFamily, two: list[dict[str, Any]]) -> None:
    video, other = two
    batch = side_by_side(qwen, two)
    swapped = {**batch, "video_grid_thw": batch["video_grid_thw"].flip(0)}
    pixels = torch.cat([other["pixel_values_videos"], video["pixel_values_videos"]])
    with sp.accelerate(qwen.model, BEFORE, keep_ratio=0.4):
        for given, said in (
            ({**video, "video_grid_thw": other["video_grid_thw"]}, "slices, rows and columns of the"),
            (_without(video, "video_grid_thw"), "got nothing"),
            ({**video, **_pixels(other)}, "hold 96 placeholders for 64 tokens of 1 videos"),
            ({**swapped, "pixel_values_videos": pixels}, "video 1 would be spread over several prompts"),
            ({**video, "position_ids": torch.arange(3)[None]}, "position_ids must be"),
            ({**video, "video_merge_sizes": torch.tensor([1])}, "video_merge_sizes must be 2"),
            ({**video, "video_compression_mask": torch.tensor([False])}, "use_token_compression=False"),
        ):
            with pytest.raises(InvalidValueError, match=said):
                qwen.model.generate(**given, **GREEDY)
        with pytest.raises(InvalidValueError, match="num_return_sequences above 1 would mix the videos"):
            qwen.model.generate(**batch, num_return_sequences=2, do_sample=True)


def _without(inputs: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in inputs.items() if key != name}


def _pixels(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: inputs[name] for name in ("pixel_values_videos", "video_grid_thw")}


def test_positions_that_somebody_gives_are_kept(qwen: VideoFamily, two: list[dict[str, Any]]) -> None:
    """With those of the text in front, as generate itself has them, or without; and not knowing the kinds."""
    video = two[0]
    places = qwen.stock_inputs().positions(video).values
    four = torch.cat([torch.arange(places.shape[-1]).expand(1, 1, -1), places])
    settings: dict[str, Any] = {**GREEDY, "output_logits": True, "return_dict_in_generate": True}
    with sp.accelerate(qwen.model, BEFORE, keep_ratio=0.4):
        expected = qwen.model.generate(**video, **settings)
        for given in ({"position_ids": places}, {"position_ids": four}, {"position_ids": places + 3}):
            found = qwen.model.generate(**video, **given, **settings)
            same = torch.equal(found.logits[-1], expected.logits[-1])
            # rotation tells distances alone, but for rounding
            assert same or int(given["position_ids"][0, 0, 0]) == 3
            torch.testing.assert_close(found.logits[-1], expected.logits[-1], atol=1e-4, rtol=0)
        bare = qwen.model.generate(**_without(video, "mm_token_type_ids"), **settings)
        assert torch.equal(bare.logits[-1], expected.logits[-1])


@pytest.mark.parametrize(
    "rule", [Positions("renumber"), Positions("clipped", 0), Positions(text_after="max")]
)
def test_positions_of_the_recipe(qwen: VideoFamily, two: list[dict[str, Any]], rule: Positions) -> None:
    recipe = Recipe(stages={"pre_llm": Choice("stride")}, positions=rule)
    video, found = two[0], []

    def note(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        found.append(kwargs["position_ids"])

    handle = qwen.model.get_decoder().register_forward_pre_hook(note, with_kwargs=True)
    turn = text_inputs(qwen)["input_ids"]
    with sp.accelerate(qwen.model, recipe, keep_ratio=0.4):
        out = qwen.model.generate(**video, **GREEDY, return_dict_in_generate=True)
        whole = torch.cat([out.sequences, turn], 1)
        qwen.model.generate(whole, past_key_values=out.past_key_values, do_sample=False, max_new_tokens=1)
    handle.remove()
    prompt, later = found[0], found[5]
    assert (prompt[..., -1] == prompt.max()).all() == (rule.text_after == "max" or rule.rule == "renumber")
    if rule.rule == "renumber":
        assert prompt[0, 0].tolist() == list(range(prompt.shape[-1]))
    # the words in between are the answer's, the last of which comes with the new turn
    assert (later[..., 0] == prompt.max() + 5).all()


def test_later_turns(qwen: VideoFamily, two: list[dict[str, Any]]) -> None:
    video, turn = two[0], text_inputs(qwen)["input_ids"]
    with sp.accelerate(qwen.model, BEFORE, keep_ratio=0.4):
        first = qwen.model.generate(**video, **GREEDY, return_dict_in_generate=True)
        whole, cache = torch.cat([first.sequences, turn], 1), first.past_key_values
        shown = _Shown()
        # the processor may have been given everything once more
        again = {**video, "input_ids": whole, "attention_mask": torch.ones_like(whole)}
        out = qwen.model.generate(**again, past_key_values=cache, streamer=shown, **GREEDY)
        assert shown.ids == out[0].tolist()
        assert torch.equal(out[:, : whole.shape[1]], whole)
        more = torch.cat([out, two[1]["input_ids"]], 1)
        with pytest.raises(InvalidValueError, match="cannot bring another video"):
            qwen.model.generate(**{**two[1], "input_ids": more}, past_key_values=cache)
        picture = picture_inputs(qwen, pixels_of(qwen, seed=3)[0])
        with pytest.raises(InvalidValueError, match="cannot bring another picture"):
            qwen.model(**picture, past_key_values=cache)
        batch = qwen.model.generate(**side_by_side(qwen, two), **GREEDY, return_dict_in_generate=True)
        with pytest.raises(InvalidValueError, match="batch of several prompts cannot go on"):
            qwen.model.generate(batch.sequences, past_key_values=batch.past_key_values)
    stock = qwen.model.generate(**text_inputs(qwen), **GREEDY, return_dict_in_generate=True)
    more = torch.cat([stock.sequences, picture["input_ids"]], 1)
    beside = {**picture, "input_ids": more, "attention_mask": torch.ones_like(more)}
    kinds = torch.zeros_like(stock.sequences)
    beside["mm_token_type_ids"] = torch.cat([kinds, picture["mm_token_type_ids"]], 1)
    with sp.accelerate(qwen.model, BEFORE, keep_ratio=0.4):
        # nothing is missing from this cache, and a picture is not reduced
        qwen.model.generate(**beside, past_key_values=stock.past_key_values, **GREEDY)
    stock = qwen.model.generate(**text_inputs(qwen), **GREEDY, return_dict_in_generate=True)
    more = torch.cat([stock.sequences, video["input_ids"]], 1)
    with (
        sp.accelerate(qwen.model, BEFORE, keep_ratio=0.4),
        pytest.raises(InvalidValueError, match="cannot bring another video"),
    ):
        qwen.model.generate(**{**video, "input_ids": more}, past_key_values=stock.past_key_values)


def test_threads_share_a_block(family: VideoFamily) -> None:
    """Each gets what it would get alone."""
    recipe = Recipe(
        stages={"pre_llm": Choice("stride"), "in_llm": Choice("fastv", {"layer": 1, "keep_ratio": 0.5})}
    )
    prompts = [
        video_inputs(family, pixels_of(family, seed, wide)) for seed, wide in ((1, 50), (2, 30), (3, 50))
    ]
    found: dict[int, Any] = {}
    with sp.accelerate(family.model, recipe, keep_ratio=0.5):
        expected = [family.model.generate(**prompt, **GREEDY) for prompt in prompts]

        def ask(number: int) -> None:
            found[number] = [family.model.generate(**prompts[number], **GREEDY) for _ in range(2)]

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for number, answers in found.items():
        assert all(torch.equal(one, expected[number]) for one in answers)
    assert len(found) == 3


def test_a_second_thread_cannot_open_a_block_of_its_own(qwen: VideoFamily) -> None:
    said: list[str] = []

    def enter() -> None:
        try:
            with sp.accelerate(qwen.model, CACHE):
                pytest.fail("let in")
        except InvalidValueError as error:
            said.append(str(error))

    found = traces(qwen.model)
    with sp.accelerate(qwen.model, BEFORE, keep_ratio=0.5):
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
    assert "already dropped inside this model" in said[0]
    assert traces(qwen.model) == found


def test_several_videos_count_as_one_inside(qwen: VideoFamily, two: list[dict[str, Any]]) -> None:
    """Where they have the same shape; a method that needs it says so where they do not."""
    feather = Recipe(stages={"in_llm": Choice("feather", {"layers": (1, 2)})})
    alike = one_after_another(qwen, [two[0], two[0]])
    with sp.accelerate(qwen.model, feather, keep_ratio=0.25):
        out = qwen.model.generate(**alike, **GREEDY, return_dict_in_generate=True)
        with pytest.raises(InvalidValueError, match="none or several"):
            qwen.model.generate(**one_after_another(qwen, two), **GREEDY)
    held = [layer.keys.shape[2] for layer in out.past_key_values.layers]
    assert held[0] > held[1] > held[3]


def test_frames_of_several_videos_are_counted_on() -> None:
    grid = VideoGrid(2, 1, 2)
    first = VisualRows(torch.tensor([1, 2, 3]), torch.tensor([0, 1, 3]), grid)
    second = VisualRows(torch.tensor([5, 6]), torch.tensor([0, 2]), grid)
    joined = as_one([first, second])
    assert joined is not None
    assert joined.places is not None
    assert (joined.places.tolist(), joined.grid) == ([0, 1, 3, 4, 6], VideoGrid(4, 1, 2))
    ids = torch.zeros(1, 8, dtype=torch.int64)
    labels = token_labels(ids, [[first, second]])
    assert labels.segments.tolist() == [[-1, 0, 0, 1, -1, 2, 3, -1]]
    assert labels.cells is not None
    assert labels.cells.tolist() == [[-1, 0, 1, 1, -1, 0, 0, -1]]
    wide = VisualRows(second.rows, second.places, VideoGrid(2, 2, 2))
    for unlike in (wide, VisualRows(second.rows)):
        apart = as_one([first, unlike])
        assert apart is not None
        assert (apart.rows.tolist(), apart.grid) == ([1, 2, 3, 5, 6], None)
        assert token_labels(ids, [[first, unlike]]).cells is None


def test_frames_and_pictures_are_told_apart_by_a_processor(tmp_path: Any) -> None:
    family = load_small("internvl", tmp_path)
    video = video_inputs(family, pixels_of(family))
    picture = picture_inputs(family, pixels_of(family, seed=3)[0])
    both = one_after_another(family, [picture, video])
    shown = SimpleNamespace(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    processor = SimpleNamespace(tokenizer=family.tokenizer, video_processor=shown)
    held = {}
    for name, given in (("with", processor), ("without", None)):
        with sp.accelerate(family.model, BEFORE, keep_tokens=20, processor=given):
            out = family.model.generate(**both, **GREEDY, return_dict_in_generate=True)
        held[name] = out.past_key_values.layers[0].keys.shape[2]
    assert held["with"] - held["without"] == 16
    stretched = {**video, "pixel_values": torch.zeros(5, 3, 32, 64)}
    broken = {**video, "pixel_values": video["pixel_values"][:4]}
    odd = {**video, "input_ids": video["input_ids"].clone()}
    odd["input_ids"][odd["input_ids"] == family.stock_inputs().token_id] = 0
    odd["input_ids"][0, :3] = family.stock_inputs().token_id
    with sp.accelerate(family.model, BEFORE, keep_tokens=20):
        for inputs, said in (
            (stretched, "pictures of 32 x 32"),
            (broken, "placeholders for 5 pictures and pixel_values holds 4"),
            (odd, "every picture must have 16 placeholders, prompt 0 has 3"),
        ):
            with pytest.raises(InvalidValueError, match=said):
                family.model.generate(**inputs, **GREEDY)
    with pytest.raises(
        InvalidTypeError, match="processor must be the model's processor or tokenizer, got int"
    ):
        sp.accelerate(family.model, BEFORE, processor=3).__enter__()


def test_padded_pictures_are_refused(tmp_path: Any) -> None:
    family = load_small("smolvlm", tmp_path)
    video = video_inputs(family, pixels_of(family))
    mask = torch.ones((*video["pixel_values"].shape[:2], 32, 32), dtype=torch.int64)
    with sp.accelerate(family.model, BEFORE, keep_ratio=0.4):
        expected = family.model.generate(**video, **GREEDY)
        assert torch.equal(family.model.generate(**video, pixel_attention_mask=mask, **GREEDY), expected)
        mask[0, 0, 0, 0] = 0
        with pytest.raises(InvalidValueError, match="pixel_attention_mask must be 1 everywhere"):
            family.model.generate(**video, pixel_attention_mask=mask, **GREEDY)


def test_stages_and_budgets_that_cannot_be_had(qwen: VideoFamily, two: list[dict[str, Any]]) -> None:
    found = traces(qwen.model)
    with pytest.raises(UnsupportedModelError, match="qwen2_5_vl models cannot run a method inside"):
        sp.accelerate(qwen.model, Recipe(stages={"encoder": Choice("tome")})).__enter__()
    with pytest.raises(InvalidValueError, match=r"before the layers \(7,\)"):
        sp.accelerate(qwen.model, "fastv", layer=7).__enter__()
    protected = Recipe(stages={"kv": Choice("snapkv", {"protect_text": True, "keep_tokens": 5})})
    with (
        sp.accelerate(qwen.model, protected),
        pytest.raises(
            InvalidValueError, match="budget of 5 entries is smaller than the 15 that are protected"
        ),
    ):
        qwen.model.generate(**two[0], **GREEDY)
    assert traces(qwen.model) == found


def test_sound_beside_a_video_is_refused(tmp_path: Any) -> None:
    family = load_small("qwen2_5_omni", tmp_path)
    video = {**video_inputs(family, pixels_of(family)), "input_features": torch.zeros(1, 128, 8)}
    with (
        sp.accelerate(family.model, BEFORE, keep_ratio=0.4),
        pytest.raises(InvalidValueError, match=r"sound.*use_audio_in_video=False"),
    ):
        family.model.generate(**video, **GREEDY)
