"""One training process; a module of its own so that a spawned process can import it by name."""

from __future__ import annotations

import argparse


def work(rank: int, workers: int, port: int, options: argparse.Namespace) -> None:
    """One training process."""
    from streamprune.embedded.train.loop import Run, train
    from streamprune.embedded.train.parallel import join, leave
    from streamprune.embedded.train.stages import curriculum

    join(rank, workers, port)
    try:
        run = Run(options.out, rank, workers)
        train(run, curriculum()[: options.stages], options.device, options.export)
    finally:
        leave()
