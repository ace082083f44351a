"""Kill a process again and again while it writes to the disk cache: no entry is ever half written.

    python demos/cache_soak.py [--kills 50] [--json demos/results/cache_soak.json]

Part of ``make soak``; takes about a minute.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path

import torch

from streamprune.cache.feature_store import FeatureStore
from streamprune.report.record import circumstances, write_record

_BOUND_BYTES = 10**7
_VALUES = 100_000
_KEYS = 6


@dataclass
class Seen:
    """What was found after the kills.

    Attributes:
        kills: processes that were killed while they wrote.
        entries: entries that were there after a kill, and were read.
        torn: of them, entries that were damaged or held something else.
        unfinished: files that a killed process left half written, which nobody reads.
    """

    kills: int = 0
    entries: int = 0
    torn: int = 0
    unfinished: int = 0

    def faults(self) -> list[str]:
        """What must not be."""
        found = [f"{self.torn} of {self.entries} entries torn"] if self.torn else []
        return found + ["nothing was written"] * (self.entries < self.kills)


def kill_writers(
    folder: Path, kills: int, *, start_method: str | None = None, say: Callable[[str], None] = print
) -> Seen:
    """Start a writer, kill it at a random moment, and read every entry there is; ``kills`` times."""
    processes = multiprocessing.get_context(start_method)
    moments, seen, store = random.Random(kills), Seen(), FeatureStore(folder, _BOUND_BYTES)
    for _ in range(kills):
        ready = processes.Event()
        writer = processes.Process(target=_write_for_ever, args=(str(folder), ready))  # type: ignore[attr-defined]
        writer.start()
        if not ready.wait(120):
            writer.kill()
            raise RuntimeError("the writer did not begin within two minutes")
        time.sleep(moments.uniform(0.0, 0.12))
        writer.kill()
        writer.join()
        seen.kills += 1
        for path in folder.glob("[!.]*.safetensors"):
            seen.entries += 1
            entry = store.get(path.stem)
            whole = entry is not None and torch.equal(entry.tensors["values"], _values(path.stem))
            seen.torn += not whole
        seen.unfinished = sum(1 for _ in folder.glob(".*.safetensors.*"))
    say(f"{seen.kills} kills: {seen.entries} entries read, {seen.torn} torn, {seen.unfinished} unfinished")
    return seen


def _write_for_ever(folder: str, ready: Event) -> None:
    # a forked process has none of its parent's other threads, and would wait for them
    torch.set_num_threads(1)
    store = FeatureStore(folder, _BOUND_BYTES)
    while True:
        for number in range(_KEYS):
            key = f"k{number}"
            store.put(key, {"values": _values(key)}, {"number": number})
            ready.set()


def _values(key: str) -> torch.Tensor:
    """What belongs under ``key``."""
    return torch.randn(_VALUES, generator=torch.Generator().manual_seed(int(key[1:])))


def main() -> int:
    """Kill, print, write the record; 1 when something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seen = kill_writers(Path(folder), asked.kills)
    if asked.json is not None:
        said = circumstances([Path(sys.argv[0]).name, *sys.argv[1:]])
        write_record(asked.json, {"demo": "cache_soak", **said, **vars(seen), "faults": seen.faults()})
    return 1 if seen.faults() else 0


if __name__ == "__main__":
    sys.exit(main())
