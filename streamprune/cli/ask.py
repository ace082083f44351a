"""``streamprune ask``: one video, some questions, the answers and what they cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.text import Text

from streamprune.cli.app import app, progress_bars

if TYPE_CHECKING:
    from streamprune.pipelines.offline import Answer, EncodedVideo, VideoLLM
    from streamprune.pipelines.request import AnswerRequest
    from streamprune.positions import PositionRule, Positions, TextAfter
    from streamprune.recipe import Recipe

_Rule = Annotated[
    Literal["keep", "renumber", "clipped"] | None,
    typer.Option(help="Positions of kept tokens; default: the recipe's choice, or keep."),
]
_MaxGap = Annotated[
    int | None, typer.Option(help="With --positions clipped: most positions left empty in a row.")
]
_TextAfter = Annotated[Literal["stock", "max"], typer.Option(help="Where text behind a video starts.")]


@app.command()
def ask(
    video: Annotated[str, typer.Argument(help="A video file or a folder of images.")],
    questions: Annotated[list[str], typer.Argument(help="One or more questions, each in quotes.")],
    model: Annotated[str, typer.Option(help="'embedded', a hub name, or a local folder.")] = "embedded",
    recipe: Annotated[
        str | None, typer.Option(help="A method's name or a .toml file; default: keep every token.")
    ] = None,
    keep_ratio: Annotated[
        float | None, typer.Option(help="Share of the visual tokens KEPT, in (0, 1].")
    ] = None,
    keep_tokens: Annotated[int | None, typer.Option(help="Number of visual tokens kept.")] = None,
    frames: Annotated[
        str | None, typer.Option(help="How frames are chosen: a frames method; see 'streamprune methods'.")
    ] = None,
    num_frames: Annotated[
        int | None, typer.Option(help="Frames to look at; evenly spread without --frames.")
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Frames per second to look at.")] = None,
    start_seconds: Annotated[float | None, typer.Option(help="Look from here.")] = None,
    end_seconds: Annotated[float | None, typer.Option(help="Look until here.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 64,
    positions: _Rule = None,
    max_gap: _MaxGap = None,
    text_after: _TextAfter = "stock",
    backend: Annotated[str, typer.Option(help="pyav, opencv, decord or torchcodec.")] = "pyav",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    compare: Annotated[
        str | None, typer.Option(help="Also answer with this recipe, at the same budget.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Ask a video, and see what the answer cost."""
    from streamprune.pipelines.request import AnswerRequest, FrameRequest, read_recipe
    from streamprune.readers import open_source

    chosen = read_recipe(recipe, keep_ratio, keep_tokens)
    looks = FrameRequest(chosen, num_frames, fps, start_seconds, end_seconds, frames)
    placing = _placing(positions, max_gap, text_after)
    recipes = [chosen] if compare is None else [_at_same_budget(read_recipe(compare), chosen), chosen]
    requests = [AnswerRequest(tuple(questions), one, {}, max_new_tokens, placing) for one in recipes]

    # the video is opened first: a misspelt path should not wait for a model to load
    with progress_bars() as report, open_source(video, backend=backend) as source:
        report("load", 0, 1)
        from streamprune.pipelines.offline import load

        vlm = load(model, device=device, dtype=dtype)
        report("load", 1, 1)
        answers: list[list[Answer]] = [[] for _ in recipes]
        # a frames method that reads the question shows each question frames of its own
        for group in [(one,) for one in questions] if looks.reads_question else [tuple(questions)]:
            encoded = vlm.encode(
                source, recipe=chosen, frames=frames, num_frames=num_frames, fps=fps,
                start_seconds=start_seconds, end_seconds=end_seconds, question=group[0],
                signals=_needs(requests), progress=report,
            )  # fmt: skip
            for column, request in zip(answers, requests, strict=True):
                column += _answer(vlm, encoded, replace(request, questions=group))
            report("answer", len(answers[-1]), len(questions))
    _warn(video, answers[0][0].warnings)
    if as_json:
        print(json.dumps(_json(video, model, questions, recipes, answers), indent=2))
    else:
        _show(questions, recipes, answers)


def _placing(rule: PositionRule | None, max_gap: int | None, text_after: TextAfter) -> Positions | None:
    """What the command line says about positions; None leaves it to the recipe."""
    if rule is None and max_gap is None and text_after == "stock":
        return None
    from streamprune.positions import Positions

    return Positions(rule or "keep", max_gap, text_after)


def _warn(video: str, warnings: Sequence[str]) -> None:
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    for warning in warnings:
        console.print(Text(f"Warning: {video}: {warning}", style="yellow"))


def _at_same_budget(other: Recipe, chosen: Recipe) -> Recipe:
    """``other`` with the budget of ``chosen``, unless it says its own or keeps everything by nature."""
    if other.name == "none" or not other.budget.keeps_all:
        return other
    return replace(other, budget=chosen.budget)


def _needs(requests: list[AnswerRequest]) -> list[str]:
    return sorted({name for request in requests for name in request.needs()})


def _answer(vlm: VideoLLM, encoded: EncodedVideo, request: AnswerRequest) -> list[Answer]:
    return vlm.ask(
        encoded,
        list(request.questions),
        recipe=request.recipe,
        max_new_tokens=request.max_new_tokens,
        positions=request.positions,
    )


def _json(
    video: str, model: str, questions: list[str], recipes: list[Recipe], answers: list[list[Answer]]
) -> dict[str, Any]:
    """Answers by question; with ``--compare`` each has one entry per recipe, the chosen one last."""
    return {
        "video": video,
        "model": model,
        "recipes": [
            {"name": r.name, "keep_ratio": r.budget.keep_ratio, "keep_tokens": r.budget.keep_tokens}
            for r in recipes
        ],
        "answers": [
            {"question": question, "answers": [column[i].to_dict() for column in answers]}
            for i, question in enumerate(questions)
        ],
    }


def _label(recipe: Recipe) -> str:
    budget = recipe.budget
    if budget.keep_tokens is not None:
        return f"{recipe.name} {budget.keep_tokens} tokens"
    return recipe.name if budget.keep_ratio is None else f"{recipe.name} {budget.keep_ratio:g}"


def _show(questions: list[str], recipes: list[Recipe], answers: list[list[Answer]]) -> None:
    from streamprune.report.tables import stats_table

    console = Console(highlight=False, soft_wrap=True)
    labels = [_label(recipe) for recipe in recipes]
    width = max(map(len, labels))
    for row, question in enumerate(questions):
        console.print(Text(question, style="bold"))
        for label, column in zip(labels, answers, strict=True):
            console.print(Text(f"  {label:<{width}}  "), Text(column[row].text, style="green"), sep="")
    console.print()
    # the stages before the answer are shared; the first question stands for the others
    console.print(
        stats_table([(lbl, col[0].stats.to_dict()) for lbl, col in zip(labels, answers, strict=True)])
    )
