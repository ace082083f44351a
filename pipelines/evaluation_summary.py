"""From the lines of an evaluation to the rows of its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from streamprune.benchmarks.item import Item
from streamprune.benchmarks.scoring import read_letter
from streamprune.benchmarks.wording import same_answer
from streamprune.metrics.shares import share
from streamprune.pipelines.evaluation_contenders import FULL, Contender, baseline
from streamprune.pipelines.evaluation_outcome import Outcome

# tags of items: what tables group by beside the category, and what counts only when all of it is right
KIND, GROUP = "kind", "group"

Line = Mapping[str, Any]


def summary(outcome: Outcome) -> dict[str, Any]:
    """Entries full, rows, unread, notes, overhead_share and others of an evaluation's record.

    Every row holds, over the questions whose video could be read: strict ``accuracy`` with its 95 % interval
    ``low`` to ``high`` and ``count``, the same under ``lenient``, how many answers are ``unparsed``,
    ``loyalty`` (the share of answers that are the full model's), ``retained`` (of its accuracy), tokens,
    costs as shares of the full model's, ``evidence_recall``, and the accuracy by ``categories``. Where no
    answers are known there is no accuracy. A baseline's row says which contenders it is ``equal_to``.
    """
    found = _Summary(outcome)
    overhead = outcome.overhead_share
    return {
        "questions": len(found.items),
        "unread": [
            {"video": one.video, "reason": one.reason, "questions": len(one.ids)} for one in outcome.unread
        ],
        "notes": dict(outcome.notes),
        "asked": outcome.asked,
        "seconds": round(outcome.seconds, 2),
        "overhead_share": None if overhead is None else round(overhead, 4),
        "full": found.row(found.full, {"recipe": FULL, "keep_ratio": 1.0}),
        "rows": found.rows(),
    }


@dataclass(frozen=True)
class _Summary:
    outcome: Outcome

    @cached_property
    def items(self) -> list[Item]:
        """Questions about videos that could be read."""
        gone = {name for one in self.outcome.unread for name in one.ids}
        return [item for item in self.outcome.items if item.id not in gone]

    @cached_property
    def full(self) -> list[Line]:
        """The full model's lines, one per item."""
        (who,) = (one for one in self.outcome.contenders if one.name == FULL)
        return self._lines_of(who)

    def rows(self) -> list[dict[str, Any]]:
        """Every contender, those with as many tokens together, and what is equal to them."""
        groups: dict[tuple[float, tuple[int | None, ...]], list[Contender]] = {}
        for who in self.outcome.contenders:
            if who.name != FULL:
                targets = tuple(line.get("equal_tokens") for line in self._lines_of(who))
                groups.setdefault((who.asked_ratio, targets), []).append(who)
        found = []
        for (ratio, targets), members in groups.items():
            for who in members:
                head = {"recipe": who.name, "keep_ratio": ratio}
                found.append(self.row(self._lines_of(who), head))
            if not any(targets):
                continue
            equal_to = [who.name for who in members]
            for name in self.outcome.baselines:
                head = {"recipe": name, "keep_ratio": ratio, "equal_to": equal_to}
                lines = self._equal_lines(name, targets)
                if lines is not None:
                    found.append(self.row(lines, head))
        return found

    def row(self, lines: Sequence[Line], head: Mapping[str, Any]) -> dict[str, Any]:
        """Figures of ``lines``, which belong to the items one by one."""
        answered = [
            (item, line, whole)
            for item, line, whole in zip(self.items, lines, self.full, strict=True)
            if "refused" not in line
        ]
        row: dict[str, Any] = dict(head) | {"answered": len(answered)}
        refused = [line["refused"] for line in lines if "refused" in line]
        if refused:
            row |= {"refused": len(refused), "refused_first": refused[0]}
        if not answered:
            return row
        pairs = [(item, line) for item, line, _ in answered]
        row |= _right(pairs)
        row["unparsed"] = sum(not line["parsed"] for _, line in pairs)
        known = [(item, line, whole) for item, line, whole in answered if "refused" not in whole]
        if known:
            row["loyalty"] = share(
                _same(item, line["text"], whole["text"]) for item, line, whole in known
            ).entry()
            whole = _right([(item, one) for item, _, one in known]).get("accuracy")
            row |= {"retained": round(row["accuracy"] / whole, 4)} if whole else {}
            row |= _costs([line for _, line, _ in known], [one for *_, one in known])
        row |= _means([line for _, line in pairs])
        row["categories"] = _by([item.category for item, _ in pairs], pairs)
        if any(KIND in item.tags for item, _ in pairs):
            row["groups"] = _by([item.tags.get(KIND, "") for item, _ in pairs], pairs)
        return row

    def _lines_of(self, who: Contender) -> list[Line]:
        return [self.outcome.lines[who.key(item.id)] for item in self.items]

    def _equal_lines(self, name: str, targets: Sequence[int | None]) -> list[Line] | None:
        """A baseline's lines; where the others kept everything of a video, the full model's.

        None where nobody asked it, or where it is among the contenders itself.
        """
        found: list[Line] = []
        own = 0
        for item, whole, tokens in zip(self.items, self.full, targets, strict=True):
            if tokens is None:
                found.append(whole)
                continue
            asked = self.outcome.lines.get(baseline(name, tokens).key(item.id))
            own += asked is not None
            line = asked or self.outcome.stand_in(name, item, tokens)
            if line is None:
                return None
            found.append(line)
        return found if own else None


def _same(item: Item, text: str, other: str) -> bool:
    """Whether two replies are the same answer."""
    if item.options:
        letters = read_letter(text, item.options), read_letter(other, item.options)
        if None not in letters:
            return letters[0] == letters[1]
    return same_answer(text, other)


def _right(pairs: Sequence[tuple[Item, Line]]) -> dict[str, Any]:
    """Strict and lenient accuracy over the questions whose answer is known; nothing where there are none."""
    known = [(item, line) for item, line in pairs if line["strict"] is not None]
    if not known:
        return {}
    found: dict[str, Any] = share(line["strict"] for _, line in known).entry()
    found["lenient"] = share(line["lenient"] for _, line in known).entry()
    groups: dict[str, list[bool]] = {}
    for item, line in known:
        if GROUP in item.tags:
            groups.setdefault(item.tags[GROUP], []).append(line["strict"])
    if groups:
        found["all_right"] = share(all(rights) for rights in groups.values()).entry()
    return found


def _by(names: Sequence[str], pairs: Sequence[tuple[Item, Line]]) -> dict[str, Any]:
    """:func:`_right` with the mean evidence recall, for every name."""
    groups: dict[str, list[tuple[Item, Line]]] = {}
    for name, pair in zip(names, pairs, strict=True):
        groups.setdefault(name, []).append(pair)
    return {
        name: _right(found) | _recall([line for _, line in found]) for name, found in sorted(groups.items())
    }


def _means(lines: Sequence[Line]) -> dict[str, Any]:
    found = {
        name: round(sum(line[name] for line in lines) / len(lines), 2)
        for name in ("frames", "tokens_in", "tokens_kept")
    }
    return found | _recall(lines)


def _recall(lines: Sequence[Line]) -> dict[str, float]:
    recalls = [line["evidence_recall"] for line in lines if line["evidence_recall"] is not None]
    return {"evidence_recall": round(sum(recalls) / len(recalls), 4)} if recalls else {}


def _costs(lines: Sequence[Line], whole: Sequence[Line]) -> dict[str, float]:
    """Operations for prompts, and bytes of caches, as shares of what the full model's answers took."""
    found = {}
    for name in ("prefill_flops", "kv_bytes"):
        if all(line[name] is not None for line in (*lines, *whole)):
            total = sum(line[name] for line in whole)
            found[name] = round(sum(line[name] for line in lines) / total, 4)
    return found
