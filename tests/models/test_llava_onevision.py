"""Our route into the model against the stock one, on a small model whose weights make positions matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from streamprune.errors import InvalidTypeError, InvalidValueError, SignalError
from streamprune.models.base import Checkpoint, EncodedFrames, VideoFamily
from streamprune.models.llava_onevision import LlavaOnevision
from streamprune.models.loading import load_model
from streamprune.tokens import Reduction, VisualTokens

QUESTION = "what colour is the circle ?"
FRAMES = 6


@pytest.fixture(scope="module")
def pixels(family: VideoFamily) -> torch.Tensor:
    rng = np.random.default_rng(8)
    return family.preprocess([rng.integers(0, 256, (40, 30, 3), dtype=np.uint8) for _ in range(FRAMES)])


def encode(
    family: VideoFamily, pixels: torch.Tensor, batch: int, signals: tuple[str, ...] = ()
) -> VisualTokens:
    parts = [family.encode(part, signals) for part in torch.split(pixels, batch)]
    joined = EncodedFrames.join(parts)
    return joined.tokens(family.signals(joined.signals))


def stock_inputs(family: VideoFamily, pixels: torch.Tensor) -> dict[str, Any]:
    """Ids and pixels as the stock processor would give them: every placeholder written out."""
    text = family.tokenizer.apply_chat_template(
        [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": QUESTION}]}],
        tokenize=False,
        add_generation_prompt=True,
    )
    text = text.replace("<video>", "<video>" * (len(pixels) * 16 + 1))
    ids = torch.tensor([family.tokenizer(text)["input_ids"]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values_videos": pixels[None]}


@torch.no_grad()
def logits(family: VideoFamily, inputs: dict[str, Any]) -> torch.Tensor:
    out: torch.Tensor = family.model(**inputs).logits[0]
    return out


def greedy(family: VideoFamily, inputs: dict[str, Any]) -> list[int]:
    length = inputs["input_ids"].shape[1]
    ids: list[int] = family.model.generate(**inputs, do_sample=False, max_new_tokens=12)[0, length:].tolist()
    return ids


def test_one_batch_of_all_tokens_is_the_pixel_route_bit_for_bit(
    family: VideoFamily, pixels: torch.Tensor
) -> None:
    prompt = family.prompt(QUESTION, Reduction.identity(encode(family, pixels, FRAMES)))
    stock = stock_inputs(family, pixels)
    assert torch.equal(prompt.input_ids, stock["input_ids"])
    assert torch.equal(logits(family, prompt.model_inputs()), logits(family, stock))
    assert greedy(family, prompt.model_inputs()) == greedy(family, stock)


@pytest.mark.parametrize(
    "settings", [{"attn_implementation": "eager"}, {"dtype": "bfloat16"}], ids=["eager", "bfloat16"]
)
def test_the_identity_holds_for_other_attention_and_numbers(
    small_folder: Path, pixels: torch.Tensor, settings: dict[str, Any]
) -> None:
    family = load_model(small_folder, **settings)
    prompt = family.prompt(QUESTION, Reduction.identity(encode(family, pixels, FRAMES)))
    stock = stock_inputs(family, pixels)
    assert torch.equal(logits(family, prompt.model_inputs()), logits(family, stock))
    assert greedy(family, prompt.model_inputs()) == greedy(family, stock)


@pytest.mark.parametrize("batch", [1, 4])
def test_smaller_batches_agree_within_rounding(family: VideoFamily, pixels: torch.Tensor, batch: int) -> None:
    prompt = family.prompt(QUESTION, Reduction.identity(encode(family, pixels, batch)))
    stock = stock_inputs(family, pixels)
    assert (logits(family, prompt.model_inputs()) - logits(family, stock)).abs().max() <= 1e-5
    assert greedy(family, prompt.model_inputs()) == greedy(family, stock)


def test_shuffled_positions_would_be_noticed(family: VideoFamily, pixels: torch.Tensor) -> None:
    """The two tests above mean something only if wrong positions move the logits far more."""
    inputs = family.prompt(QUESTION, Reduction.identity(encode(family, pixels, FRAMES))).model_inputs()
    right = logits(family, inputs)
    order = torch.randperm(inputs["position_ids"].shape[1], generator=torch.Generator().manual_seed(0))
    wrong = logits(family, {**inputs, "position_ids": inputs["position_ids"][:, order]})
    assert (wrong - right)[-1].abs().max() > 0.1


def test_dropped_tokens_equal_masked_ones(family: VideoFamily, pixels: torch.Tensor) -> None:
    """Keeping original positions must equal a full-length run in which nobody sees the dropped tokens."""
    tokens = encode(family, pixels, FRAMES)
    kept = torch.tensor([3, 4, 17, 40, 41, 66, 95])
    prompt = family.prompt(QUESTION, Reduction.select(tokens, kept))
    stock = stock_inputs(family, pixels)
    first = stock["input_ids"][0].tolist().index(family.model.config.video_token_id)
    seen = torch.ones(stock["input_ids"].shape[1], dtype=torch.bool)
    seen[first : first + len(tokens)] = False
    seen[first + kept] = True
    stock["attention_mask"] = seen.long()[None]
    stock["position_ids"] = torch.arange(len(seen))[None]
    expected = logits(family, stock)[seen]
    assert (logits(family, prompt.model_inputs()) - expected).abs().max() <= 1e-5
    renumbered = family.prompt(QUESTION, Reduction.select(tokens, kept), positions="renumber")
    assert (logits(family, renumbered.model_inputs()) - expected).abs().max() > 1e-2


def test_prompt_names_lengths_and_places(family: VideoFamily, pixels: torch.Tensor) -> None:
    tokens = encode(family, pixels, FRAMES)
    prompt = family.prompt(QUESTION, Reduction.select(tokens, torch.tensor([90, 5, -1])))
    fixed = family.fixed_tokens(QUESTION)
    assert len(prompt) == fixed + 3
    assert prompt.full_tokens == fixed + FRAMES * 16
    # two tokens before the video; the zero row takes the last place, the newline its own
    assert prompt.position_ids[0, 2:6].tolist() == [2 + 5, 2 + 90, 2 + 95, 2 + 96]
    assert torch.equal(prompt.visual[0, 2], torch.zeros(48))
    assert torch.equal(prompt.visual[0, 3], family.model.model.image_newline)


def test_model_inputs_are_made_afresh(family: VideoFamily, pixels: torch.Tensor) -> None:
    prompt = family.prompt(QUESTION, Reduction.identity(encode(family, pixels, FRAMES)))
    assert prompt.model_inputs()["mm_encoder_outputs"] is not prompt.model_inputs()["mm_encoder_outputs"]


def test_signals_come_frame_by_frame_and_in_the_grid_of_the_features(
    family: VideoFamily, pixels: torch.Tensor
) -> None:
    names = ("saliency", "frame_features")
    whole, apart = encode(family, pixels, FRAMES, names), encode(family, pixels, 2, names)
    assert tuple(whole.signals["saliency"].shape) == (FRAMES, 4, 4)
    assert tuple(whole.signals["frame_features"].shape) == (FRAMES, 32)
    for name in names:
        torch.testing.assert_close(apart.signals[name], whole.signals[name], rtol=1e-4, atol=1e-5)
    assert whole.signals["saliency"].std() > 1e-3


def test_saliency_is_pooled_as_the_features_are(family: VideoFamily, pixels: torch.Tensor) -> None:
    """Independent of the code: bilinear interpolation of the head's attention from 7 x 7 to 4 x 4."""
    assert isinstance(family, LlavaOnevision)
    assert family._head is not None
    outputs = family.model.get_video_features(pixels[None], output_hidden_states=True, return_dict=True)
    attention, pooled = family._head(outputs.hidden_states[-1])
    expected = torch.nn.functional.interpolate(
        attention.reshape(FRAMES, 1, 7, 7), size=(4, 4), mode="bilinear", align_corners=False
    )[:, 0]
    tokens = encode(family, pixels, FRAMES, ("saliency", "frame_features"))
    torch.testing.assert_close(tokens.signals["saliency"], expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(tokens.signals["frame_features"], pooled, rtol=0, atol=1e-6)


def test_a_signal_that_was_not_computed_is_explained(family: VideoFamily, pixels: torch.Tensor) -> None:
    tokens = encode(family, pixels, FRAMES)
    with pytest.raises(SignalError, match=r"encode it again with signals=\('saliency',\)"):
        tokens.signal("saliency", (FRAMES, 4, 4))


def test_without_a_head_the_error_says_how_to_get_one_and_what_works(family: VideoFamily) -> None:
    bare = LlavaOnevision(Checkpoint("org/name", family.model, family.tokenizer, {}))
    assert "received_attention" in bare.available_signals()
    assert not {"saliency", "frame_features"} & set(bare.available_signals())
    with pytest.raises(SignalError, match=r"pooling_head=PATH.*Methods that work.*random.*stride") as caught:
        bare.check_signals(["saliency"])
    assert "fastvid" not in str(caught.value).partition("Methods that work")[2]


def test_a_signal_nobody_knows_lists_the_available_ones(family: VideoFamily) -> None:
    with pytest.raises(SignalError, match=r"cannot give the signal 'colour'.*saliency"):
        family.check_signals(["colour"])


@pytest.mark.parametrize(
    ("question", "error", "message"),
    [
        ("", InvalidValueError, "must not be empty"),
        (" \n", InvalidValueError, "must not be empty"),
        (7, InvalidTypeError, "must be text"),
        ("what is <video> ?", InvalidValueError, "placeholders '<video>' or '<image>'"),
        ("what is <image> ?", InvalidValueError, "placeholders"),
    ],
)
def test_questions_that_cannot_be_asked(
    family: VideoFamily, pixels: torch.Tensor, question: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        family.prompt(question, Reduction.identity(encode(family, pixels, FRAMES)))
