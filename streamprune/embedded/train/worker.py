"""One training process; a module of its own so that a spawned process can import it by name."""

from __future__ import annotations

import argparse
import os


def work(rank: int, workers: int, port: int, options: argparse.Namespace) -> None:
    """One training process."""
    from streamprune.embedded.train.architectures import ARCHITECTURES
    from streamprune.embedded.train.loop import Run, train
    from streamprune.embedded.train.parallel import join, leave
    from streamprune.embedded.train.stages import curriculum

    if workers > 1 and hasattr(os, "setsid"):
        os.setsid()  # kernels that share time by session would give all workers together one session's share
    join(rank, workers, port)
    try:
        run = Run(options.out, rank, workers)
        architecture = ARCHITECTURES[options.architecture]
        stages = curriculum(architecture)[: options.stages]
        train(run, architecture, stages, options.device, options.export)
    finally:
        leave()
