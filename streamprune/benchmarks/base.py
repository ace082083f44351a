"""What a loader of one set is, and the folder that it reads from."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from streamprune.benchmarks.item import LETTERS, Item
from streamprune.benchmarks.records import TABLE_SUFFIXES, Record, read_records
from streamprune.errors import SourceFormatError, SourceNotFoundError

_SHOWN = 4
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")


@dataclass
class SetFolder:
    """The folder of one set, what was asked of it, and what its loader has to say.

    Args:
        path: the folder.
        subset: one of the loader's subsets; None is its own choice.
        subtitles: put the subtitles in front of the question.
        notes: what was left out and why; the loader adds to it.
    """

    path: Path
    subset: str | None = None
    subtitles: bool = False
    notes: list[str] = field(default_factory=list)
    _listings: dict[Path, dict[str, Path]] = field(default_factory=dict, repr=False)

    def files(self, patterns: tuple[str, ...]) -> list[Path]:
        """The files of the first of ``patterns`` (globs below the folder) that has any, by name."""
        for pattern in patterns:
            found = sorted(path for path in self.path.glob(pattern) if path.is_file())
            if found:
                return found
        return []

    def images(self, name: str, *under: str) -> Path:
        """Where the folder of images ``name`` is, as :meth:`video` says for files."""
        there = [self.path / folder / name for folder in under if (self.path / folder / name).is_dir()]
        return (there or [self.path / under[0] / name])[0]

    def video(self, name: str, *under: str) -> Path:
        """Where the video ``name`` is: in the first of the folders ``under`` that has it.

        The name may lack its suffix or have another one (case included) than the file. What is nowhere gets
        the path that was expected first; whether videos are missing is asked of all of them at once.
        """
        for folder in under:
            base = self.path / folder / name
            listing = self._listing(base.parent)
            stem, suffix = os.path.splitext(base.name)
            bare = stem if suffix.lower() in VIDEO_SUFFIXES else base.name
            for wanted in (stem + suffix.lower(), *(bare + ending for ending in VIDEO_SUFFIXES)):
                if wanted in listing:
                    return listing[wanted]
        expected = self.path / under[0] / name
        return expected if expected.suffix.lower() in VIDEO_SUFFIXES else Path(f"{expected}.mp4")

    def _listing(self, folder: Path) -> dict[str, Path]:
        """The files of ``folder`` by name with the suffix in lower case; read once, sets have thousands.

        Only the suffix: names of videos on the web differ in the case of single letters.
        """
        if folder not in self._listings:
            found = {}
            if folder.is_dir():
                with os.scandir(folder) as entries:
                    names = sorted((entry.name for entry in entries if entry.is_file()), reverse=True)
                for name in names:
                    stem, suffix = os.path.splitext(name)
                    found[stem + suffix.lower()] = folder / name
            self._listings[folder] = found
        return self._listings[folder]


class Benchmark(ABC):
    """A loader of one published set."""

    name: ClassVar[str]
    """As it is asked for, "video-mme"."""
    title: ClassVar[str]
    """As its authors write it."""
    question_files: ClassVar[tuple[str, ...]]
    """Globs below the folder; the first with a match is read."""
    columns: ClassVar[tuple[str, ...]]
    """What every record has; tells the set from others with files of the same name."""
    layout: ClassVar[str]
    """Files and folders that are expected, for help and tables."""
    any_file_name: ClassVar[bool] = False
    """Whether a table of another name is taken where it has most of the columns."""
    subsets: ClassVar[tuple[str, ...]] = ()
    """Parts that can be asked for alone."""
    has_subtitles: ClassVar[bool] = False

    @abstractmethod
    def items(self, folder: SetFolder) -> Iterator[Item]:
        """The questions of ``folder`` in the order of its files."""

    def paths(self, folder: SetFolder) -> list[Path]:
        """The question files that are there."""
        named = folder.files(self.question_files)
        return named if named or not self.any_file_name else self._other_tables(folder)

    def _other_tables(self, folder: SetFolder) -> list[Path]:
        """Tables of any name right in the folder that have more than half of the columns.

        Raises:
            SourceFormatError: the only one there is broken.
        """
        tables = sorted(path for path in folder.path.iterdir() if path.suffix.lower() in TABLE_SUFFIXES)
        found = []
        for path in tables:
            try:
                first = read_records(path)[:1]
            except SourceFormatError:
                if len(tables) == 1:
                    raise
                continue  # a map or list of something else beside the table
            if any(2 * sum(name in one.values for name in self.columns) > len(self.columns) for one in first):
                found.append(path)
        return found

    def recognises(self, folder: SetFolder) -> bool:
        """Whether the question files are there and look like this set's."""
        return any(
            set(self.columns) <= set(records[0].values)
            for path in self.paths(folder)[:1]
            if (records := read_records(path))
        )

    def tables(self, folder: SetFolder) -> Iterator[tuple[Path, list[Record]]]:
        """Every question file with its records.

        Raises:
            SourceNotFoundError: none of the question files is there; they are named.
        """
        for path in self.required_paths(folder):
            yield path, read_records(path)

    def records(self, folder: SetFolder) -> Iterator[Record]:
        """Every record of the question files."""
        for _, records in self.tables(folder):
            yield from records

    def required_paths(self, folder: SetFolder) -> list[Path]:
        """The question files that are there, at least one."""
        paths = self.paths(folder)
        if not paths:
            raise self.not_this_set(folder)
        return paths

    def not_this_set(self, folder: SetFolder) -> SourceNotFoundError:
        """The error for a folder without the set's question files."""
        return SourceNotFoundError(
            f"{folder.path} is not a folder of {self.title}: looked for {self.looked_for}. "
            f"Expected: {self.layout}"
        )

    @property
    def looked_for(self) -> str:
        """The first few of the question files, for messages."""
        more = len(self.question_files) - _SHOWN
        files = " or ".join(self.question_files[:_SHOWN]) + (f" ({more} more)" if more > 0 else "")
        return f"{files} or a table with {', '.join(self.columns)}" if self.any_file_name else files


def letter_at(record: Record, column: str, options: tuple[str, ...]) -> str:
    """The letter of the option whose index, counted from 0, is in ``column``."""
    return LETTERS[record.integer(column, 0, len(options) - 1)]


def letter_of_text(record: Record, column: str, options: tuple[str, ...]) -> str:
    """The letter of the option whose text is in ``column``."""
    answer = record.text(column)
    places = [index for index, option in enumerate(options) if option == answer]
    if not places:
        raise record.wrong(column, f"one of the options {list(options)}", answer)
    return LETTERS[places[0]]


def letter_in(record: Record, column: str, options: tuple[str, ...]) -> str:
    """The letter in ``column``, which must be one of the options'."""
    answer = record.text(column).strip("(). ").upper()
    if len(answer) != 1 or answer not in LETTERS[: len(options)]:
        raise record.wrong(column, f"a letter from A to {LETTERS[len(options) - 1]}", record.raw(column))
    return answer


def without_letters(options: tuple[str, ...]) -> tuple[str, ...]:
    """Options without the "A. " or "(A) " that some sets put before them; all of them have it or none."""
    bare = []
    for letter, option in zip(LETTERS, options, strict=False):
        for prefix in (f"({letter})", f"{letter}.", f"{letter})", f"{letter}:"):
            if option.startswith(prefix):
                bare.append(option[len(prefix) :].strip())
                break
        else:
            return options
    return tuple(bare)
