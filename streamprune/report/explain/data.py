"""What an explanation holds: plain numbers and texts, all of them from one run.

Tokens are named by their flat index on the token grid, and kept tokens by their row in the reduction.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 1


@dataclass(frozen=True)
class Picture:
    """One picture that went into the vision tower.

    Attributes:
        pts_seconds: when it is shown.
        rows, cols: of its pixels, as it was decoded.
        thumbnail: a small JPEG for the page.
        still: a larger JPEG, for pictures and films.
    """

    pts_seconds: float
    rows: int
    cols: int
    thumbnail: bytes = field(repr=False)
    still: bytes = field(repr=False)

    @property
    def url(self) -> str:
        """The thumbnail as a data URL."""
        return "data:image/jpeg;base64," + base64.b64encode(self.thumbnail).decode("ascii")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One answer and what it took.

    Attributes:
        label: what the run is called.
        answer: ``Answer.to_dict()``; its peak is that of answering alone.
        kv_bytes: storage of the key-value cache in each layer after the answer.
        layer_tokens: visual tokens that entered each layer of the language model.
    """

    label: str
    answer: Mapping[str, Any]
    kv_bytes: tuple[int, ...]
    layer_tokens: tuple[int, ...]

    @property
    def stats(self) -> Mapping[str, Any]:
        """``Stats.to_dict()``."""
        stats: Mapping[str, Any] = self.answer["stats"]
        return stats


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What stands before the language model: the reduction.

    Attributes:
        method: of the pre_llm stage; "none" where the recipe has none.
        index: flat index of each kept token, -1 for a row that stands for none.
        source: the kept row each token contributes most to, -1 = dropped.
        size: how many tokens each kept row stands for.
        per_frame: kept rows of each frame.
        merges: rows are mixtures of tokens; else they are tokens as they were.
    """

    method: str
    index: tuple[int, ...]
    source: tuple[int, ...]
    size: tuple[float, ...]
    per_frame: tuple[int, ...]
    merges: bool


@dataclass(frozen=True, kw_only=True)
class TowerFates:
    """What a method that lets fewer patches go on did inside the vision tower.

    Attributes:
        rows, cols: of the patches of a picture.
        layers: in which something went.
        left_at: which of ``layers``, from 0, let each patch go (numbered over all pictures); -1 = none did.
        into: the patch that stood for it from there on.
        merged: "1" where its content went into that patch, "0" where it was only read back from there.
        tokens: patches of all pictures that entered each layer.
    """

    method: str
    rows: int
    cols: int
    layers: tuple[int, ...]
    left_at: tuple[int, ...]
    into: tuple[int, ...]
    merged: str
    tokens: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class TowerReuse:
    """What a method that remembers frames recomputed.

    Attributes:
        recomputed: for each layer, "1" for every token of the grid of which it computed some patch anew.
    """

    method: str
    recomputed: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class InLLM:
    """What a method inside the language model let through.

    Attributes:
        cuts: layers before which it decides.
        present: for each layer, "1" for every kept row that entered it.
        merged: (layer, row, row it went into) of rows that were mixed into another one before a layer.
    """

    method: str
    cuts: tuple[int, ...]
    present: tuple[str, ...]
    merged: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, kw_only=True)
class LayerHeld:
    """What one layer of the cache held after the answer.

    Attributes:
        layer: its number.
        held: heads that hold each kept row.
        entries: entries of each head, text included.
    """

    layer: int
    held: tuple[int, ...]
    entries: int


@dataclass(frozen=True, kw_only=True)
class CacheHeld:
    """What a policy left in the key-value cache; ``heads`` choose for themselves."""

    method: str
    heads: int
    layers: tuple[LayerHeld, ...]


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Where the question looked, with every token there.

    Attributes:
        frames: share of each frame.
        tokens: share of each token, none where only frames are known.
        said: how it was taken.
    """

    frames: tuple[float, ...]
    tokens: tuple[float, ...]
    said: str


@dataclass(frozen=True, kw_only=True)
class Segments:
    """Half-open frame ranges ``edges`` and who drew them."""

    edges: tuple[tuple[int, int], ...]
    said: str


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What was asked for.

    Attributes:
        recipe: its name; ``toml`` is all of it.
        stages: (stage, method) of the recipe.
        circumstances: versions, command, date and machine.
    """

    video: str
    model: str
    question: str
    recipe: str
    toml: str
    stages: tuple[tuple[str, str], ...]
    circumstances: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Everything the page shows.

    Attributes:
        asked: the question and the recipe.
        reduced: the run with the recipe.
        full: the run without it; None when it does not fit the model, and ``notes`` say so.
        same_frames: both runs looked at the same frames.
        grid: (frames, rows, cols) of the visual tokens.
        pts_seconds: of each frame of tokens.
        duration_seconds: of the video, None when it is not known.
        pictures: of each frame of tokens, one or several.
        similarity: of neighbouring frames, one fewer than frames.
        warnings: of the reader.
        notes: what the page cannot show, and why.
        explain_ms: what explaining took beyond the runs themselves.
    """

    asked: Asked
    reduced: Run
    full: Run | None
    same_frames: bool
    grid: tuple[int, int, int]
    pts_seconds: tuple[float, ...]
    duration_seconds: float | None
    pictures: tuple[tuple[Picture, ...], ...] = field(repr=False)
    kept: Kept = field(repr=False)
    similarity: tuple[float, ...]
    segments: Segments
    attention: Attention | None = field(repr=False)
    tower: TowerFates | TowerReuse | None = field(default=None, repr=False)
    in_llm: InLLM | None = field(default=None, repr=False)
    cache: CacheHeld | None = field(default=None, repr=False)
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    explain_ms: float = 0.0

    def __str__(self) -> str:
        return str(self.reduced.answer["text"])

    def to_dict(self, *, pictures: bool = True) -> dict[str, Any]:
        """Everything as plain values, ready for JSON; thumbnails as data URLs, or left out."""
        shown = [
            [
                {
                    "pts_seconds": one.pts_seconds,
                    "rows": one.rows,
                    "cols": one.cols,
                    **({"url": one.url} if pictures else {}),
                }
                for one in self.pictures[frame]
            ]
            for frame in range(self.grid[0])
        ]
        parts = ("asked", "reduced", "full", "kept", "segments", "attention", "tower", "in_llm", "cache")
        plain = {name: None if getattr(self, name) is None else asdict(getattr(self, name)) for name in parts}
        return {
            "format": FORMAT,
            **plain,
            "grid": dict(zip(("frames", "rows", "cols"), self.grid, strict=True)),
            "same_frames": self.same_frames,
            "pts_seconds": list(self.pts_seconds),
            "duration_seconds": self.duration_seconds,
            "pictures": shown,
            "similarity": list(self.similarity),
            "warnings": list(self.warnings),
            "notes": list(self.notes),
            "explain_ms": self.explain_ms,
        }

    def save(self, path: str | Path) -> None:
        """Write it as a page (.html), a picture (.png), a film (.mp4) or data (.json), whole or not at all.

        Raises InvalidValueError for another ending, and StorageError when the file cannot be written.
        """
        from streamprune.report.explain.saving import save

        save(self, path)
