"""Drawn words come as often as the model means them, the same for the same seed, and disturb nobody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from streamprune.errors import InvalidTypeError, InvalidValueError
from streamprune.models.base import Prompt, VideoFamily
from streamprune.models.generation import TextPieces, generate
from streamprune.models.sampling import GREEDY, Sampling, read_stop
from streamprune.tokens import Reduction


@pytest.fixture(scope="module")
def prompt(family: VideoFamily) -> Prompt:
    image = np.random.default_rng(6).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    tokens = family.encode(family.preprocess([image, image[::-1]])).tokens({})
    return family.prompt("where is the red circle ?", Reduction.select(tokens, torch.arange(0, 32, 3)))


def said(family: VideoFamily, prompt: Prompt, **sampling: Any) -> tuple[int, ...]:
    return generate(family, prompt, max_new_tokens=12, sampling=Sampling(**sampling)).token_ids


def test_the_same_seed_says_the_same_and_torch_draws_on_as_before(
    family: VideoFamily, prompt: Prompt
) -> None:
    before = torch.get_rng_state()
    answers = [said(family, prompt, temperature=3.0, seed=seed) for seed in (1, 1, 2, 3)]
    assert torch.equal(torch.get_rng_state(), before)
    assert answers[0] == answers[1]
    assert len(set(answers)) == 3
    drawn = {said(family, prompt, temperature=3.0) for _ in range(3)}
    assert len(drawn) == 3


def test_cold_answers_and_answers_among_one_word_are_the_greedy_one(
    family: VideoFamily, prompt: Prompt
) -> None:
    greedy = said(family, prompt)
    assert said(family, prompt, temperature=0.01, seed=5) == greedy
    assert said(family, prompt, temperature=3.0, top_k=1) == greedy
    assert said(family, prompt, temperature=3.0, top_p=1e-6) == greedy
    assert said(family, prompt, seed=5) == greedy


SCORES = torch.tensor([1.0, 0.0, 2.0, -1.0, 1.5])


def shares(sampling: Sampling, draws: int) -> torch.Tensor:
    """How often each word is the best of SCORES."""
    scores = SCORES.expand(draws, -1)
    for processor in sampling.processors(1):
        # one generator draws for all rows: they stand for the words of one answer
        if hasattr(processor, "_generators"):
            scores = torch.stack([processor(torch.zeros(1, 1), row[None])[0] for row in scores])
        else:
            scores = processor(torch.zeros(draws, 1), scores)
    return torch.bincount(scores.argmax(-1), minlength=len(SCORES)) / draws


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(temperature=1, seed=3), SCORES.softmax(0)),
        (Sampling(temperature=2.5, seed=4), (SCORES / 2.5).softmax(0)),
        (Sampling(temperature=1, top_k=2, seed=5), SCORES[[2, 4]].softmax(0)),
        (Sampling(temperature=1, top_p=0.5, seed=6), SCORES[[2, 4]].softmax(0)),
    ],
    ids=["1", "2.5", "top_k", "top_p"],
)
def test_words_come_as_often_as_they_are_likely(sampling: Sampling, expected: torch.Tensor) -> None:
    found = shares(sampling, 4_000)
    if len(expected) == 2:
        assert found[[0, 1, 3]].sum() == 0
        found = found[[2, 4]]
    assert (found - expected).abs().max() < 0.03  # over three standard deviations of a share of a half


def test_rows_are_drawn_as_if_alone() -> None:
    sampling, rows = Sampling(temperature=1, seed=9), torch.randn(3, 50)
    together = sampling.processors(3)[-1](torch.zeros(3, 1), rows)
    for row in range(3):
        alone = sampling.processors(1)[-1](torch.zeros(1, 1), rows[row : row + 1])
        assert torch.equal(together[row], alone[0])


def test_words_that_were_said_become_less_likely(family: VideoFamily, prompt: Prompt) -> None:
    out = family.model.generate(
        **prompt.model_inputs(), do_sample=False, max_new_tokens=12, repetition_penalty=5.0
    )
    penalised = said(family, prompt, repetition_penalty=5.0)
    assert list(penalised) == out[0, len(prompt) :].tolist()
    assert penalised != said(family, prompt)
    assert said(family, prompt, repetition_penalty=1.0) == said(family, prompt)


def test_an_answer_ends_before_the_text_it_is_told_to_stop_at(family: VideoFamily, prompt: Prompt) -> None:
    whole = generate(family, prompt, max_new_tokens=12)
    words = whole.text.split()
    place = next(i for i, word in enumerate(words) if i > 1 and word not in words[:i])
    pieces: list[str] = []
    out = generate(
        family,
        prompt,
        max_new_tokens=12,
        sampling=Sampling(stop=("nowhere", words[place])),
        on_text=pieces.append,
    )
    assert out.text == " ".join(words[:place]) == "".join(pieces)
    assert out.token_ids == whole.token_ids[: len(out.token_ids)]
    assert len(out.token_ids) < len(whole.token_ids)


class Letters:
    """A tokenizer whose tokens are letters."""

    def decode(self, ids: Sequence[int], **options: bool) -> str:
        return "".join(map(chr, ids))


@pytest.mark.parametrize(
    ("letters", "stop", "pieces"),
    [
        ("abcd", ["cd"], ["a", "b", "", "", ""]),
        ("abce", ["cd"], ["a", "b", "", "ce", ""]),
        ("abc", ["cd"], ["a", "b", "", "c"]),
        ("aab", ["ab"], ["", "a", "", ""]),
        ("a\n\n", ["\n\n"], ["a", "", "", ""]),
        ("xy", ["y", "xyz"], ["", "x", ""]),
        ("x", ["x"], ["", ""]),
    ],
)
def test_what_may_become_a_stop_text_waits(letters: str, stop: list[str], pieces: list[str]) -> None:
    stream = TextPieces(Letters(), stop=stop)
    found = [stream.add([ord(letter)]) for letter in letters]
    assert [*found, stream.finish()] == pieces
    assert stream.ended == any(text in letters for text in stop)
    assert "".join(pieces) == stream.text


def test_the_end_token_ends_an_answer() -> None:
    stream = TextPieces(Letters(), ends=(ord("z"), None))  # type: ignore[arg-type]
    stream.add([ord("a")])
    assert not stream.ended
    stream.add([ord("z")])
    assert stream.ended


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"temperature": -1}, InvalidValueError, r"temperature must be in \[0, 100\], got -1"),
        ({"temperature": 0.001}, InvalidValueError, r"temperature must be 0 .* or in \[0.01, 100\]"),
        ({"temperature": float("nan")}, InvalidValueError, "temperature must be"),
        ({"temperature": "hot"}, InvalidTypeError, "temperature must be a number"),
        ({"temperature": None}, InvalidTypeError, "temperature must be a number"),
        ({"temperature": 1, "top_p": 0}, InvalidValueError, r"top_p must be in \(0, 1\]"),
        ({"temperature": 1, "top_k": 0}, InvalidValueError, "top_k must be at least 1"),
        ({"temperature": 1, "top_k": 2.5}, InvalidTypeError, "top_k must be an integer"),
        ({"top_p": 0.9, "top_k": 4}, InvalidValueError, "top_p and top_k narrow .* give temperature="),
        ({"repetition_penalty": 0}, InvalidValueError, r"repetition_penalty must be in \[0.1, 10\]"),
        ({"seed": -1}, InvalidValueError, "seed must be at least 0"),
        ({"seed": 2**63}, InvalidValueError, r"seed must be below 2\*\*63"),
        ({"seed": True}, InvalidTypeError, "seed must be an integer"),
    ],
)
def test_settings_that_cannot_be_meant(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Sampling(**options)


def test_texts_to_stop_at() -> None:
    assert read_stop(None) == ()
    assert read_stop("\n") == ("\n",)
    assert read_stop(["a", "b"]) == ("a", "b")
    with pytest.raises(InvalidValueError, match="must not hold an empty text"):
        read_stop(["a", ""])
    for wrong in (3, ["a", 3], {"a"}):
        with pytest.raises(InvalidTypeError, match="stop must be a text or a list of texts"):
            read_stop(wrong)
    assert GREEDY.processors(2) == []
