"""Which option a reply names: read only where it says so, otherwise left unread."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from streamprune.benchmarks.item import LETTERS
from streamprune.benchmarks.wording import places, same_answer, straight_quotes, words

_LETTER = r"[(\[\"']?([A-Z])(?![\w+#-]|['.]\w)[)\]\"']?"
_NOUN = r"(?:options?|choices?|letter|answer)"
_STATED = re.compile(
    rf"(?i:\b(?:answer|choice|option)\b(?:\s+to\s+the\s+question)?(?:\s*(?:is|would\s+be|should\s+be|must\s+be|:|=))+"
    rf"\s*(?:the\s+)?(?:{_NOUN}\s*)?)(?:{_LETTER}|[(\[]?([a-z])(?=[)\]]|\.?\s*$))"
)
_STATED_WORDS = re.compile(r"(?is)\banswer\b\s*(?:is|:)+\s*(.+)$")
_MENTIONED = re.compile(
    rf"(?i:\b(?:{_NOUN}|is|be|choose|select|pick|it's|with)\s+){_LETTER}"
    rf"|(?:^|(?<=[\s(]))([A-Z])\s+(?i:is\s+(?:the\s+)?(?:most\s+likely\s+)?(?:correct|right|best|answer))"
    r"|:\s*[(\[\"']?([A-Z])\W*$"
)
_LEADING = re.compile(
    rf"(?im)^[ \t]*(?:[-*•][ \t]+)?(?:{_NOUN}[ \t]*)?"
    r"(?:[(\[]([A-Z])[)\]][.:]?(?=\s|$)|([A-Z])(?:[).:]+(?=\s|$)|[ \t]+[-\u2013\u2014](?=\s)|[ \t]*$))"
)
_LEADING_COMMA = re.compile(r"^\s*([A-Z]),\s+(?![A-Z]\b)(?!(?:and|or)\b)")
_ALONE = re.compile(r"^\W*([A-Za-z])\W*$")
_ANOTHER = re.compile(
    r"^[)\]\"'.:]*\s*(?:,|/|&|\+|,?\s*\b(?:and|or|and/or)\b(?:\s+(?:maybe|perhaps|possibly|even)\b)?)\s*[(\[\"']?[A-Z](?![\w'])"
)
_DENIED_AFTER = re.compile(
    r"(?i)^[)\]\"'.]*\s+(?:is|are|was|seems)(?:\s+(?:not|wrong|incorrect|false)|n't)\b"
)
_DENIED_BEFORE = re.compile(r"(?i)(?:\b(?:not|never|neither|nor|except|out|than)|n't)\s+(?:be\s+|the\s+)?$")
_STANDING = re.compile(r"(?<![\w'.+-])([A-Z])(?![\w+#-]|['.]\w)")
# words that follow a letter, but never an article: "A because ..." names the option, "A man ..." does not
_NO_NOUN = re.compile(
    r"^\s+(?:because|since|as|for|is|was|which|that|due|based|given|but|and|or|not|in|from)\b"
)
_THOUGHT = re.compile(r"(?is)^.*</think(?:ing)?>|<think(?:ing)?>.*$")
_MARKED = re.compile(r"(?is)<answer>(.*?)</answer>|\\boxed\{(?:\\text\{)?([^{}]*)\}")


def read_letter(text: str, options: Sequence[str]) -> str | None:
    """The letter of the one option that ``text`` gives as its answer, or None where it does not say one.

    Read are, in this order: a letter alone ("B", "(b).", "**B**"), the exact words of one option, a stated
    answer ("The answer is B", "Answer: (B)", an ``<answer>`` tag or a box), a letter that begins a line
    ("B. a dog", "(B) a dog"), and one mentioned as an option ("I choose B", "B is correct"). Two of them at
    one level ("B and C", options listed one after the other), a letter beyond the options, and words next to
    another option's letter are no answer; nor is the article of "A man opens the door". Thoughts in
    ``<think>`` tags are not read.
    """
    letters = LETTERS[: len(options)]
    reply = _reply(text)
    if alone := _ALONE.match(reply):
        return _if_known(alone[1].upper(), letters)
    if named := _by_words(reply, options):
        return named
    for pattern in (_STATED, None, _MENTIONED):
        found = set(_leading(reply, options) if pattern is None else _said(reply, pattern))
        if found:
            return _if_known(found.pop(), letters) if len(found) == 1 else None
        stated = _STATED_WORDS.search(reply) if pattern is _STATED else None
        if stated and (named := _by_words(stated[1], options)):
            return named
    return None


def possible_letters(text: str, options: Sequence[str]) -> set[str]:
    """Every option that ``text`` names in any way: its letter standing alone, or its words in a row.

    Words inside the longer words of another option that is named too do not count: "a red car" does not name
    "red" where both are options.
    """
    letters = LETTERS[: len(options)]
    reply = _reply(text)
    said = words(reply)
    spans = {
        letter: [(at, at + len(wanted)) for at in places(said, wanted)]
        for letter, option in zip(letters, options, strict=True)
        for wanted in (words(option),)
    }
    everything = [span for several in spans.values() for span in several]
    return _standing_alone(reply, options) | {
        letter for letter, several in spans.items() if any(not _inside(span, everything) for span in several)
    }


def _standing_alone(reply: str, options: Sequence[str]) -> set[str]:
    """Letters of options that stand in ``reply`` as words of their own, outside the words of an option."""
    for option in options:
        if len(option) > 1:  # the C of "vitamin C" names no option where that is one's text
            reply = re.sub(rf"(?<!\w){re.escape(option)}(?!\w)", " ", reply, flags=re.IGNORECASE)
    return {
        match[1]
        for match in _STANDING.finditer(reply)
        if match[1] in LETTERS[: len(options)] and not _is_article(match[1], reply[match.end(1) :])
    }


def _reply(text: str) -> str:
    """``text`` without thoughts and marks of layout; what is marked as the answer, if anything is."""
    reply = _THOUGHT.sub("", straight_quotes(text))
    marked = [first or second for first, second in _MARKED.findall(reply)]
    if len({mark.strip() for mark in marked}) == 1:
        reply = marked[0]
    return re.sub(r"[*`$]|__", "", reply).strip()


def _if_known(letter: str, letters: str) -> str | None:
    return letter if letter in letters else None


def _by_words(text: str, options: Sequence[str]) -> str | None:
    same = [LETTERS[index] for index, option in enumerate(options) if same_answer(text, option)]
    return same[0] if len(same) == 1 else None


def _said(text: str, pattern: re.Pattern[str]) -> Iterator[str]:
    """Letters at which ``pattern`` stops; a second letter joined to one ("B or C") is given as "?"."""
    for match in pattern.finditer(text):
        group = match.lastindex or 1
        letter, after = match[group], text[match.end(group) :]
        if _ANOTHER.match(after):
            yield from (letter, "?")
        elif not (
            _is_article(letter, after)
            or _DENIED_AFTER.match(after)
            or _DENIED_BEFORE.search(text[: match.start()])
        ):
            yield letter.upper()


def _leading(text: str, options: Sequence[str]) -> Iterator[str]:
    """Letters that begin lines; "?" beside one whose line goes on with another option."""
    if match := _LEADING_COMMA.match(text):
        yield match[1]
    for match in _LEADING.finditer(text):
        letter = (match[1] or match[2]).upper()
        after = text[match.end() :].split("\n", 1)[0]
        yield letter
        alone, other = _ALONE.match(after), _by_words(after, options)
        inline = re.search(r"(?:^|\s)[(\[]?([A-Z])[.)\]]\s+\S", after)
        if (
            _ANOTHER.match(after)
            or other not in (None, letter)
            or any(one and one[1].upper() != letter for one in (alone, inline))
        ):
            yield "?"


def _is_article(letter: str, after: str) -> bool:
    """Whether a capital "A" (or "I") begins a phrase and so names no option."""
    return letter in "AI" and re.match(r"\s+[a-z]", after) is not None and not _NO_NOUN.match(after)


def _inside(span: tuple[int, int], spans: list[tuple[int, int]]) -> bool:
    return any(start <= span[0] and span[1] <= end and (start, end) != span for start, end in spans)
