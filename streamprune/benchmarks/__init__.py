"""Published sets of questions about videos, read from local folders, and what counts as a right answer."""

from streamprune.benchmarks.item import Item
from streamprune.benchmarks.loading import BENCHMARKS, LoadedSet, detect, load_items, load_set
from streamprune.benchmarks.scoring import Score, read_letter, score

__all__ = [
    "BENCHMARKS",
    "Item",
    "LoadedSet",
    "Score",
    "detect",
    "load_items",
    "load_set",
    "read_letter",
    "score",
]
