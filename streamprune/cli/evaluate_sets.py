"""What the command line of ``streamprune eval`` asks for, of all suites but those of streams."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from streamprune.catalog.info import Stage

if TYPE_CHECKING:
    from streamprune.benchmarks.loading import LoadedSet
    from streamprune.pipelines.evaluation_contenders import Contender
    from streamprune.recipe import Recipe

OWN, STREAM, ORACLE = "own", "stream", "oracle"
# made-up suites, and other names of theirs; that these are all of them a test holds
WORLDS = ("embedded", "long", "grounding", "reading", "counting", "motion")
ALIASES = {"offline": "embedded", "needle": STREAM}
_QUESTIONS = 2000
# stages whose methods have a budget
_COUNTED: tuple[Stage, ...] = ("pre_llm", "in_llm", "kv")
_KEEP_RATIOS = (0.5, 0.25, 0.1, 0.05)
_FILES_KEEP_RATIOS = (0.25,)
_FILES_RECIPE = "streamprune"


def check_suite(name: str) -> str:
    """The suite that ``name`` stands for, "videomme" for "video-mme"; UnknownNameError for none."""
    from streamprune.benchmarks.loading import BENCHMARKS
    from streamprune.errors import UnknownNameError

    known = {_plain(one): one for one in (*WORLDS, *ALIASES, STREAM, OWN, *BENCHMARKS)}
    if _plain(name) not in known:
        raise UnknownNameError.among("suite", name, known.values())
    found = known[_plain(name)]
    return ALIASES.get(found, found)


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def read_count(suite: str, questions: str | None, usual: int) -> int:
    """How many questions ``suite`` is to ask, in the words of the command line."""
    from streamprune.checks import check_count
    from streamprune.errors import InvalidValueError

    if questions is None:
        return usual
    try:
        count = int(questions)
    except ValueError as error:
        raise InvalidValueError(
            f"questions must be a number for the suite {suite!r}, got {questions!r}; a file of questions is "
            "for --suite own"
        ) from error
    check_count("questions", count)
    return count


def check_unused(given: Mapping[str, object], suite: str) -> None:
    """Refuse options that ``suite`` would pass over in silence; None and False are not given."""
    from streamprune.errors import InvalidValueError

    for name, value in given.items():
        if value is not None and value is not False:
            raise InvalidValueError(
                f"--{name.replace('_', '-')} is not for the suite {suite!r}; leave it out"
            )


@dataclass(frozen=True)
class Asked:
    """What the command line says; ``suite`` is its own name and no alias."""

    suite: str
    folder: Path | None
    subset: str | None
    subtitles: bool
    allow_missing: bool
    recipes: list[str] | None
    stage: str
    keep_ratios: list[float] | None
    baselines: bool
    questions: str | None
    limit: int | None
    num_frames: int | None
    fps: float | None
    max_new_tokens: int | None
    model: str
    device: str | None
    dtype: str | None
    answers: Path | None
    json_file: Path | None
    plot: Path | None

    @property
    def is_world(self) -> bool:
        """Whether clips are made on the way."""
        return self.suite in WORLDS

    def unused(self, in_files: Mapping[str, object]) -> dict[str, object]:
        """Of options for videos in files and others, those that mean nothing to the suite."""
        if self.is_world:
            return {**in_files, "device": self.device, "dtype": self.dtype}
        if self.suite == OWN:
            return {name: in_files[name] for name in ("folder", "subset", "subtitles", "allow_missing")}
        return {"questions": self.questions}

    def check(self) -> None:
        """Raise for whatever is wrong, before a model is loaded or an hour of work is done for nothing."""
        from streamprune.budget import Budget
        from streamprune.checks import check_count
        from streamprune.pipelines.request import read_recipe
        from streamprune.report.plot import new_figure
        from streamprune.report.writable import check_writable

        for name in ("limit", "num_frames", "max_new_tokens"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        if self.is_world:
            self.count()
        for ratio in self.ratios:
            Budget(ratio)
        for recipe in self.named().values():
            read_recipe(recipe)
        for path in (self.answers, self.json_file, self.plot):
            if path is not None:
                check_writable(path)
        if self.plot is not None:
            new_figure()  # not to be without matplotlib after an hour

    def count(self) -> int:
        """How many questions of a made-up suite."""
        return read_count(self.suite, self.questions, _QUESTIONS)

    @property
    def ratios(self) -> tuple[float, ...]:
        """The shares to measure at."""
        usual = _KEEP_RATIOS if self.is_world else _FILES_KEEP_RATIOS
        return tuple(self.keep_ratios or usual)

    def contenders(self) -> list[Contender]:
        """The full model and all recipes; the oracle, which is none, is not among them."""
        from streamprune.pipelines.evaluation_contenders import Contender, read_contenders

        return [Contender.full(), *read_contenders(self.named(), self.ratios)]

    @property
    def oracle(self) -> bool:
        """Whether what the world knows is measured, too."""
        from streamprune.models.checkpoint_files import EMBEDDED

        if self.recipes is not None:
            return ORACLE in self.recipes
        return self.is_world and self.stage == "pre_llm" and self.model in EMBEDDED

    def named(self) -> dict[str, Recipe]:
        """Recipes by name; UsageError for what is none, and for an oracle that knows nothing."""
        from streamprune.errors import InvalidValueError, UnknownNameError
        from streamprune.recipe import Choice, Recipe
        from streamprune.registry import list_methods

        if self.recipes is not None:
            if ORACLE in self.recipes and not self.is_world:
                raise InvalidValueError(
                    f"the oracle knows made-up clips, not the videos of {self.suite!r}; leave it out"
                )
            return {name: Recipe.resolve(name) for name in self.recipes if name != ORACLE}
        if not self.is_world:
            return {_FILES_RECIPE: Recipe.resolve(_FILES_RECIPE)}
        if self.stage not in _COUNTED:
            raise UnknownNameError.among("stage to measure", self.stage, _COUNTED)
        of: Stage = self.stage
        found = [info.name for info in list_methods(of) if info.name != "none"]
        return {name: Recipe(name, {of: Choice(name)}) for name in found}

    def read(self) -> LoadedSet:
        """The questions about videos in files; SourceError or UsageError for what is wrong with them."""
        from streamprune.benchmarks.loading import LoadedSet, load_set
        from streamprune.errors import InvalidValueError
        from streamprune.pipelines.jobs import read_jobs

        if self.suite == OWN:
            if self.questions is None:
                raise InvalidValueError("the suite 'own' needs --questions FILE, one JSON object a line")
            return LoadedSet(OWN, tuple(job.item for job in read_jobs(self.questions)))
        if self.folder is None:
            raise InvalidValueError(
                f"the suite {self.suite!r} needs --folder DIR, where the set was unpacked"
            )
        return load_set(
            self.suite, self.folder, subset=self.subset, subtitles=self.subtitles,
            allow_missing=self.allow_missing,
        )  # fmt: skip
