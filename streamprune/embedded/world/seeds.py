"""Random streams of the world: every draw hangs on (split, purpose, integers) and on nothing else."""

from __future__ import annotations

from typing import Literal

import numpy as np

from streamprune.errors import InvalidTypeError, InvalidValueError

Split = Literal["train", "eval"]

# The split is the first word of every seed sequence, so no integer can make the two splits meet.
_SPLIT_WORD = {"train": 0x7472_6169, "eval": 0x6576_616C}
_PURPOSE_WORD = {"clip": 1, "texture": 2, "noise": 3, "crowd": 4, "stream": 5, "questions": 6, "chapter": 7}


def check_split(split: str) -> None:
    """Refuse a split that is neither ``train`` nor ``eval``."""
    if split not in _SPLIT_WORD:
        raise InvalidValueError(f"split must be 'train' or 'eval', got {split!r}.")


def check_count(name: str, value: object, low: int, high: int) -> None:
    """Refuse a count that is not an integer in ``[low, high]``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InvalidTypeError(f"{name} must be an integer, got {type(value).__name__}.")
    if not low <= int(value) <= high:
        raise InvalidValueError(f"{name} must be between {low} and {high}, got {value}.")


def generator(split: str, purpose: str, *words: int) -> np.random.Generator:
    """Return the generator that belongs to ``(split, purpose, words)``; words are integers >= 0."""
    check_split(split)
    entropy = [_SPLIT_WORD[split], _PURPOSE_WORD[purpose], *(int(word) for word in words)]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
