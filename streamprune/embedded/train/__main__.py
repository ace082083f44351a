"""Command line of the training: ``python -m streamprune.embedded.train --out runs/embedded``."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch

from streamprune.embedded.train.architectures import ARCHITECTURES
from streamprune.embedded.train.loop import Stage
from streamprune.embedded.train.parallel import MALLOC_SETTINGS
from streamprune.embedded.train.progress import LogBar
from streamprune.embedded.train.stages import curriculum
from streamprune.embedded.train.worker import work


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m streamprune.embedded.train", description=__doc__)
    parser.add_argument("--architecture", choices=sorted(ARCHITECTURES), default="llava_onevision")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of checkpoint and log; a run there is resumed"
    )
    parser.add_argument("--export", type=Path, help="folder the model is written to after every stage")
    parser.add_argument("--stages", type=int, help="stop after this many stages")
    parser.add_argument("--workers", type=int, help="processes of one thread each (default: 2, on a GPU 1)")
    parser.add_argument("--device", help="default: cuda if there is one, else cpu")
    options = parser.parse_args(arguments)
    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    options.workers = options.workers or (2 if options.device == "cpu" else 1)
    return options


def _free_port() -> int:
    """A TCP port on the loopback address that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main(arguments: list[str]) -> int:
    """Start the workers, show their progress and wait for them."""
    options = parse(arguments)
    os.environ.update(MALLOC_SETTINGS)
    port = _free_port()
    context = multiprocessing.get_context("spawn")
    children = [
        context.Process(target=work, args=(rank, options.workers, port, options), daemon=True)
        for rank in range(options.workers)
    ]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the workers end with this process
    for child in children:
        child.start()
    try:
        _wait(children, options.out, curriculum(ARCHITECTURES[options.architecture]))
    except KeyboardInterrupt:
        return 130
    finally:
        for child in children:
            child.terminate()
            child.join()
    return max(abs(child.exitcode or 0) for child in children)


def _wait(children: Sequence[SpawnProcess], folder: Path, stages: Sequence[Stage]) -> None:
    """Wait until all workers are done or one has failed."""
    with LogBar(folder, stages) as bar:
        while any(child.is_alive() for child in children):
            if any(child.exitcode not in (None, 0) for child in children):
                break
            time.sleep(1.0)
            bar.update()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
