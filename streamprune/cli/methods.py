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
    vllm: Annotated[
        bool, typer.Option("--vllm", help="Which pre_llm methods vLLM can serve, and what the others lack.")
    ] = False,
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
    if vllm:
        _print_served(stage, family, markdown=markdown, as_json=as_json)
        return
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


def _print_served(stage: str | None, family: str | None, *, markdown: bool, as_json: bool) -> None:
    """What ``--vllm`` shows: for each pre-LLM method None, or what keeps vLLM from serving it."""
    from streamprune.errors import InvalidValueError
    from streamprune.integrations.vllm_pruner import servable_methods
    from streamprune.report.tables import served_markdown, served_table

    if stage not in (None, "pre_llm") or family is not None:
        raise InvalidValueError("--vllm lists methods of the stage pre_llm; leave out --stage and --family")
    lacking = servable_methods()
    if as_json:
        print(json.dumps([{"name": name, "vllm_lacks": why} for name, why in lacking.items()], indent=2))
    elif markdown:
        print(served_markdown(lacking), end="")
    else:
        Console().print(served_table(lacking))
