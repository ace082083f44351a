"""A recipe inside the own generate of every family: dropping equals masking, and all else stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import streamprune as sp
from streamprune.errors import UnsupportedModelError
from streamprune.models.base import VideoFamily
from streamprune.recipe import Choice, Recipe
from tests.models.test_attach import same_states, states, traces
from tests.pipelines.stock_calls import (
    FRAMES,
    NAMES,
    load_small,
    one_after_another,
    picture_inputs,
    pixels_of,
    side_by_side,
    text_inputs,
    video_inputs,
)

KEPT = 0.4
RECIPES = {
    "pre_llm": Recipe(stages={"pre_llm": Choice("stride")}),
    "in_llm": Recipe(stages={"in_llm": Choice("fastv", {"layer": 1})}),
    "kv": Recipe(stages={"kv": Choice("snapkv")}),
    "all": Recipe(
        stages={
            "pre_llm": Choice("stride"),
            "in_llm": Choice("fastv", {"layer": 1, "keep_ratio": 1.0}),
            "kv": Choice("snapkv", {"keep_ratio": 1.0}),
        }
    ),
}


@pytest.fixture(scope="module", params=NAMES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VideoFamily:
    family = load_small(request.param, tmp_path_factory.mktemp(request.param))
    if request.param == "llava_next_video":  # one tile is enough
        family.model.config.image_grid_pinpoints = [[32, 32]]
    return family


@pytest.fixture(scope="module")
def exact(family: VideoFamily, tmp_path_factory: pytest.TempPathFactory) -> VideoFamily:
    """The same in numbers whose rounding does not blur what is compared."""
    double = load_small(family.model_type, tmp_path_factory.mktemp(family.model_type))
    double.model.double().config.image_grid_pinpoints = getattr(
        family.model.config, "image_grid_pinpoints", None
    )
    return double


@pytest.fixture(scope="module")
def video(family: VideoFamily) -> dict[str, Any]:
    return video_inputs(family, pixels_of(family))


@pytest.fixture(scope="module")
def other(family: VideoFamily) -> dict[str, Any]:
    """Other pictures, of another shape where the family can tell."""
    return video_inputs(family, pixels_of(family, seed=5, wide=30))


@pytest.fixture(scope="module")
def picture(family: VideoFamily) -> dict[str, Any]:
    return picture_inputs(family, pixels_of(family, seed=3)[0])


def generate(family: VideoFamily, inputs: dict[str, Any], **settings: Any) -> Any:
    asked: dict[str, Any] = {"do_sample": False, "max_new_tokens": 4, "return_dict_in_generate": True}
    return family.model.generate(**inputs, **{**asked, "output_logits": True, **settings})


def inside(family: VideoFamily, recipe: Any, inputs: dict[str, Any], ratio: float = KEPT, **more: Any) -> Any:
    with sp.accelerate(family.model, recipe, keep_ratio=ratio, processor=family.tokenizer):
        return generate(family, inputs, **more)


def seen(family: VideoFamily, part: dict[str, Any], *, is_video: bool = True) -> torch.Tensor:
    """(1, length) which tokens of a prompt stride leaves; pictures are not touched."""
    stays = torch.ones_like(part["input_ids"])
    columns = (part["input_ids"][0] == family.stock_inputs().token_id).nonzero()[:, 0]
    if family.model_type == "llava_onevision":
        columns = columns[:-1]  # the newline is no token
    if is_video and len(columns):
        slices = -(-FRAMES[family.model_type] // family.frames_per_slice)
        rows = torch.ones(slices, 1, len(columns) // slices, 1)
        stays[0, columns] = 0
        stays[0, columns[sp.reduce_tokens(rows, "stride", keep_ratio=KEPT).index]] = 1
    return stays


def masked(family: VideoFamily, inputs: dict[str, Any], stays: torch.Tensor, **settings: Any) -> Any:
    """The stock model with all tokens at their places, in which nobody sees the dropped ones."""
    places = family.stock_inputs().positions(inputs).values
    return generate(family, {**inputs, "attention_mask": stays, "position_ids": places}, **settings)


def assert_same(found: Any, expected: Any) -> None:
    assert torch.equal(found.sequences, expected.sequences)
    for ours, theirs in zip(found.logits, expected.logits, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)


@pytest.mark.parametrize("stage", ["pre_llm", "in_llm", "kv"])
def test_keeping_everything_changes_no_bit(family: VideoFamily, video: dict[str, Any], stage: str) -> None:
    stock = generate(family, video, output_scores=True)
    found = inside(family, RECIPES[stage], video, 1.0, output_scores=True)
    assert torch.equal(found.sequences, stock.sequences)
    assert all(torch.equal(*pair) for pair in zip(found.logits, stock.logits, strict=True))
    assert all(torch.equal(*pair) for pair in zip(found.scores, stock.scores, strict=True))


@pytest.mark.parametrize("stage", ["pre_llm", "all"])
def test_dropping_equals_masking(exact: VideoFamily, video: dict[str, Any], stage: str) -> None:
    stays = seen(exact, video)
    found = inside(exact, RECIPES[stage], video)
    assert_same(found, masked(exact, video, stays))
    assert found.past_key_values.layers[0].keys.shape[2] == int(stays.sum()) + 3
    stock = generate(exact, video)
    assert (found.logits[0] - stock.logits[0]).abs().max() > 1e-2


def test_no_trace_is_left(family: VideoFamily, video: dict[str, Any]) -> None:
    stock = generate(family, video)
    found, weights = traces(family.model), states(family.model)
    for stage in ("all", "in_llm"):
        inside(family, RECIPES[stage], video)
    assert traces(family.model) == found
    assert same_states(family.model, weights)
    again = generate(family, video)
    assert all(torch.equal(*pair) for pair in zip(again.logits, stock.logits, strict=True))


def test_rows_of_a_batch_are_what_the_prompts_are_alone(
    exact: VideoFamily, video: dict[str, Any], other: dict[str, Any], picture: dict[str, Any]
) -> None:
    longer = one_after_another(exact, [text_inputs(exact), other])
    prompts = [video, longer, text_inputs(exact)]
    found = inside(exact, "stride", side_by_side(exact, prompts))
    for row, prompt in enumerate(prompts):
        alone = inside(exact, "stride", prompt)
        length = prompt["input_ids"].shape[1]
        assert torch.equal(found.sequences[row, -length - 4 :], alone.sequences[0])
        for ours, theirs in zip(found.logits, alone.logits, strict=True):
            torch.testing.assert_close(ours[row], theirs[0], atol=1e-10, rtol=0)


def test_several_videos_in_a_prompt(exact: VideoFamily, video: dict[str, Any], other: dict[str, Any]) -> None:
    """The budget is that of each video."""
    both = one_after_another(exact, [video, text_inputs(exact), other])
    stays = torch.cat([seen(exact, video), seen(exact, text_inputs(exact)), seen(exact, other)], 1)
    assert_same(inside(exact, "stride", both), masked(exact, both, stays))


def test_pictures_stay_whole(
    exact: VideoFamily, video: dict[str, Any], other: dict[str, Any], picture: dict[str, Any]
) -> None:
    several = one_after_another(exact, [video, picture, other])
    whole = seen(exact, picture, is_video=False)
    stays = torch.cat([seen(exact, video), whole, seen(exact, other)], 1)
    assert_same(inside(exact, "stride", several), masked(exact, several, stays))


def test_prompts_without_video_pass_through(family: VideoFamily, picture: dict[str, Any]) -> None:
    for inputs in (text_inputs(family), picture):
        stock = generate(family, inputs)
        for stage in ("pre_llm", "in_llm"):
            found = inside(family, RECIPES[stage], inputs)
            assert all(torch.equal(*pair) for pair in zip(found.logits, stock.logits, strict=True))


def test_a_forward_call_is_shortened_too(exact: VideoFamily, video: dict[str, Any]) -> None:
    stays = seen(exact, video)
    places = exact.stock_inputs().positions(video).values
    with torch.no_grad():
        expected = exact.model(**{**video, "attention_mask": stays, "position_ids": places}).logits
        with sp.accelerate(exact.model, "stride", keep_ratio=KEPT):
            found = exact.model(**video).logits
    torch.testing.assert_close(found, expected[stays.bool()][None], atol=1e-10, rtol=0)


def test_a_second_turn_stands_where_the_stock_model_would_put_it(
    exact: VideoFamily, video: dict[str, Any]
) -> None:
    turn = text_inputs(exact)["input_ids"]
    with sp.accelerate(exact.model, "stride", keep_ratio=KEPT):
        first = generate(exact, video)
        whole = torch.cat([first.sequences, turn], 1)
        second = generate(exact, {"input_ids": whole}, past_key_values=first.past_key_values)
    assert torch.equal(second.sequences[:, : whole.shape[1]], whole)
    stock = exact.stock_inputs().positions(video)
    length = video["input_ids"].shape[1]
    # words of the answer that are in the cache follow the prompt; the rest comes later
    said = stock.values[..., -1:] + 1 + torch.arange(3)
    new = stock.later[:, None] + torch.arange(3, whole.shape[1] - length)
    places = torch.cat([stock.values, said, new.expand(*said.shape[:-1], -1)], -1)
    stays = torch.cat([seen(exact, video), torch.ones(1, whole.shape[1] - length, dtype=torch.int64)], 1)
    full = {**video, "input_ids": whole, "attention_mask": stays, "position_ids": places}
    full.pop("mm_token_type_ids", None)
    assert_same(second, generate(exact, full))


def test_fewer_bits_and_plain_attention(
    family: VideoFamily, video: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    name = family.model_type
    folder = tmp_path_factory.mktemp(name)
    other = load_small(name, folder, attn_implementation="eager", dtype="bfloat16")
    stock, found = generate(other, video), inside(other, RECIPES["all"], video, 1.0)
    assert all(torch.equal(*pair) for pair in zip(found.logits, stock.logits, strict=True))


def test_a_family_whose_inputs_are_not_known(
    family: VideoFamily, video: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a new one is: what acts inside the language model works, what comes before is refused."""
    monkeypatch.setattr(type(family), "stock_inputs", VideoFamily.stock_inputs)
    with pytest.raises(UnsupportedModelError, match=f"processor of {family.model_type} models"):
        inside(family, "stride", video)
    stock = generate(family, video)
    held = inside(family, RECIPES["in_llm"], video).past_key_values.layers[-1].keys.shape[2]
    assert held < stock.past_key_values.layers[-1].keys.shape[2]
