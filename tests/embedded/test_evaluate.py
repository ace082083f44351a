"""The measuring instruments themselves: intervals, the oracle, damage, recall."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from streamprune.budget import Budget
from streamprune.embedded.evaluate.damage import h264, jpeg
from streamprune.embedded.evaluate.memory import AT_FRAME, SHOWN_FRAMES, recalled
from streamprune.embedded.evaluate.oracle import OBJECT_SHARE, oracle
from streamprune.embedded.evaluate.report import measure
from streamprune.embedded.evaluate.scoring import Examinee, load, look, reduced_marks
from streamprune.embedded.evaluate.suite import Suite
from streamprune.embedded.evaluate.tables import show
from streamprune.embedded.train.architectures import ARCHITECTURES
from streamprune.embedded.world import clip, stream
from streamprune.metrics.shares import Share, share
from streamprune.recipe import Recipe
from streamprune.registry import list_methods, register_method, unregister_method
from streamprune.tokens import Reduction, VisualTokens


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (950, 1000, 0.9347, 0.9619)],
)
def test_wilson_interval(right: int, count: int, low: float, high: float) -> None:
    assert Share(right, count).bounds == pytest.approx((low, high), abs=2e-4)


def test_share_of_nothing_is_unknown() -> None:
    assert share([]).bounds == (0.0, 1.0)
    assert share([True, False]).entry()["accuracy"] == 0.5


@pytest.mark.parametrize("keep", [1, 12, 29, 58, 144, 288, 576])
def test_oracle_keeps_every_object_as_long_as_there_is_room(keep: int) -> None:
    for seed in range(12):
        made = clip(seed, 16, "eval")
        coverage = made.coverage.reshape(len(made.coverage), 16, 36)
        index = oracle(coverage, keep)
        assert len(index) == keep == len(set(index.tolist()))
        assert (np.diff(index) > 0).all()
        found = coverage.reshape(len(coverage), -1)[:, index].max(1)
        if round(OBJECT_SHARE * keep) >= len(coverage):
            assert (found > 0.05).all()


def test_oracle_sees_a_moving_object_at_both_ends() -> None:
    made = next(c for c in (clip(s, 16, "eval") for s in range(50)) if len(c.script.scenes) == 1)
    coverage = made.coverage.reshape(len(made.coverage), 16, 36)
    frames = set((oracle(coverage, 24) // 36).tolist())
    assert {0, 15} <= frames


def test_files_change_pixels_but_not_the_picture() -> None:
    frames = clip(3, 4, "eval").frames
    for damaged in (h264(frames, 23), jpeg(frames, 50), jpeg(frames, 50, side=96)):
        assert damaged.shape == frames.shape
        error = float(abs(damaged.astype(int) - frames).mean())
        assert 0.3 < error < 12
        assert np.corrcoef(damaged.ravel(), frames.ravel())[0, 1] > 0.8
    assert (
        abs(h264(frames, 40).astype(int) - frames).mean() > abs(h264(frames, 18).astype(int) - frames).mean()
    )


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_a_report_has_every_table_and_an_untrained_model_knows_nothing(name: str, tmp_path: Path) -> None:
    architecture = ARCHITECTURES[name]
    torch.manual_seed(0)
    architecture.save(tmp_path, architecture.build(), architecture.pooling_head())
    report = measure(
        load(tmp_path), 20, 4, ["none", "random", "fastvid", "oracle"], lambda items, label: items
    )
    assert report["full"]["accuracy"] < 0.2
    assert report["tokens"] == 36 * architecture.slices(4)
    assert report["retention"]["oracle"]["0.1"]["tokens_kept"] == round(0.1 * report["tokens"])
    assert bool(report["memory"]) == architecture.uneven_times
    assert report["generate"]["same_verdict"] == report["generate"]["questions"]
    assert {"h264_crf23", "h264_crf32", "jpeg_q50_96px"} <= set(report["damage"])
    json.dumps(report)
    with (tmp_path / "tables.txt").open("w", encoding="utf-8") as file:
        show(report, Console(width=120, file=file))
    assert "fastvid" in (tmp_path / "tables.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Examinee:
    folder = tmp_path_factory.mktemp("untrained")
    architecture = ARCHITECTURES["llava_onevision"]
    architecture.save(folder, architecture.build(), architecture.pooling_head())
    return load(folder)


def test_every_method_can_be_measured(untrained: Examinee) -> None:
    """Whatever its signals, those of a question included: one by one and in the suite."""
    seen = look(untrained, clip(2, 4, "eval", 2))
    methods = [info.name for info in list_methods("pre_llm")]
    for method in methods:
        right, kept = reduced_marks(untrained, seen, method, 0.5)
        assert len(right) == 2, method
        assert 0 < kept <= 144, method


class FrameOfTheQuestion:
    """Keeps the frame that the language model looks at most, and notes the question's words."""

    needs = ("text_embeds", "query_frame_attention")

    def __init__(self, budget: Budget) -> None:
        self.budget = budget

    def reduce(self, tokens: VisualTokens) -> Reduction:
        SEEN.append(len(tokens.signal("text_embeds", (None, 192))))
        frame = int(tokens.signal("query_frame_attention", (tokens.grid.frames,)).argmax())
        return Reduction.select(tokens, torch.arange(36) + 36 * frame)


SEEN: list[int] = []


@pytest.fixture
def asking() -> Iterator[str]:
    register_method(FrameOfTheQuestion, "asking_for_tests")
    SEEN.clear()
    yield "asking_for_tests"
    unregister_method("asking_for_tests")


def test_a_method_that_reads_the_question_is_asked_each(untrained: Examinee, asking: str) -> None:
    made = clip(2, 4, "eval", 3)
    words = [
        len(untrained.family.tokenizer(q.text, add_special_tokens=False).input_ids) for q in made.questions
    ]
    right, kept = reduced_marks(untrained, look(untrained, made), asking, 0.5)
    assert (len(right), kept, SEEN) == (3, 36, words)
    SEEN.clear()
    suite = Suite(10, 4, [Recipe.named(asking)])
    figures = suite.measure(Recipe.named(asking), 0.5)
    assert (figures["count"], figures["tokens_kept"], len(SEEN)) == (10, 36, 10)
    assert suite.signals == ()


def test_recalled_frames_hold_the_evidence_and_the_last_frames() -> None:
    for question in stream(3).questions(AT_FRAME):
        frames = recalled(question, 1)
        assert frames == sorted(set(frames))
        assert len(frames) == SHOWN_FRAMES
        assert frames[-8:] == list(range(AT_FRAME - 8, AT_FRAME))
        if question.group == "needle":
            assert all(set(range(*span)) <= set(frames) for span in question.evidence)
