"""Questions about a script: text, answer, and which object in which frames holds the evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from streamprune.embedded.world.draw import COLOR_NAMES, SHAPES
from streamprune.embedded.world.scenes import Scene, Script, Thing
from streamprune.embedded.world.wordings import NUMBERS, ORDINALS, held_out, training

GROUPS = {
    "color_needle": "needle",
    "shape_needle": "needle",
    "where_needle": "needle",
    "exist_needle": "needle",
    "digit": "needle",
    "digit_color": "needle",
    "when": "needle",
    "before_needle": "needle",
    "color_main": "main",
    "shape_main": "main",
    "where_main": "main",
    "exist_main": "main",
    "scene": "main",
    "motion": "global",
    "count": "global",
    "before_main": "global",
    "describe": "global",
}
QUESTION_TYPES = tuple(GROUPS)
# How often a type is asked when it can be: half of them need a needle, motion and counting are raised.
_WEIGHTS = dict.fromkeys(QUESTION_TYPES, 1.0) | {"motion": 1.6, "count": 1.3, "where_main": 0.8, "when": 1.2}

Span = tuple[int, int, int]  # index of the thing, first frame, frame after the last


@dataclass(frozen=True)
class Question:
    """A question with its answer; ``spans`` says which thing must be seen in which frames to answer it."""

    text: str
    answer: str
    type: str
    spans: tuple[Span, ...]

    @property
    def group(self) -> str:
        """Which kind of evidence it needs: ``needle``, ``main`` or ``global``."""
        return GROUPS[self.type]


@dataclass(frozen=True)
class _Candidate:
    type: str
    family: str
    answer: str
    spans: tuple[Span, ...]
    a: str = ""
    b: str = ""


def _name(thing: Thing) -> str:
    return f"number {thing.kind}" if thing.role == "digit" else thing.kind


def _whole(index: int, thing: Thing) -> tuple[Span, ...]:
    return ((index, thing.start, thing.stop),)


def _shaped(script: Script) -> Iterator[tuple[int, Thing]]:
    return ((i, t) for i, t in enumerate(script.things) if t.role != "digit")


def _identity(script: Script, rng: np.random.Generator) -> Iterator[_Candidate]:
    """Colour and shape of every object that has a shape."""
    for index, thing in _shaped(script):
        spans = _whole(index, thing)
        yield _Candidate(f"color_{thing.role}", "color", thing.color, spans, thing.kind)
        yield _Candidate(f"shape_{thing.role}", "shape", thing.kind, spans, thing.color)


def _existence(script: Script, rng: np.random.Generator) -> Iterator[_Candidate]:
    """True pairs, and false ones that swap in a colour or shape, usually of another object in the clip."""
    shaped = list(_shaped(script))
    for index, thing in shaped:
        spans, kind = _whole(index, thing), f"exist_{thing.role}"
        if rng.random() < 0.5:
            yield _Candidate(kind, "exist", "yes", spans, thing.color, thing.kind)
            continue
        seen = rng.random() < 0.7 and len(shaped) > 1
        colors = [t.color for _, t in shaped] if seen else list(COLOR_NAMES)
        shapes = [t.kind for _, t in shaped] if seen else list(SHAPES)
        if rng.random() < 0.5:
            others = [color for color in colors if color != thing.color]
            yield _Candidate(kind, "exist", "no", spans, others[int(rng.integers(len(others)))], thing.kind)
        else:
            others = [shape for shape in shapes if shape != thing.kind]
            yield _Candidate(kind, "exist", "no", spans, thing.color, others[int(rng.integers(len(others)))])


def _place(script: Script, rng: np.random.Generator) -> Iterator[_Candidate]:
    """In which corner an object is; of a moving one, where it starts and where it ends."""
    for index, thing in _shaped(script):
        kind = f"where_{thing.role}"
        if thing.motion == "still":
            corner = thing.quadrant(thing.start)
            if corner is not None:
                yield _Candidate(kind, "where", corner, _whole(index, thing), thing.kind)
            continue
        for word, frame in (("first", thing.start), ("last", thing.stop - 1)):
            corner = thing.quadrant(frame)
            if corner is not None:
                span = (index, frame, frame + 1)
                yield _Candidate(kind, "where_edge", corner, (span,), thing.kind, word)


def _numbers(script: Script, rng: np.random.Generator) -> Iterator[_Candidate]:
    digits = [(i, t) for i, t in enumerate(script.things) if t.role == "digit"]
    for index, thing in digits:
        spans = _whole(index, thing)
        yield _Candidate("digit", "digit_by_color", thing.kind, spans, thing.color)
        if len(digits) == 1:
            yield _Candidate("digit", "digit", thing.kind, spans)
        yield _Candidate("digit_color", "color", thing.color, spans, _name(thing))


def _timing(script: Script, rng: np.random.Generator) -> Iterator[_Candidate]:
    """When a brief object is seen (thirds of the clip), and which of two came first."""
    brief = [(i, t) for i, t in enumerate(script.things) if t.role != "main"]
    for index, thing in brief:
        middle = (thing.start + thing.stop) / 2 / script.frames
        part = next((p for p, (lo, hi) in _PARTS.items() if lo <= middle <= hi), None)
        if part is not None and script.frames >= 4:
            yield _Candidate("when", "when", part, _whole(index, thing), _name(thing))
    for (i, one), (j, two) in ((x, y) for x in brief for y in brief):
        if one.stop <= two.start:
            yield _ordered("before_needle", (i, one), (j, two), rng)


_PARTS = {"start": (0.0, 0.29), "middle": (0.385, 0.615), "end": (0.71, 1.0)}


def _ordered(
    kind: str, one: tuple[int, Thing], two: tuple[int, Thing], rng: np.random.Generator
) -> _Candidate:
    """Which came first, ``one`` (the answer) or ``two``; named in either order."""
    names = [_name(one[1]), _name(two[1])]
    if rng.random() < 0.5:
        names.reverse()
    return _Candidate(kind, "before", one[1].kind, _whole(*one) + _whole(*two), names[0], names[1])


def _mains_of(script: Script, scene: int) -> list[tuple[int, Thing]]:
    return [(i, t) for i, t in enumerate(script.things) if t.role == "main" and t.scene == scene]


def _scenes(script: Script, rng: np.random.Generator) -> Iterator[_Candidate]:
    """Number and order of scenes, the main object of a scene, what happens in it."""
    mains = [(i, t) for i, t in enumerate(script.things) if t.role == "main"]
    if script.frames >= 4:
        spans = tuple(_whole(i, t)[0] for i, t in mains)
        yield _Candidate("count", "count", NUMBERS[len(script.scenes) - 1], spans)
    for (i, one), (j, two) in ((x, y) for x in mains for y in mains):
        if one.scene < two.scene:
            yield _ordered("before_main", (i, one), (j, two), rng)
    for number, scene in enumerate(script.scenes):
        alone = _mains_of(script, number)
        if len(alone) != 1 or script.frames < 2:
            continue
        index, thing = alone[0]
        spans = _whole(index, thing)
        yield _Candidate("scene", "scene", thing.kind, spans, ORDINALS[number])
        if _tells_motion(scene, thing):
            yield _Candidate("describe", "describe", _description(thing), spans, ORDINALS[number])


def _tells_motion(scene: Scene, thing: Thing) -> bool:
    return scene.stop - scene.start > 1


def _description(thing: Thing) -> str:
    end = "still" if thing.motion == "still" else f"moving {thing.motion}"
    return f"{thing.color} {thing.kind} {end}"


def _motions(script: Script, rng: np.random.Generator) -> Iterator[_Candidate]:
    for index, thing in _shaped(script):
        if thing.role == "main" and _tells_motion(script.scenes[thing.scene], thing):
            yield _Candidate("motion", "motion", thing.motion, _whole(index, thing), thing.kind)


_FAMILIES: tuple[Callable[[Script, np.random.Generator], Iterator[_Candidate]], ...] = (
    _identity,
    _existence,
    _place,
    _numbers,
    _timing,
    _scenes,
    _motions,
)


def _put(candidate: _Candidate, split: str, rng: np.random.Generator) -> Question:
    """Word a candidate: the held-out wording for evaluation, one of the others for training."""
    if split == "eval":
        wording = held_out(candidate.family)
    else:
        choices = training(candidate.family)
        wording = choices[int(rng.integers(len(choices)))]
    text = wording.format(a=candidate.a, b=candidate.b)
    imperative = text.startswith(("count", "describe", "tell"))
    if not imperative and (split == "eval" or rng.random() < 0.6):
        text += "?"
    return Question(text, candidate.answer, candidate.type, candidate.spans)


def ask(
    script: Script,
    rng: np.random.Generator,
    count: int,
    wording: str,
    focus: Mapping[str, float] | None = None,
) -> tuple[Question, ...]:
    """Draw up to ``count`` different questions about a script.

    ``wording`` is the split whose wordings are used; ``focus`` multiplies the frequency of question types.
    """
    by_type: dict[str, list[_Candidate]] = {}
    for family in _FAMILIES:
        for candidate in family(script, rng):
            by_type.setdefault(candidate.type, []).append(candidate)
    focus = focus or {}
    asked: list[Question] = []
    weights = {name: _WEIGHTS[name] * focus.get(name, 1.0) for name in by_type}
    while len(asked) < count and weights:
        names = list(weights)
        edges = np.cumsum([weights[name] for name in names])
        name = names[min(int(np.searchsorted(edges, rng.random() * edges[-1], side="right")), len(names) - 1)]
        candidates = by_type[name]
        asked.append(_put(candidates.pop(int(rng.integers(len(candidates)))), wording, rng))
        weights[name] *= 0.4  # variety first: a type comes again only after others had their turn
        if not candidates or weights[name] == 0:
            del weights[name]
    return tuple(asked)
