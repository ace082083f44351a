"""Our route into InternVL against the stock one, on a small model whose weights make positions matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from streamprune.errors import InvalidValueError, SignalError, UnsupportedModelError
from streamprune.models.base import Checkpoint, EncodedFrames, VideoFamily
from streamprune.models.internvl import InternVL
from streamprune.models.loading import load_model
from streamprune.models.preprocessing import FrameTransform
from streamprune.models.question_signals import with_question
from streamprune.pipelines.offline import VideoLLM
from streamprune.registry import build_method
from streamprune.tokens import Reduction, VisualTokens
from tests.models.small_internvl import save_small_internvl

RECORDED = Path(__file__).parent / "data" / "other_pixels.npz"
QUESTION = "what colour is the circle ?"
FRAMES = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_internvl(tmp_path_factory.mktemp("internvl"))


@pytest.fixture(scope="module")
def family(folder: Path) -> VideoFamily:
    return load_model(folder)


@pytest.fixture(scope="module")
def images() -> list[Any]:
    rng = np.random.default_rng(8)
    return [rng.integers(0, 256, (40, 30, 3), dtype=np.uint8) for _ in range(FRAMES)]


@pytest.fixture(scope="module")
def pixels(family: VideoFamily, images: list[Any]) -> torch.Tensor:
    return family.preprocess(images)


def encode(
    family: VideoFamily, pixels: torch.Tensor, batch: int = FRAMES, signals: tuple[str, ...] = ()
) -> VisualTokens:
    joined = EncodedFrames.join([family.encode(part, signals) for part in torch.split(pixels, batch)])
    return joined.tokens(family.signals(joined.signals))


def stock_inputs(family: VideoFamily, pixels: torch.Tensor) -> dict[str, Any]:
    """What the stock processor gives: frames named and tagged, every placeholder written out."""
    text = family.tokenizer.apply_chat_template(
        [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": QUESTION}]}],
        tokenize=False,
        add_generation_prompt=True,
    )
    frames = [f"Frame{i + 1}: <img>{'<IMG_CONTEXT>' * 16}</img>" for i in range(len(pixels))]
    ids = torch.tensor([family.tokenizer(text.replace("<video>", "\n".join(frames)))["input_ids"]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


@torch.no_grad()
def logits(family: VideoFamily, inputs: dict[str, Any]) -> torch.Tensor:
    out: torch.Tensor = family.model(**inputs).logits[0]
    return out


def greedy(family: VideoFamily, inputs: dict[str, Any]) -> list[int]:
    length = inputs["input_ids"].shape[1]
    ids: list[int] = family.model.generate(**inputs, do_sample=False, max_new_tokens=8)[0, length:].tolist()
    return ids


def test_pixels_are_those_of_the_stock_processor() -> None:
    with np.load(RECORDED) as recorded:
        images, expected = recorded["images"], torch.from_numpy(recorded["internvl"])
    transform = FrameTransform.from_settings({"size": {"height": 24, "width": 24}}, (448, 448))
    assert torch.equal(transform(list(images), torch.device("cpu")), expected)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_all_tokens_are_the_pixel_route_bit_for_bit(
    folder: Path, pixels: torch.Tensor, attention: str, dtype: str
) -> None:
    family = load_model(folder, attn_implementation=attention, dtype=dtype)
    prompt = family.prompt(QUESTION, Reduction.identity(encode(family, pixels)))
    stock = stock_inputs(family, pixels)
    assert torch.equal(prompt.input_ids, stock["input_ids"])
    assert torch.equal(logits(family, prompt.model_inputs()), logits(family, stock))
    assert greedy(family, prompt.model_inputs()) == greedy(family, stock)


@pytest.mark.parametrize("batch", [1, 2])
def test_parts_join_to_the_same_tokens(family: VideoFamily, pixels: torch.Tensor, batch: int) -> None:
    names = tuple(name for name in family.available_signals() if name != "pixel_change")
    whole, parts = encode(family, pixels, FRAMES, names), encode(family, pixels, batch, names)
    torch.testing.assert_close(parts.features, whole.features, rtol=0, atol=1e-5)
    for name in names:
        assert whole.signals[name].shape[0] == FRAMES
        torch.testing.assert_close(parts.signals[name], whole.signals[name], rtol=1e-3, atol=1e-4)


def test_shuffled_positions_would_be_noticed(family: VideoFamily, pixels: torch.Tensor) -> None:
    inputs = family.prompt(QUESTION, Reduction.identity(encode(family, pixels))).model_inputs()
    right = logits(family, inputs)
    order = torch.randperm(inputs["position_ids"].shape[1], generator=torch.Generator().manual_seed(0))
    wrong = logits(family, {**inputs, "position_ids": inputs["position_ids"][:, order]})
    assert (wrong - right)[-1].abs().max() > 0.1


def test_dropped_tokens_equal_masked_ones(family: VideoFamily, pixels: torch.Tensor) -> None:
    """Keeping original positions must equal a full-length run in which nobody sees the dropped tokens."""
    tokens = encode(family, pixels)
    everything = family.prompt(QUESTION, Reduction.identity(tokens))
    kept = torch.tensor([3, 4, 17, 40, 41, 66])  # none of the fourth frame
    prompt = family.prompt(QUESTION, Reduction.select(tokens, kept))
    seen = torch.ones(len(everything), dtype=torch.bool)
    seen[everything.kept_columns] = False
    seen[everything.kept_columns[kept]] = True
    masked = {**everything.model_inputs(), "attention_mask": seen.long()[None]}
    expected = logits(family, masked)[seen]
    assert (logits(family, prompt.model_inputs()) - expected).abs().max() <= 1e-5
    assert prompt.input_ids[0, prompt.kept_columns].unique().tolist() == [family.model.config.image_token_id]
    renumbered = family.prompt(QUESTION, Reduction.select(tokens, kept), positions="renumber")
    assert renumbered.position_ids.tolist() == [list(range(len(prompt)))]
    assert (logits(family, renumbered.model_inputs()) - expected).abs().max() > 1e-2


def test_lengths_are_foreseen(family: VideoFamily, pixels: torch.Tensor) -> None:
    tokens = encode(family, pixels)
    prompt = family.prompt(QUESTION, Reduction.identity(tokens))
    assert family.grid(FRAMES) == tokens.grid
    assert family.fixed_tokens(QUESTION, FRAMES) + len(tokens) == len(prompt) == prompt.full_tokens


def test_patches_are_averaged_where_the_model_puts_them_side_by_side(family: VideoFamily) -> None:
    """The model's own shuffle of a picture in which every patch holds its number."""
    assert isinstance(family, InternVL)
    numbers = torch.arange(64.0).reshape(1, 64, 1)
    shuffled = family.model.model.pixel_shuffle(numbers.reshape(1, 8, 8, 1).expand(1, 8, 8, 4).contiguous())
    assert torch.equal(family._pool(numbers)[..., 0], shuffled.reshape(1, 4, 4, 4, 4).mean((3, 4)))


def test_attention_signals_are_those_of_the_last_layer(folder: Path, pixels: torch.Tensor) -> None:
    family = load_model(folder, attn_implementation="eager")
    assert isinstance(family, InternVL)
    maps: list[torch.Tensor] = []
    attention = family.model.get_encoder("video").encoder.layer[-1].attention
    handle = attention.register_forward_hook(lambda module, args, output: maps.append(output[1]))
    found = family.encode(pixels, ("saliency", "received_attention")).signals
    handle.remove()
    weights = maps[0].mean(1)  # (frames, 65, 65), the summary first
    for name, row in (("saliency", weights[:, 0, 1:]), ("received_attention", weights.mean(1)[:, 1:])):
        torch.testing.assert_close(found[name], family._pool(row[..., None])[..., 0], rtol=0, atol=1e-6)
        assert found[name].std() > 1e-4


def test_signals_of_a_question(family: VideoFamily, pixels: torch.Tensor) -> None:
    tokens = encode(family, pixels)
    asked = with_question(family, QUESTION, tokens, ("query_frame_attention", "text_embeds"))
    assert asked.tokens.signals["text_embeds"].shape == (6, 64)
    shares = asked.tokens.signals["query_frame_attention"]
    assert shares.shape == (FRAMES,)
    assert shares.sum() == pytest.approx(1, abs=1e-5)
    assert shares.std() > 1e-3


def test_answers_from_pictures_to_text(family: VideoFamily, images: list[Any]) -> None:
    vlm, video = VideoLLM(family), np.stack(images)
    settings = {"num_frames": FRAMES, "max_new_tokens": 4}
    plain = vlm.ask(video, QUESTION, **settings)
    assert plain.text
    assert vlm.ask(video, QUESTION, recipe="fastvid", keep_ratio=1.0, **settings).text == plain.text
    quarter = vlm.ask(video, QUESTION, recipe="fastvid", keep_ratio=0.25, **settings)
    assert 0 < quarter.stats.tokens_kept <= plain.stats.tokens_in // 4
    assert quarter.text


def test_what_is_not_supported_is_said(family: VideoFamily, pixels: torch.Tensor) -> None:
    with pytest.raises(UnsupportedModelError, match="internvl models cannot run a method inside"):
        family.encode(pixels, encoder=build_method("encoder", "tome", {}))
    with pytest.raises(SignalError, match="internvl models cannot give the signal 'colour'"):
        family.encode(pixels, ("colour",))
    for question in ("what is <video> ?", "what is <IMG_CONTEXT> ?"):
        with pytest.raises(InvalidValueError, match="placeholders '<video>' or '<IMG_CONTEXT>'"):
            family.prompt(question, Reduction.identity(encode(family, pixels)))
    settings = {"size": {"height": 32, "width": 40}}
    with pytest.raises(UnsupportedModelError, match="32 x 40 pixels; squares whose side is a multiple of 8"):
        InternVL(Checkpoint("org/name", family.model, family.tokenizer, settings))
