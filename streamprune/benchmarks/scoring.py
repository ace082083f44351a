"""What counts as a right answer: strictly, and as forgivingly as the field's own scorers."""

from __future__ import annotations

from dataclasses import dataclass

from streamprune.benchmarks.item import Item
from streamprune.benchmarks.letters import possible_letters, read_letter
from streamprune.benchmarks.wording import contains_words, same_answer
from streamprune.errors import InvalidValueError

__all__ = ["Score", "read_letter", "score"]


@dataclass(frozen=True)
class Score:
    """How one reply was judged.

    Args:
        strict: the reply says the right answer in so many words, and no other.
        lenient: a forgiving scorer would count it; never False where ``strict`` is True.
        parsed: an answer could be read off the reply. Where it is False ``strict`` is False too: nothing is
            guessed, and such replies are counted apart.
    """

    strict: bool
    lenient: bool
    parsed: bool


def score(item: Item, text: str) -> Score:
    """Judge what a model replied to ``item.prompt``.

    With options: strict is the letter read by :func:`read_letter`. Where none could be read, lenient counts
    the right letter standing alone anywhere, or the right option's words inside the reply, however many other
    options are named beside it, as the released scorers of the sets do.
    Free answers: strict is the same text but for case, outer spaces and a final stop; lenient is the answer's
    words, normalised, somewhere in the reply; any reply with words in it is parsed.

    Raises:
        InvalidValueError: the item has no published answer.
    """
    if item.answer is None:
        raise InvalidValueError(f"{item.id!r} has no published answer to score against")
    if not item.options:
        strict = same_answer(text, item.answer)
        return Score(strict, strict or contains_words(text, item.answer), bool(text.strip()))
    letter = read_letter(text, item.options)
    if letter is not None:
        return Score(letter == item.answer, letter == item.answer, True)
    return Score(False, item.answer in possible_letters(text, item.options), False)
