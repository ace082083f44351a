"""Command line of the training: ``python -m streamprune.embedded.train --out runs/embedded``."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from multiprocessing.context import SpawnProcess
from pathlib import Path

from streamprune.embedded.train.parallel import MALLOC_SETTINGS
from streamprune.embedded.train.worker import work


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m streamprune.embedded.train", description=__doc__)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of checkpoint and log; a run there is resumed"
    )
    parser.add_argument("--export", type=Path, help="folder the model is written to after every stage")
    parser.add_argument("--stages", type=int, help="stop after this many stages")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each (1 on a GPU)")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Start the workers and wait for them."""
    options = parse(arguments)
    os.environ.update(MALLOC_SETTINGS)
    port = 20_000 + os.getpid() % 20_000
    context = multiprocessing.get_context("spawn")
    children = [
        context.Process(target=work, args=(rank, options.workers, port, options), daemon=True)
        for rank in range(options.workers)
    ]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for child in children:
        child.start()
    try:
        _wait(children)
    finally:
        for child in children:
            child.terminate()
            child.join()
    return max(abs(child.exitcode or 0) for child in children)


def _wait(children: Sequence[SpawnProcess]) -> None:
    """Wait until all workers are done or one has failed."""
    while any(child.is_alive() for child in children):
        if any(child.exitcode not in (None, 0) for child in children):
            break
        time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
