"""``streamprune doctor``: what this machine and this installation can do."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamprune.cli.app import app
from streamprune.cli.examination import Finding, examine

_STYLES = {"ok": "green", "missing": "yellow", "broken": "bold red"}


@app.command()
def doctor(
    cache_dir: Annotated[
        Path | None, typer.Option(help="Folder for cached features; default: the user's cache folder.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Examine this machine and installation; needs no network.

    Ends with exit code 1 when something that is needed is broken. What is only missing is optional.
    """
    findings = list(examine(cache_dir))
    broken = [finding for finding in findings if finding.state == "broken"]
    if as_json:
        facts = [finding.to_dict() for finding in findings]
        print(json.dumps({"ok": not broken, "findings": facts}, indent=2))
    else:
        _show(findings)
    if broken:
        raise typer.Exit(1)


def _show(findings: Iterable[Finding]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    area = None
    for finding in findings:
        detail = Text(finding.detail)
        if finding.hint:
            detail.append(f"\n{finding.hint}", style="italic")
        state = Text(finding.state, style=_STYLES[finding.state])
        table.add_row("" if finding.area == area else finding.area, state, finding.name, detail)
        area = finding.area
    Console(highlight=False).print(table)
