"""Two wordings of the same answer: case, punctuation, articles and small numbers do not matter."""

from __future__ import annotations

import re

_NUMBERS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty
"""
_DIGITS = {word: str(number) for number, word in enumerate(re.findall(r"\w+", _NUMBERS))}
_ARTICLES = {"a", "an", "the"}
_WORD = re.compile(r"\d+(?:[.,]\d+)+|\w+(?:'\w+)*")
_QUOTES = {0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"'}
_FINAL = " \t\r\n.!\"'`*"


def words(text: str) -> tuple[str, ...]:
    """The words of ``text``: lower case, no punctuation, no articles, numbers up to twenty as digits."""
    found = (_DIGITS.get(word, word) for word in _WORD.findall(straight_quotes(text).casefold()))
    return tuple(word for word in found if word not in _ARTICLES)


def straight_quotes(text: str) -> str:
    """``text`` with typewriter apostrophes and quotes for typographic ones."""
    return text.translate(_QUOTES)


def same_answer(text: str, answer: str) -> bool:
    """Whether both are the same text but for case, spaces, and marks around it."""
    return _bare(text) == _bare(answer) != ""


def contains_words(text: str, answer: str) -> bool:
    """Whether the words of ``answer`` stand in ``text`` in a row, whole: "no" is not in "not sure"."""
    return bool(places(words(text), words(answer)))


def places(inside: tuple[str, ...], wanted: tuple[str, ...]) -> list[int]:
    """Every index at which ``wanted`` starts in ``inside``; nothing is found nowhere."""
    if not wanted:
        return []
    size = len(wanted)
    return [at for at in range(len(inside) - size + 1) if inside[at : at + size] == wanted]


def _bare(text: str) -> str:
    return " ".join(straight_quotes(text).casefold().strip(_FINAL).split())
