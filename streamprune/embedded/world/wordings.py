"""The words of the world: how each family of questions is put, for training and (held out) for evaluation."""

from __future__ import annotations

from streamprune.embedded.world.draw import COLOR_NAMES, DIGITS, SHAPES

ORDINALS = ("first", "second", "third", "fourth")
NUMBERS = ("one", "two", "three", "four", "five", "six")
QUADRANTS = ("top left", "top right", "bottom left", "bottom right")

# family -> wordings; the last one is kept for evaluation and never seen in training.
WORDINGS: dict[str, tuple[str, ...]] = {
    "color": (
        "what color is the {a}",
        "what is the color of the {a}",
        "which color does the {a} have",
        "the {a} is what color",
        "which color is the {a}",
    ),
    "shape": (
        "what shape is {a}",
        "what is the shape of the {a} object",
        "which shape does the {a} object have",
        "the {a} object is what shape",
        "which shape is {a}",
    ),
    "where": (
        "where is the {a}",
        "in which corner is the {a}",
        "where in the picture is the {a}",
        "the {a} is in which corner",
        "in which corner of the picture is the {a}",
    ),
    "where_edge": (
        "where is the {a} at {b}",
        "in which corner is the {a} at {b}",
        "where in the picture is the {a} at {b}",
        "at {b} the {a} is in which corner",
        "at {b} in which corner is the {a}",
    ),
    "exist": (
        "is there a {a} {b}",
        "can you see a {a} {b}",
        "does a {a} {b} appear",
        "do you see a {a} {b}",
        "can a {a} {b} be seen",
    ),
    "digit": (
        "which number is shown",
        "what number is shown",
        "what number can you see",
        "what number appears",
        "which number can you see",
    ),
    "digit_by_color": (
        "which number is {a}",
        "what number is {a}",
        "what is the {a} number",
        "the {a} number is what",
        "which is the {a} number",
    ),
    "when": (
        "when does the {a} appear",
        "when is the {a} shown",
        "in which part of the video is the {a}",
        "the {a} appears in which part of the video",
        "in which part of the video does the {a} appear",
    ),
    "before": (
        "what came first , the {a} or the {b}",
        "which came first , the {a} or the {b}",
        "what appears first , the {a} or the {b}",
        "which is shown first , the {a} or the {b}",
        "which appears first , the {a} or the {b}",
    ),
    "scene": (
        "what is the main shape in the {a} scene",
        "which main shape does the {a} scene have",
        "the {a} scene has which main shape",
        "in the {a} scene what is the main shape",
        "which main shape is in the {a} scene",
    ),
    "count": (
        "how many scenes are there",
        "how many scenes are in the video",
        "how many scenes does the video have",
        "count the scenes",
        "count the scenes in the video",
    ),
    "motion": (
        "which way does the {a} move",
        "in which direction does the {a} move",
        "how does the {a} move",
        "the {a} moves in which direction",
        "which direction does the {a} move in",
    ),
    "describe": (
        "describe the {a} scene",
        "what happens in the {a} scene",
        "in the {a} scene what happens",
        "tell me about the {a} scene",
        "describe what happens in the {a} scene",
    ),
}

_ANSWER_WORDS = (
    *("yes", "no", "start", "middle", "end", "left", "right", "up", "down"),
    *("still", "moving", "top", "bottom", "only", "last", "before", "after", "none"),
)
# Not used by today's questions; they are in the vocabulary so that later ones need no new embedding rows.
_SPARE_WORDS = (
    *("now", "ago", "recent", "recently", "last", "minute", "minutes", "second", "seconds", "hour", "hours"),
    *("since", "long", "just", "latest", "earlier", "while", "saw", "seen", "was", "were", "did", "has"),
    *("object", "objects", "any", "frame", "frames", "stream", "ever"),
)


def held_out(family: str) -> str:
    """Return the wording of a family that only evaluation uses."""
    return WORDINGS[family][-1]


def training(family: str) -> tuple[str, ...]:
    """Return the wordings of a family that training uses."""
    return WORDINGS[family][:-1]


def vocabulary() -> tuple[str, ...]:
    """Every word a question or an answer can hold, sorted, each once."""
    words = {
        "system",
        "user",
        "assistant",
        ",",
        "?",
        ".",
        *ORDINALS,
        *NUMBERS,
        *SHAPES,
        *COLOR_NAMES,
        *DIGITS,
    }
    words.update(_ANSWER_WORDS, _SPARE_WORDS)
    for wordings in WORDINGS.values():
        for wording in wordings:
            words.update(word for word in wording.split() if not word.startswith("{"))
    return tuple(sorted(words))
