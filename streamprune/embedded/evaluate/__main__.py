"""Command line of the evaluation: ``python -m streamprune.embedded.evaluate --json results.json``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from streamprune.embedded.evaluate.report import METHODS, measure
from streamprune.embedded.evaluate.scoring import load
from streamprune.embedded.evaluate.tables import show
from streamprune.models.checkpoint_files import resolve_name


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m streamprune.embedded.evaluate", description=__doc__)
    parser.add_argument(
        "--model",
        default="embedded",
        help="a shipped model or a folder (default: embedded)",
    )
    parser.add_argument("--questions", type=int, default=2000)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="pre-LLM methods, and 'oracle'")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Measure and print."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    console, folder = Console(), Path(resolve_name(options.model))

    def progress(items: Iterable[int], label: str) -> Iterable[int]:
        return track(list(items), label, console=console, transient=True, disable=not console.is_terminal)

    report = measure(load(folder), options.questions, options.frames, options.methods, progress)
    show(report, console)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
