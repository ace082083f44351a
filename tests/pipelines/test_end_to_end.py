"""From a file to an answer, stage by stage: what is measured, and what is made of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from streamprune.errors import RecipeError
from streamprune.metrics.clocks import Clock, Lap, Mark
from streamprune.metrics.paired import Effort, alone
from streamprune.models.made_shape import made_shape
from streamprune.models.small_shapes import find_small_shape
from streamprune.pipelines.answers import Stats
from streamprune.pipelines.end_to_end import Depths, Run, Subject, answer_runner
from streamprune.pipelines.end_to_end_deep import deepened, extrapolated
from streamprune.pipelines.end_to_end_recipes import Candidate, candidates_of
from streamprune.pipelines.end_to_end_rows import milliseconds, ratios, times_ratio
from streamprune.pipelines.end_to_end_speed import end_to_end_speeds
from streamprune.pipelines.made_video import write_made_video
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.readers import open_source
from streamprune.recipe import Recipe
from streamprune.tokens import VideoGrid

_STATS = Stats(
    frames=4, tokens_in=64, tokens_kept=16, prompt_tokens=20, new_tokens=3, tower_share=1.0, decode_ms=0,
    preprocess_ms=0, encode_ms=0, choose_ms=0, reduce_ms=0, prefill_ms=0, generate_ms=0, reduce_flops=0,
    prefill_flops=100, decode_flops=10, kv_bytes=1000, peak_bytes=0,
)  # fmt: skip


class Ticks(Clock):
    """Every look takes a second, and everything is a second of work."""

    kind: ClassVar[str] = "ticks"

    def __init__(self) -> None:
        self.now = 0.0

    def mark(self, *, wait: bool = True) -> Mark:
        self.now += 1
        return Mark(self.now, self.now)

    def lap(self, start: Mark, end: Mark) -> Lap:
        return Lap(end.wall_seconds - start.wall_seconds, end.work - start.work)


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    video = write_made_video(tmp_path_factory.mktemp("film") / "clip.mp4", pictures=8, side=64)
    family = made_shape(find_small_shape("llava_onevision"), device="cpu")
    return Subject("small", family, (video,), 4, 4, clocks=(Ticks(), Ticks()))


def _answered(subject: Subject, recipe: Recipe) -> Run:
    return alone(answer_runner(subject, recipe)())


def _with(name: str, keep_ratio: float) -> Recipe:
    return Recipe.named(name).with_budget(keep_ratio)


def test_a_made_video_is_the_same_every_time(tmp_path: Path) -> None:
    first = write_made_video(tmp_path / "a.mp4", pictures=14, side=64)
    with open_source(str(first)) as source:
        assert (source.info.rows, source.info.cols) == (64, 64)
        assert len(list(source)) == 14
    assert write_made_video(tmp_path / "b.mp4", pictures=14, side=64).read_bytes() == first.read_bytes()
    assert (
        write_made_video(tmp_path / "c.mp4", seed=1, pictures=14, side=64).read_bytes() != first.read_bytes()
    )


def test_every_stage_is_measured(subject: Subject) -> None:
    run = _answered(subject, _with("stride", 0.25))
    assert run.laps.keys() == {
        "decode", "preprocess", "tower", "reduce", "prefill", "steps", "first", "total"
    }  # fmt: skip
    assert all(lap.work_seconds >= 1 for lap in run.laps.values())
    assert run.lap("total").work_seconds > run.lap("first").work_seconds > run.lap("prefill").work_seconds
    assert run.inside == {}
    assert run.peak_bytes is None


def test_seeing_and_saying_are_two_steps(subject: Subject) -> None:
    steps = answer_runner(subject, _with("stride", 0.25))()
    assert next(steps) is None
    with pytest.raises(StopIteration) as ended:
        next(steps)
    assert isinstance(ended.value.value, Run)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("name", ["none", "stride", "random"])
def test_announced_tokens_are_those_kept(subject: Subject, name: str) -> None:
    recipe = Recipe.named("none") if name == "none" else _with(name, 0.3)
    (stats,) = _answered(subject, recipe).stats
    method = subject.request(recipe).method()
    assert isinstance(method, PreLLMMethod)
    assert stats.tokens_kept == method.count(VideoGrid(4, 4, 4))
    assert stats.new_tokens == 4


def test_videos_of_a_batch_go_together_where_they_can(subject: Subject) -> None:
    both = replace(subject, videos=subject.videos * 2)
    together = _answered(both, _with("stride", 0.5))
    assert together.together
    assert len(together.stats) == 2
    apart = _answered(both, _with("knorm", 0.5))
    assert not apart.together
    one = _answered(subject, _with("knorm", 0.5))
    # one after the other: the last answer begins when the first has ended
    assert apart.lap("first").work_seconds > together.lap("first").work_seconds
    assert [stats.kv_bytes for stats in apart.stats] == 2 * [one.stats[0].kv_bytes]


def test_what_is_inside_layers_is_told_apart_in_a_slice(subject: Subject) -> None:
    sliced = replace(subject, depths=Depths(4, 8, 4, 8))
    run = _answered(sliced, _with("stride", 0.5))
    # one call of the tower, one prefill, three steps: each span ticks once
    assert {name: lap.work_seconds for name, lap in run.inside.items()} == {
        "tower": 1, "prefill": 1, "steps": 3
    }  # fmt: skip
    assert not subject.family.model.get_decoder().layers[0]._forward_pre_hooks


def test_what_cannot_be_carried_out_is_refused_before_anything_runs(subject: Subject) -> None:
    recipe = Recipe("x", Recipe.named("encoder:tome").stages).with_budget(0.5)
    with pytest.raises(RecipeError, match="keep_ratio and keep_tokens are for the pre_llm stage"):
        next(end_to_end_speeds(subject, [Candidate(recipe, 0.5)], Effort(1, 0)))


def test_candidates_are_recipes_with_shares() -> None:
    recipes = {name: Recipe.resolve(name) for name in ("none", "stride", "encoder:tome")}
    found = [(one.recipe.name, one.keep_ratio) for one in candidates_of(recipes, [0.5, 0.1])]
    assert found == [("none", 1.0), ("stride", 0.5), ("stride", 0.1), ("encoder:tome", 1.0)]


def test_rows_grow_round_by_round(subject: Subject) -> None:
    candidates = candidates_of({"stride": Recipe.named("stride")}, [0.5, 0.25])
    told: list[tuple[str, int, int]] = []
    effort = Effort(repeats=2, seconds=0)
    rounds = list(end_to_end_speeds(subject, candidates, effort, lambda *done: told.append(done)))
    assert [[row["pairs"] for row in rows] for rows in rounds] == [[1, 1], [2, 2]]
    assert told == [("bench", 0, 2), ("bench", 2, 2)]
    for row in rounds[-1]:
        ttft = row["ratios"]["ttft"]
        assert ttft["low"] <= ttft["median"] <= ttft["high"]
        assert row["tokens_kept"] == 64 * row["keep_ratio"]


def _run(inside: dict[str, float] | None = None, **seconds: float) -> Run:
    within = {name: Lap(0, value) for name, value in (inside or {}).items()}
    laps = {name: Lap(2 * value, value) for name, value in seconds.items()}
    return Run(laps, within, (_STATS,), True, None)


def test_what_is_below_resolution_has_no_ratio() -> None:
    long, short = _run(prefill=0.4, tower=0.5), _run(prefill=0.019, tower=0.25)
    assert times_ratio([(long, short)], ("prefill",)) is None
    assert times_ratio([(short, long)], ("prefill",)) is None
    ratio = times_ratio([(long, short)], ("tower",))
    assert ratio is not None
    assert ratio.median == 0.5
    # the median counts, not one short run among long ones
    assert times_ratio([(long, long), (long, long), (long, short)], ("prefill",)) is not None
    found = ratios([(long, short)])
    assert found["prefill"] is None
    assert found["decode_step"] is None
    assert found["tokens_per_second"] is None
    assert milliseconds([(long, short)])["prefill"] == {
        "stock": 400, "recipe": 19, "stock_elapsed": 800, "recipe_elapsed": 38
    }  # fmt: skip


def test_speeds_are_the_reverse_of_times() -> None:
    pairs = [(_run(steps=1.0), _run(steps=own)) for own in (0.5, 0.4, 0.8)]
    found = ratios(pairs)
    step, tokens = found["decode_step"], found["tokens_per_second"]
    assert step is not None
    assert tokens is not None
    assert (step["median"], step["low"], step["high"]) == (0.5, 0.4, 0.8)
    assert (tokens["median"], tokens["low"], tokens["high"]) == (2.0, 1.25, 2.5)
    # of one decode step, of which this answer has two
    assert milliseconds(pairs)["decode_step"]["stock"] == 500


def test_a_slice_is_extrapolated_by_what_is_inside_its_layers() -> None:
    depths = Depths(layers=2, all_layers=10, tower_layers=4, all_tower_layers=8)
    stock = _run({"tower": 0.5, "prefill": 0.4, "steps": 0.2}, tower=0.6, prefill=0.5, steps=0.3, first=1.2)
    whole = deepened(stock, stock, depths)
    assert whole.lap("tower").work_seconds == pytest.approx(0.6 + 0.5)
    assert whole.lap("prefill").work_seconds == pytest.approx(0.5 + 4 * 0.4)
    assert whole.lap("steps").work_seconds == pytest.approx(0.3 + 4 * 0.2)
    assert whole.lap("first").work_seconds == pytest.approx(1.2 + 0.5 + 4 * 0.4)
    assert whole.lap("tower").wall_seconds == stock.lap("tower").wall_seconds
    # a method that reads one layer of the tower does not read more of them in a deeper one
    own = _run({"tower": 0.9, "prefill": 0.1, "steps": 0.2}, tower=1.0, prefill=0.2, steps=0.3, first=1.3)
    assert deepened(own, stock, depths).lap("tower").work_seconds == pytest.approx(1.0 + 0.5)


@pytest.mark.parametrize(
    ("name", "stage"), [("fastv", "in_llm"), ("knorm", "kv"), ("encoder:tome", "encoder")]
)
def test_uneven_layers_are_not_extrapolated(subject: Subject, name: str, stage: str) -> None:
    sliced = replace(subject, depths=Depths(2, 4, 2, 4))
    pairs = [(_run(first=1.0), _run(first=1.0))]
    found = extrapolated(sliced, Recipe.named(name), (), pairs)
    assert found is not None
    assert found["left_out"] == f"the stage {stage} does not do the same in every layer"
    assert "ratios" not in found
    assert extrapolated(subject, Recipe.named("stride"), (), pairs) is None
