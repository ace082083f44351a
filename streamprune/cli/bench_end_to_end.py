"""``streamprune bench --stage end-to-end``: from a video file to the answer, beside the stock model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from streamprune.cli.app import progress_bars

if TYPE_CHECKING:
    from streamprune.metrics.paired import Effort
    from streamprune.models.shapes import Shape
    from streamprune.pipelines.end_to_end import Subject
    from streamprune.pipelines.end_to_end_recipes import Candidate

_RECIPES = ("streamprune",)
_KEEP_RATIOS = (0.25, 0.1)
# of models that are loaded
_NUM_FRAMES, _NEW_TOKENS = 64, 33


@dataclass(frozen=True, kw_only=True)
class EndToEnd:
    """What to measure, checked when it is made: nothing is loaded yet.

    Attributes:
        models: to load, as in ask.
        shapes: to make.
        layers: of the shapes; None is all.
        batches: videos asked about at once.
        candidates: recipes with their shares.
        video: None makes one.
        num_frames, max_new_tokens: None is what suits the model.
    """

    models: Sequence[str]
    shapes: Sequence[Shape]
    layers: int | None
    batches: Sequence[int]
    candidates: Sequence[Candidate]
    video: Path | None
    num_frames: int | None
    max_new_tokens: int | None
    device: str | None
    dtype: str | None
    effort: Effort

    @classmethod
    def read(
        cls,
        models: Sequence[str] | None,
        families: Sequence[str] | None,
        shapes: Sequence[str] | None,
        recipes: Sequence[str] | None,
        keep_ratios: Sequence[float] | None,
        batches: Sequence[int] | None,
        **settings: Any,
    ) -> EndToEnd:
        """Resolve the names; UsageError or SourceError says what cannot be meant."""
        from streamprune.budget import Budget
        from streamprune.checks import check_count
        from streamprune.errors import InvalidValueError
        from streamprune.models.shapes import find_shape
        from streamprune.models.small_shapes import find_small_shape
        from streamprune.pipelines.end_to_end_recipes import candidates_of
        from streamprune.pipelines.request import read_recipe

        made = [find_small_shape(name) for name in families or ()] + [find_shape(n) for n in shapes or ()]
        layers = settings["layers"]
        if layers is not None:
            if not shapes or families or models:
                raise InvalidValueError("--layers is for --shape alone: it cuts a slice out of a shape")
            for shape in made:
                shape.sliced(layers)
        for ratio in keep_ratios or ():
            Budget(ratio)
        for batch in batches or ():
            check_count("batch", batch)
        for name, least in (("num_frames", 1), ("max_new_tokens", 2)):
            if settings[name] is not None:
                check_count(name, settings[name], least=least)
        _check_video(settings["video"])
        chosen = {name: read_recipe(name) for name in recipes or _RECIPES}
        return cls(
            models=models or ([] if made else ["embedded"]),
            shapes=made,
            batches=batches or [1],
            candidates=candidates_of(chosen, keep_ratios or _KEEP_RATIOS),
            **settings,
        )

    def measure(self) -> Iterator[dict[str, Any]]:
        """Yield the record, without circumstances, after every round."""
        import torch

        from streamprune.metrics.clocks import clock_of
        from streamprune.pipelines.end_to_end_speed import end_to_end_speeds

        done: list[dict[str, Any]] = []
        with TemporaryDirectory(prefix="streamprune-bench-") as folder, progress_bars() as report:
            videos = self._videos(Path(folder))
            for subject in self._subjects():
                family = subject.family
                about = {
                    **self._about(),
                    "dtype": str(family.model.dtype).removeprefix("torch."),
                    "model_device": str(family.device),
                    "clock": clock_of(family.device).kind,
                    "threads": torch.get_num_threads(),
                }
                for batch in self.batches:
                    asked = replace(subject, videos=tuple(videos[:batch]))
                    rows: list[dict[str, Any]] = []
                    for rows in end_to_end_speeds(asked, self.candidates, self.effort, report):
                        yield {**about, "rows": [*done, *rows]}
                    done += rows

    def _about(self) -> dict[str, Any]:
        """What must be alike for two records to be compared."""
        return {
            "video": "made" if self.video is None else self.video.name,
            "num_frames": self.num_frames,
            "max_new_tokens": self.max_new_tokens,
            "layers": self.layers,
        }

    def _videos(self, folder: Path) -> list[Path]:
        most = max(self.batches)
        if self.video is not None:
            return [self.video] * most
        from streamprune.pipelines.made_video import write_made_video

        return [write_made_video(folder / f"{number}.mp4", seed=number) for number in range(most)]

    def _subjects(self) -> Iterator[Subject]:
        """Without videos; one model at a time is in memory."""
        from streamprune.models.made_shape import made_shape
        from streamprune.pipelines.end_to_end import Depths, Subject, endless
        from streamprune.pipelines.offline import load

        for name in self.models:
            family = load(name, device=self.device, dtype=self.dtype).family
            endless(family)
            frames, length = self.num_frames or _NUM_FRAMES, self.max_new_tokens or _NEW_TOKENS
            yield Subject(name, family, (), frames, length)
        for shape in self.shapes:
            depths = None
            if self.layers is not None and self.layers < shape.layers:
                tower = shape.sliced_tower(self.layers)
                depths = Depths(self.layers, shape.layers, tower, shape.tower_layers)
            family = made_shape(shape, layers=self.layers, device=self.device, dtype=self.dtype)
            frames = self.num_frames or shape.num_frames
            length = self.max_new_tokens or shape.new_tokens
            yield Subject(family.checkpoint.name, family, (), frames, length, depths)


def _check_video(video: Path | None) -> None:
    """Raise SourceError unless it can be opened."""
    if video is None:
        return
    from streamprune.readers import open_source

    open_source(str(video)).close()


def show_end_to_end(record: Mapping[str, Any], plot: Path | None) -> None:
    """Print the tables, and draw."""
    from rich.console import Console

    from streamprune.report.bench_plot import plot_end_to_end
    from streamprune.report.bench_table import end_to_end_tables, notes

    # narrower, the intervals would be cut off
    console = Console(width=max(120, Console().width))
    for title, table in end_to_end_tables(record):
        console.print(title, style="bold", highlight=False, markup=False)
        console.print(table)
        console.print()
    console.print(notes(record), highlight=False, markup=False)
    if plot is not None:
        plot_end_to_end(record, plot)
        Console(stderr=True, highlight=False).print(f"written: {plot}")
