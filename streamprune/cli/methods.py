"""``streamprune methods``: what there is."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console

from streamprune.cli.app import app


@app.command()
def methods(
    stage: Annotated[str | None, typer.Option(help="Only this stage.")] = None,
    family: Annotated[
        str | None, typer.Option(help="Only what runs on this model family, e.g. qwen2_5_vl.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the README's table.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List every method: its stage, what it needs, and where it was published."""
    from streamprune.models.families import check_family
    from streamprune.registry import check_stage, list_methods
    from streamprune.report.tables import methods_markdown, methods_table

    if stage is not None:
        check_stage(stage)
    if family is not None:
        check_family(family)
    rows = [
        row
        for row in list_methods()
        if stage in (None, row.stage) and (family is None or row.runs_on(family))
    ]
    if as_json:
        fields = (
            "stage", "name", "needs", "causal", "training_free", "families", "not_on", "source", "summary"
        )  # fmt: skip
        print(json.dumps([{name: getattr(row, name) for name in fields} for row in rows], indent=2))
    elif markdown:
        print(methods_markdown(rows), end="")
    else:
        Console().print(methods_table(rows))
