"""``streamprune eval`` at work: questions, a model, lines for answers, and what is shown in the end."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from streamprune.cli.app import progress_bars
from streamprune.cli.evaluate_answers import noted_answers
from streamprune.cli.evaluate_sets import OWN, Asked

if TYPE_CHECKING:
    from streamprune.benchmarks.loading import LoadedSet
    from streamprune.pipelines.evaluation import Evaluation
    from streamprune.pipelines.evaluation_set import QuestionSet
    from streamprune.pipelines.offline import VideoLLM

_WIDTH = 130


def evaluate_set(asked: Asked) -> None:
    """Measure and show; what is wrong with the command is said before a model is loaded."""
    from streamprune.pipelines.evaluation import run_of
    from streamprune.pipelines.evaluation_contenders import KEY
    from streamprune.pipelines.evaluation_summary import summary
    from streamprune.report.record import circumstances, write_record

    asked.check()
    loaded = None if asked.is_world else asked.read()
    with progress_bars() as report:
        evaluation = replace(_evaluation(asked, loaded, report), progress=report)
        family, looks = evaluation.vlm.family, evaluation.looks
        run = partial(run_of, family, evaluation.questions, looks)
        with noted_answers(asked.answers, asked.json_file, run, KEY) as lines:
            found = summary(evaluation.run(lines))
            record = {
                "eval": asked.suite,
                **circumstances(["streamprune", *sys.argv[1:]]),
                "model": asked.model,
                "frames": round(found["full"].get("frames", 0)) * family.frames_per_slice,
                "tokens": round(found["full"].get("tokens_in", 0)),
                **({} if loaded is None else _about(loaded)),
                **found,
            }
            if asked.json_file is not None:
                write_record(asked.json_file, record)
    _show(record, asked)


def _evaluation(
    asked: Asked, loaded: LoadedSet | None, report: Callable[[str, int, int], None]
) -> Evaluation:
    """Everything that is to be asked, with the model loaded."""
    from streamprune.pipelines.evaluation import Evaluation
    from streamprune.pipelines.evaluation_screen import Looks

    vlm = _load(asked, report)
    contenders = asked.contenders()
    questions: QuestionSet
    if loaded is None:
        from streamprune.embedded.evaluate.worlds import world

        made = world(asked.suite, asked.count(), asked.num_frames, vlm.family)
        contenders += [made.oracle(ratio) for ratio in asked.ratios] if asked.oracle else []
        looks, questions = Looks(made.frames), made
    else:
        from streamprune.pipelines.evaluation_set import QuestionSet

        longest = {} if asked.max_new_tokens is None else {"max_new_tokens": asked.max_new_tokens}
        questions = QuestionSet(asked.suite, loaded.items, asked.suite == OWN, **longest)
        looks = Looks(asked.num_frames, asked.fps)
    return Evaluation(vlm, questions, contenders, looks, asked.baselines, asked.limit)


def _load(asked: Asked, report: Callable[[str, int, int], None]) -> VideoLLM:
    from streamprune.cli.model_choice import ModelChoice

    device = "cpu" if asked.is_world else asked.device
    return ModelChoice(asked.model, device, asked.dtype).load(report)


def _about(loaded: LoadedSet) -> dict[str, Any]:
    return {
        "missing_videos": [str(video) for video in loaded.missing],
        "questions_without_video": loaded.skipped,
        "left_out": list(loaded.notes),
    }


def _show(record: dict[str, Any], asked: Asked) -> None:
    from streamprune.report.evaluation import evaluation_notes, evaluation_tables
    from streamprune.report.retention import plot_retention

    # narrower, the intervals would be cut off
    console = Console(width=max(_WIDTH, Console().width))
    for table in evaluation_tables(record):
        console.print(table)
    told = Console(stderr=True, highlight=False, soft_wrap=True)
    for note in evaluation_notes(record):
        told.print(Text(note))
    written = [asked.answers, asked.json_file]
    if asked.plot is not None and "accuracy" in record["full"]:
        plot_retention(record, asked.plot)
        written.append(asked.plot)
    for path in written:
        if path is not None:
            told.print(f"written: {path}")
