from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from streamprune.errors import ContextLengthError, DeviceError
from streamprune.models.base import Prompt, VideoFamily
from streamprune.models.generation import TextPieces, check_context, generate
from streamprune.tokens import Reduction


@pytest.fixture(scope="module")
def prompt(family: VideoFamily) -> Prompt:
    image = np.random.default_rng(6).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    tokens = family.encode(family.preprocess([image, image[::-1]])).tokens({})
    return family.prompt("where is the red circle ?", Reduction.select(tokens, torch.arange(0, 32, 3)))


def stock(family: VideoFamily, prompt: Prompt, max_new_tokens: int) -> list[int]:
    out = family.model.generate(**prompt.model_inputs(), do_sample=False, max_new_tokens=max_new_tokens)
    ids: list[int] = out[0, len(prompt) :].tolist()
    return ids


@pytest.mark.parametrize("max_new_tokens", [1, 2, 20])
def test_equals_stock_generate(family: VideoFamily, prompt: Prompt, max_new_tokens: int) -> None:
    out = generate(family, prompt, max_new_tokens=max_new_tokens)
    assert list(out.token_ids) == stock(family, prompt, max_new_tokens)
    assert len(out.token_ids) == max_new_tokens
    expected = family.tokenizer.decode(out.token_ids, skip_special_tokens=True).strip()
    assert out.text == expected
    # the last token was never fed back
    assert out.cache.get_seq_length() == len(prompt) + max_new_tokens - 1


def test_ends_where_the_model_ends(
    family: VideoFamily, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = stock(family, prompt, 20)
    end = next(i for i, token in enumerate(ids) if token not in ids[:i] and i > 1)
    monkeypatch.setattr(family.model.generation_config, "eos_token_id", ids[end])
    out = generate(family, prompt, max_new_tokens=20)
    assert list(out.token_ids) == ids[: end + 1]


def test_sampling_settings_of_the_folder_are_switched_off(
    family: VideoFamily, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = stock(family, prompt, 10)
    for name, value in (("do_sample", True), ("temperature", 5.0), ("top_k", 3), ("top_p", 0.9)):
        monkeypatch.setattr(family.model.generation_config, name, value)
    assert list(generate(family, prompt, max_new_tokens=10).token_ids) == expected
    assert family.model.generation_config.do_sample is True


def test_pieces_join_to_the_text(family: VideoFamily, prompt: Prompt) -> None:
    pieces: list[str] = []
    out = generate(family, prompt, max_new_tokens=12, on_text=pieces.append)
    assert "".join(pieces) == out.text
    assert len(pieces) > 3


def test_stopping_ends_after_the_current_token(family: VideoFamily, prompt: Prompt) -> None:
    stop = threading.Event()
    pieces: list[str] = []

    def say(piece: str) -> None:
        pieces.append(piece)
        if len(pieces) == 3:
            stop.set()

    out = generate(family, prompt, max_new_tokens=200, on_text=say, stop=stop)
    assert len(out.token_ids) < 20
    assert "".join(pieces) == out.text


class Bytes:
    """A tokenizer whose tokens are bytes, so that a character can be cut in two; 0 is special."""

    def decode(self, ids: Sequence[int], **options: bool) -> str:
        return bytes(i for i in ids if i).decode(errors="replace")


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("añb", ["a", "", "ñ", "b", ""]),
        (" a b ", ["", "a", "", " b", "", ""]),
        ("a\0", ["a", "", ""]),
        ("ñ"[:1], ["", "ñ", ""]),
        ("", [""]),
    ],
)
def test_characters_and_white_space_wait_until_they_are_sure(text: str, pieces: list[str]) -> None:
    stream = TextPieces(Bytes())
    said = [stream.add([value]) for value in text.encode()]
    assert [*said, stream.finish()] == pieces
    assert "".join(pieces) == stream.text == text.strip(" \0")


def test_an_answer_cut_in_the_middle_of_a_character_still_joins() -> None:
    stream = TextPieces(Bytes())
    said = [stream.add([value]) for value in "añ".encode()[:2]]
    assert "".join([*said, stream.finish()]) == stream.text == "a\N{REPLACEMENT CHARACTER}"


def test_prompts_longer_than_the_context_say_by_how_much(family: VideoFamily) -> None:
    check_context(family, 448, 64)
    with pytest.raises(ContextLengthError, match=r"450 tokens and 64 new ones are 2 more .*512.*num_frames"):
        check_context(family, 450, 64)
    check_context(family, 40, 64, full_tokens=448)
    with pytest.raises(ContextLengthError, match=r"reach 52 beyond .*512; .*positions='renumber'"):
        check_context(family, 40, 64, full_tokens=500)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_running_out_of_memory_says_what_to_do(
    family: VideoFamily, prompt: Prompt, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def too_much(**inputs: object) -> None:
        raise error

    monkeypatch.setattr(family.model, "generate", too_much)
    with pytest.raises(DeviceError, match=r"not enough .* memory for a prompt of .* fewer frames"):
        generate(family, prompt, max_new_tokens=4)
