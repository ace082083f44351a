"""Our route into families with one axis of positions against the stock one, on small models."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

from streamprune.errors import InvalidValueError, SignalError, UnsupportedModelError
from streamprune.models.base import Checkpoint, EncodedFrames, VideoFamily
from streamprune.models.internvl import InternVL
from streamprune.models.llava_next_video import LlavaNextVideo
from streamprune.models.loading import load_model
from streamprune.models.preprocessing import FrameTransform
from streamprune.models.question_signals import with_question
from streamprune.models.smolvlm import SmolVLM, in_words
from streamprune.pipelines.offline import VideoLLM
from streamprune.registry import build_method
from streamprune.tokens import Reduction, VisualTokens
from tests.models.small_internvl import save_small_internvl
from tests.models.small_llava_next import save_small_llava_next
from tests.models.small_minicpm import save_small_minicpm
from tests.models.small_qwen import cut
from tests.models.small_smolvlm import save_small_smolvlm
from tests.models.small_video_llama_3 import save_small_video_llama_3

RECORDED = Path(__file__).parent / "data" / "other_pixels.npz"
QUESTION = "what colour is the circle ?"
FRAMES = 5
CROP = {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}, "do_center_crop": True}
STRETCH = {
    "size": {"longest_edge": 60},
    "max_image_size": {"longest_edge": 24},
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}
PLACEHOLDER = 4  # in every vocabulary
SAVE = {
    "internvl": save_small_internvl,
    "llava_next_video": save_small_llava_next,
    "minicpmv4_6": save_small_minicpm,
    "smolvlm": save_small_smolvlm,
    "video_llama_3": save_small_video_llama_3,
}
# whose frames are all shown in one size, to a tower that is read layer by layer
SQUARES = ["internvl", "llava_next_video", "smolvlm"]


@pytest.fixture(scope="module", params=SAVE)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SAVE[request.param](tmp_path_factory.mktemp(request.param))


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
    """What the stock processor gives: every placeholder written out, with names, times and tags."""
    template = DEFAULT_CHAT_TEMPLATE if family.model_type == "smolvlm" else None
    text = family.tokenizer.apply_chat_template(
        [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": QUESTION}]}],
        chat_template=template,
        tokenize=False,
        add_generation_prompt=True,
    )
    mark, places = "<video>", len(pixels) * pixels.shape[2] * pixels.shape[3] // 64
    if family.model_type == "video_llama_3":
        rows, cols = pixels.shape[2] // 4, pixels.shape[3] // 4
        mark, tokens = "<|video_pad|>", places // len(pixels)
        video = ",".join(f"Time {number}.0s:" + tokens * mark for number in range(len(pixels)))
        visual = {
            "pixel_values_videos": cut(pixels, slice_frames=1),
            "video_grid_thw": torch.tensor([[len(pixels), rows, cols]]),
            "video_merge_sizes": torch.tensor([2]),
        }
    elif family.model_type == "minicpmv4_6":
        rows, cols, mark = pixels.shape[2] // 4, pixels.shape[3] // 4, "<|video_pad|>"
        frame = f"<image>{mark * (rows * cols // 16)}</image>"
        video = f"<image_id>0</image_id>{frame * len(pixels)}"
        patches = [
            one[:, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
            for one in pixels
            for y in range(rows)
            for x in range(cols)
        ]
        visual = {
            "pixel_values_videos": torch.cat(patches, -1)[None],
            "target_sizes_videos": torch.tensor([[rows, cols]] * len(pixels), dtype=torch.int32),
        }
    elif family.model_type == "internvl":
        frames = [f"Frame{i + 1}: <img>{'<IMG_CONTEXT>' * 16}</img>" for i in range(len(pixels))]
        video, visual = "\n".join(frames), {"pixel_values": pixels}
    elif family.model_type == "smolvlm":
        around = "<fake_token_around_image>"
        frame = f"\nFrame from 00:00:{around}<global-img>{'<image>' * 16}{around}"
        video = "You are provided the following series of five frames from a 0:00:00 [H:MM:SS] video.\n"
        video, visual = f"{video}{frame * FRAMES}\n\n", {"pixel_values": pixels[None]}
    else:
        video, visual = "<video>" * (16 * len(pixels)), {"pixel_values_videos": pixels[None]}
    ids = torch.tensor([family.tokenizer(text.replace(mark, video))["input_ids"]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **visual}


@torch.no_grad()
def logits(family: VideoFamily, inputs: dict[str, Any]) -> torch.Tensor:
    out: torch.Tensor = family.model(**inputs).logits[0]
    return out


def greedy(family: VideoFamily, inputs: dict[str, Any]) -> list[int]:
    length = inputs["input_ids"].shape[1]
    ids: list[int] = family.model.generate(**inputs, do_sample=False, max_new_tokens=8)[0, length:].tolist()
    return ids


@pytest.mark.parametrize(
    ("images", "pixels", "transform"),
    [
        (
            "images",
            "internvl",
            FrameTransform.from_settings({"size": {"height": 24, "width": 24}}, (448, 448)),
        ),
        ("images", "llava_next_video", FrameTransform.covering(CROP, 336)),
        ("wide", "llava_next_video_wide", FrameTransform.covering({}, 24)),
        ("images", "smolvlm", FrameTransform.stretching(STRETCH, 384)),
        ("wide", "smolvlm_wide", FrameTransform.stretching(STRETCH, 384)),
    ],
)
def test_pixels_are_those_of_the_stock_processor(images: str, pixels: str, transform: FrameTransform) -> None:
    with np.load(RECORDED) as recorded:
        shown, expected = list(recorded[images]), torch.from_numpy(recorded[pixels])
    found = transform(shown, torch.device("cpu"))
    assert torch.equal(found, expected)
    # what is kept to be shown again becomes the same
    assert torch.equal(transform(list(transform.levels(found)), torch.device("cpu")), expected)


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


@pytest.fixture(scope="module")
def attentive(family: VideoFamily, tmp_path_factory: pytest.TempPathFactory) -> VideoFamily:
    """The same with attention in all layers: recurrent ones cannot be told not to see a token."""
    if family.model_type != "minicpmv4_6":
        return family
    folder = tmp_path_factory.mktemp("attentive")
    return load_model(save_small_minicpm(folder, layer_types=["full_attention"] * 4))


def test_dropped_tokens_equal_masked_ones(attentive: VideoFamily, pixels: torch.Tensor) -> None:
    """Keeping original positions must equal a full-length run in which nobody sees the dropped tokens."""
    family = attentive
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
    assert prompt.input_ids[0, prompt.kept_columns].unique().tolist() == [PLACEHOLDER]  # type: ignore[no-untyped-call]
    renumbered = family.prompt(QUESTION, Reduction.select(tokens, kept), positions="renumber")
    assert renumbered.position_ids.tolist() == [list(range(len(prompt)))]
    assert (logits(family, renumbered.model_inputs()) - expected).abs().max() > 1e-2


def test_lengths_are_foreseen(family: VideoFamily, pixels: torch.Tensor) -> None:
    tokens = encode(family, pixels)
    prompt = family.prompt(QUESTION, Reduction.identity(tokens))
    assert family.grid(FRAMES, (pixels.shape[2], pixels.shape[3])) == tokens.grid
    assert family.fixed_tokens(QUESTION, FRAMES) + len(tokens) == len(prompt) == prompt.full_tokens


@pytest.mark.parametrize("folder", SQUARES, indirect=True)
def test_patches_are_averaged_where_the_model_puts_them_side_by_side(family: VideoFamily) -> None:
    """The model's own merging of a picture in which every patch holds its number."""
    assert isinstance(family, InternVL | LlavaNextVideo | SmolVLM)
    numbers = torch.arange(64.0).reshape(1, 64, 1)
    if isinstance(family, InternVL):
        spread = numbers.reshape(1, 8, 8, 1).expand(1, 8, 8, 4).contiguous()
        merged = family.model.model.pixel_shuffle(spread).reshape(1, 4, 4, 4, 4).mean((3, 4))
    elif isinstance(family, SmolVLM):
        merged = family.model.model.connector.pixel_shuffle(numbers).mean(-1).reshape(1, 4, 4)
    else:
        merged = family.model.model.vision_resampler(numbers).reshape(1, 4, 4)
    assert torch.equal(family._pool(numbers)[..., 0], merged)


@pytest.mark.parametrize("folder", SQUARES, indirect=True)
def test_attention_signals_are_those_of_the_layer_that_is_read(folder: Path, pixels: torch.Tensor) -> None:
    family = load_model(folder, attn_implementation="eager")
    assert isinstance(family, InternVL | LlavaNextVideo | SmolVLM)
    maps: list[torch.Tensor] = []
    name = {"internvl": "layer.3.attention", "llava_next_video": "layers.2.self_attn"}.get(
        family.model_type, "layers.3.self_attn"
    )
    modules = family.model.get_encoder("video").named_modules()
    attention = next(module for path, module in modules if path.endswith(f"encoder.{name}"))
    handle = attention.register_forward_hook(lambda module, args, output: maps.append(output[1]))
    found = family.encode(pixels, ("saliency", "received_attention")).signals
    handle.remove()
    weights = maps[0].mean(1)
    summary = family.model_type != "smolvlm"  # comes first
    assert len(weights[0]) == 64 + summary
    rows = {"saliency": weights[:, 0] if summary else None, "received_attention": weights.mean(1)}
    for signal, row in rows.items():
        assert found[signal].std() > 1e-4
        if row is not None:
            expected = family._pool(row[:, -64:, None])[..., 0]
            torch.testing.assert_close(found[signal], expected, rtol=0, atol=1e-6)


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
    settings: dict[str, Any] = {"num_frames": FRAMES, "max_new_tokens": 4}
    plain = vlm.ask(video, QUESTION, **settings)
    assert plain.text
    assert vlm.ask(video, QUESTION, recipe="fastvid", keep_ratio=1.0, **settings).text == plain.text
    quarter = vlm.ask(video, QUESTION, recipe="fastvid", keep_ratio=0.25, **settings)
    assert 0 < quarter.stats.tokens_kept <= plain.stats.tokens_in // 4
    assert quarter.text


def test_frame_features(family: VideoFamily, pixels: torch.Tensor) -> None:
    found = family.encode(pixels, ("frame_features",))
    if family.model_type != "llava_next_video":
        expected = found.features.mean((1, 2))
    else:
        tower = family.model.get_encoder("video")
        expected = tower(pixels, output_hidden_states=True).hidden_states[-2][:, 0]
    torch.testing.assert_close(found.signals["frame_features"], expected, rtol=0, atol=1e-6)


def test_what_is_not_supported_is_said(family: VideoFamily, pixels: torch.Tensor) -> None:
    if family.model_type not in SQUARES:
        said = f"{family.model_type} models cannot run a method inside"
        with pytest.raises(UnsupportedModelError, match=said):
            family.encode(pixels, encoder=build_method("encoder", "tome", {}))
    with pytest.raises(SignalError, match=f"{family.model_type} models cannot give the signal 'colour'"):
        family.encode(pixels, ("colour",))
    video, image = "<video>", "<IMG_CONTEXT>" if family.model_type == "internvl" else "<image>"
    if family.model_type not in SQUARES:
        video, image = "<|video_pad|>", "<|image_pad|>"
    for mark in (video, image):
        with pytest.raises(InvalidValueError, match=re.escape(f"placeholders {video!r} or {image!r}")):
            family.prompt(f"what is {mark} ?", Reduction.identity(encode(family, pixels)))


@pytest.mark.parametrize(
    ("folder", "settings", "message"),
    [
        (
            "internvl",
            {"size": {"height": 32, "width": 40}},
            "32 x 40 pixels; squares whose side is a multiple",
        ),
        ("internvl", {"do_center_crop": True}, "do_center_crop"),
        ("llava_next_video", {"size": {"shortest_edge": 40}, "crop_size": CROP["crop_size"]}, "crop_size"),
        ("smolvlm", {"size": {"height": 32, "width": 32}}, "'longest_edge': ...} is supported for both"),
        ("llava_next_video", {"do_center_crop": False}, "shorter side was made as long"),
        ("llava_next_video", {"size": {"height": 32, "width": 32}}, "shorter side was made as long"),
    ],
    indirect=["folder"],
)
def test_settings_that_are_not_followed_are_refused(
    family: VideoFamily, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        type(family)(Checkpoint("org/name", family.model, family.tokenizer, settings))


@pytest.mark.parametrize("folder", ["smolvlm"], indirect=True)
def test_times_stand_before_the_frames(family: VideoFamily) -> None:
    assert isinstance(family, SmolVLM)
    text = family.frames_text(3, "<image>", (0.9, 61.2, 3700.0))
    assert text.startswith("You are provided the following series of three frames from a 1:01:40 [H:MM:SS]")
    picture = "<fake_token_around_image><global-img><image><fake_token_around_image>"
    assert text.endswith("".join(f"\nFrame from {t}:{picture}" for t in ("00:00", "01:01", "61:40")) + "\n\n")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (1, "one"),
        (13, "thirteen"),
        (20, "twenty"),
        (64, "sixty-four"),
        (100, "one hundred"),
        (105, "one hundred and five"),
        (768, "seven hundred and sixty-eight"),
        (1000, "one thousand"),
        (1001, "one thousand and one"),
        (1234, "one thousand, two hundred and thirty-four"),
    ],
)
def test_numbers_in_words(number: int, words: str) -> None:
    assert in_words(number) == words


@pytest.mark.parametrize("folder", ["smolvlm"], indirect=True)
def test_the_mean_query_stands_in_for_a_summary(family: VideoFamily, pixels: torch.Tensor) -> None:
    attention, caught = family.model.get_encoder("video").encoder.layers[-1].self_attn, []
    hooks = [
        layer.register_forward_hook(lambda module, args, output: caught.append(output))
        for layer in (attention.q_proj, attention.k_proj)
    ]
    family.encode(pixels)
    for hook in hooks:
        hook.remove()
    queries, keys = (rows.unflatten(-1, (4, 8)).transpose(1, 2) for rows in caught)
    attended = torch.softmax(queries.mean(2, keepdim=True) @ keys.mT / 8**0.5, -1).mean((1, 2))
    expected = attended.reshape(FRAMES, 4, 2, 4, 2).mean((2, 4))
    found = family.encode(pixels, ("saliency",))
    torch.testing.assert_close(found.signals["saliency"], expected, rtol=0, atol=1e-6)
