"""The command line. Help, listings and usage errors answer before torch is imported.

Exit codes: 0 done, 1 failed, 2 asked wrongly, 130 interrupted.
"""

from __future__ import annotations

import errno
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text
from typer.core import TyperGroup

import streamprune
from streamprune.errors import StorageError, StreampruneError, UsageError

if TYPE_CHECKING:
    from streamprune.pipelines.offline import Answer, EncodedVideo, VideoLLM
    from streamprune.pipelines.request import AnswerRequest
    from streamprune.recipe import Recipe


_UNHEARD = logging.NullHandler()


class _ErrorGroup(TyperGroup):
    """Turns our exceptions into one clear line and an exit code, in-process runs included."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # a full disk or a closed pipe shows here, while it can still be reported
            return result
        except UsageError as error:
            raise _told(error, 2) from error
        except StreampruneError as error:
            raise _told(error, 1) from error
        except KeyboardInterrupt:
            raise _told("interrupted", 130) from None
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # typer ends quietly when nobody reads any more
            raise _told(StorageError(f"cannot write the output: {error.strerror or error}"), 1) from error


def _told(problem: StreampruneError | str, code: int) -> typer.Exit:
    Console(stderr=True, soft_wrap=True, highlight=False).print(Text(f"Error: {problem}", style="red"))
    return typer.Exit(code)


app = typer.Typer(
    name="streamprune",
    cls=_ErrorGroup,
    help="Ask videos at a fraction of the tokens.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"streamprune {streamprune.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Ask videos at a fraction of the tokens."""
    # what the readers log reaches the user once, as a warning beside the answer
    logging.getLogger("streamprune").addHandler(_UNHEARD)


@app.command()
def methods(
    stage: Annotated[str | None, typer.Option(help="Only this stage.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the README's table.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List every method: its stage, what it needs, and where it was published."""
    from streamprune.registry import check_stage, list_methods
    from streamprune.report.tables import methods_markdown, methods_table

    if stage is not None:
        check_stage(stage)
    rows = [row for row in list_methods() if stage in (None, row.stage)]
    if as_json:
        fields = ("stage", "name", "needs", "causal", "training_free", "source", "summary")
        print(json.dumps([{name: getattr(row, name) for name in fields} for row in rows], indent=2))
    elif markdown:
        print(methods_markdown(rows), end="")
    else:
        Console().print(methods_table(rows))


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
    num_frames: Annotated[int | None, typer.Option(help="Frames to look at, evenly spread.")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames per second to look at.")] = None,
    start_seconds: Annotated[float | None, typer.Option(help="Look from here.")] = None,
    end_seconds: Annotated[float | None, typer.Option(help="Look until here.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 64,
    positions: Annotated[
        Literal["keep", "renumber"], typer.Option(help="Positions of kept tokens.")
    ] = "keep",
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
    FrameRequest(chosen, num_frames, fps, start_seconds, end_seconds)
    recipes = [chosen] if compare is None else [_at_same_budget(read_recipe(compare), chosen), chosen]
    requests = [AnswerRequest(tuple(questions), one, {}, max_new_tokens, positions) for one in recipes]

    # the video is opened first: a misspelt path should not wait for a model to load
    with _progress() as report, open_source(video, backend=backend) as source:
        report("load", 0, 1)
        from streamprune.pipelines.offline import load

        vlm = load(model, device=device, dtype=dtype)
        report("load", 1, 1)
        encoded = vlm.encode(
            source, recipe=chosen, num_frames=num_frames, fps=fps, start_seconds=start_seconds,
            end_seconds=end_seconds, signals=_needs(requests), progress=report,
        )  # fmt: skip
        report("answer", 0, len(recipes) * len(questions))
        answers = [_answer(vlm, encoded, request) for request in requests]
        report("answer", len(recipes) * len(questions), len(recipes) * len(questions))
    for warning in answers[0][0].warnings:
        Console(stderr=True, soft_wrap=True, highlight=False).print(
            Text(f"Warning: {video}: {warning}", style="yellow")
        )
    if as_json:
        print(json.dumps(_json(video, model, questions, recipes, answers), indent=2))
    else:
        _show(questions, recipes, answers)


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


@contextmanager
def _progress() -> Iterator[Any]:
    """Progress bars on stderr when somebody watches; calls with (stage, done, total)."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description:>8}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    tasks: dict[str, Any] = {}

    def report(stage: str, done: int, total: int) -> None:
        if stage not in tasks:
            tasks[stage] = bar.add_task(stage, total=total)
        bar.update(tasks[stage], completed=done, total=total)

    with bar:
        yield report
