"""What counts as right: strictly, leniently, and what is left unread."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamprune.benchmarks import Item, Score, read_letter, score
from streamprune.errors import InvalidValueError

OPTIONS = ("red", "a red car", "A man opens the door", "No")
STRICT = Score(strict=True, lenient=True, parsed=True)
WRONG = Score(strict=False, lenient=False, parsed=True)
LENIENT = Score(strict=False, lenient=True, parsed=False)
UNREAD = Score(strict=False, lenient=False, parsed=False)


def _item(answer: str | None, options: tuple[str, ...] = OPTIONS) -> Item:
    return Item(id="1", video=Path("a.mp4"), question="Which?", options=options, answer=answer)


READ = {
    "B": "B",
    "b": "B",
    " (B) ": "B",
    "(b).": "B",
    "B.": "B",
    "[B]": "B",
    "**B**": "B",
    "$\\boxed{B}$": "B",
    "<answer>B</answer>": "B",
    "<think>A? The answer is C.</think>\nB": "B",
    "B. a red car": "B",
    "(B) a red car": "B",
    "B) a red car": "B",
    "B: a red car": "B",
    "B - a red car": "B",
    "B\nThe car can be seen twice.": "B",
    "B, because the car is red": "B",
    "Option A: red": "A",
    "B\n\nOption C is not seen.": "B",
    "[[B]]": "B",
    "Ans: B": "B",
    "Selected: (B)": "B",
    "The answer is 'B'": "B",
    "The answer is \u201cB\u201d.": "B",
    "The correct answer is:\n\nB": "B",
    "It might be B": "B",
    "The answer is B": "B",
    "The answer is (B).": "B",
    "Answer: B": "B",
    "answer: b": "B",
    "The answer is (b), a red car": "B",
    "**Answer:** B": "B",
    "The correct option is B.": "B",
    "The best answer is: **B. a red car**": "B",
    "Option B": "B",
    "I would choose B.": "B",
    "I think it is B, not C": "B",
    "B is correct": "B",
    "A. red\nB. a red car\nThe answer is B": "B",
    "Option A shows a cat. Therefore the answer is B.": "B",
    "The answer is A because it is red": "A",
    "a red car": "B",
    "A Red Car.": "B",
    "red": "A",
    "The answer is a red car.": "B",
    "No.": "D",
    "A man opens the door": "C",
    "The answer is A man opens the door.": "C",
}
NOT_READ = (
    "",
    "   ",
    "E",
    "The answer is E",
    "(F) a red car",
    "Both B and C",
    "B and C",
    "B or C",
    "B/C",
    "A, B",
    "(B) or (C)",
    "The answer is B or C",
    "Option B, option C",
    "Answer: B or maybe C",
    "Answer: A\nAnswer: B",
    "A: B",
    "So A, B",
    "none of A, B, C or D",
    "Neither B nor C",
    "The answer is B's",
    "A. red\nB. a red car\nC. A man opens the door",
    "A. red B. a red car",
    "B. red",
    "The answer is not B",
    "It isn't B",
    "Option B is wrong",
    "Not option B",
    "A man walks by",
    "The answer is A man",
    "The answer is a man",
    "Because he does",
    "A car of class C-3",
    "Not",
    "Not sure",
    "There is a red car",
    "<think>The answer is B",
)


@pytest.mark.parametrize(("text", "letter"), READ.items())
def test_read_letters(text: str, letter: str) -> None:
    assert read_letter(text, OPTIONS) == letter
    assert score(_item(letter), text) == STRICT
    other = next(one for one in "ABCD" if one != letter)
    assert score(_item(other), text) == WRONG, "what was clearly read is not forgiven"


@pytest.mark.parametrize("text", NOT_READ)
def test_no_letter_is_guessed(text: str) -> None:
    assert read_letter(text, OPTIONS) is None
    assert not any(
        score(_item(letter), text).parsed or score(_item(letter), text).strict for letter in "ABCD"
    )


@pytest.mark.parametrize(
    ("text", "counted"),
    [
        ("Both B and C", "BC"),
        ("It is not B", "B"),
        ("There is a red car", "B"),
        ("There is one red, I think", "A"),
        ("Red, or maybe a red car", "AB"),
        ("A man opens the door slowly", "C"),
        ("A man walks by", ""),
        ("Not sure", ""),
        ("No, I would not say so", "D"),
        ("Because", ""),
        ("E", ""),
    ],
)
def test_lenient_counts_what_is_named(text: str, counted: str) -> None:
    for letter in "ABCD":
        assert score(_item(letter), text) == (LENIENT if letter in counted else UNREAD)


def test_two_options_of_the_same_words_name_none() -> None:
    assert read_letter("red", ("red", "Red.")) is None
    assert read_letter("B", ("red", "Red.")) == "B"


def test_letters_inside_the_words_of_an_option_name_none() -> None:
    item = _item("C", ("vitamin C", "vitamin D", "iron"))
    assert score(item, "It must be vitamin C, I think") == UNREAD
    assert score(_item("A", item.options), "It must be vitamin C, I think") == LENIENT
    assert score(item, "vitamin C") == WRONG


def test_numbers_and_articles_of_options_do_not_matter_leniently() -> None:
    item = _item("A", ("3 dogs", "13 dogs", "the cat"))
    assert score(item, "I see three dogs here") == LENIENT
    assert score(item, "I see 13 dogs here") == UNREAD
    assert score(_item("C", item.options), "I see a cat") == LENIENT


@pytest.mark.parametrize(
    ("answer", "text", "expected"),
    [
        ("No", "no.", STRICT),
        ("No", "No", STRICT),
        ("No", "No, he does not", Score(strict=False, lenient=True, parsed=True)),
        ("No", "Not sure", WRONG),
        ("No", "", UNREAD),
        ("No", "  \n", UNREAD),
        ("the red door", "Red  door", Score(strict=False, lenient=True, parsed=True)),
        ("3", "three", Score(strict=False, lenient=True, parsed=True)),
        ("3", "13", WRONG),
        ("3", "3.5", WRONG),
        ("it's raining", "It\u2019s raining!", STRICT),
        ("cat", "concatenate", WRONG),
        ("a", "a", STRICT),
        ("a", "the", WRONG),
    ],
)
def test_free_answers(answer: str, text: str, expected: Score) -> None:
    assert score(_item(answer, ()), text) == expected


def test_an_unpublished_answer_cannot_be_scored() -> None:
    with pytest.raises(InvalidValueError, match="'1' has no published answer"):
        score(_item(None), "B")


def test_a_prompt_has_letters_and_says_how_to_answer() -> None:
    prompt = _item("B").prompt
    assert prompt.splitlines()[:3] == ["Which?", "A. red", "B. a red car"]
    assert "letter" in prompt
    assert "letter" not in _item("three", ()).prompt


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"id": ""}, "id of an item must not be empty"),
        ({"answer": "E"}, "answer of '1' must be a letter from A to D, got 'E'"),
        ({"answer": "red"}, "must be a letter from A to D, got 'red'"),
        ({"options": tuple("x" * 27)}, "at most 26, got 27"),
        ({"start_seconds": -1.0}, "start_seconds of '1' must be a number from 0, got -1.0"),
        ({"end_seconds": float("nan")}, "end_seconds of '1' must be a number from 0, got nan"),
        ({"start_seconds": 3.0, "end_seconds": 2.0}, "must not be before start_seconds 3.0, got 2.0"),
        ({"streaming": True}, "is asked in a stream and needs end_seconds"),
        ({"evidence": ((2.0, 1.0),)}, "evidence of '1' must be"),
    ],
)
def test_items_that_make_no_sense(change: dict[str, object], match: str) -> None:
    fields: dict[str, object] = {"id": "1", "video": Path("a.mp4"), "question": "Which?", "options": OPTIONS}
    with pytest.raises(InvalidValueError, match=match):
        Item(**{**fields, **change})  # type: ignore[arg-type]
