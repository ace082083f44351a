"""JSON records of measurements: where and when they were taken, and writing them so that nothing is lost."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import streamprune
from streamprune.report.writable import whole_file


def circumstances(command: Sequence[str]) -> dict[str, Any]:
    """Version, command, date and machine of a measurement."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "streamprune": streamprune.__version__,
        "command": " ".join(command),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write_record(path: str | Path, record: Mapping[str, Any]) -> None:
    """Write ``record`` as JSON, whole or not at all; StorageError names the file."""
    with whole_file(Path(path)) as unfinished:
        unfinished.write_text(_json(record), encoding="utf-8")


def _json(record: Mapping[str, Any]) -> str:
    """One line per entry, and per row of a list: short enough to read, and to see what changed."""
    entries = []
    for name, value in record.items():
        text = json.dumps(value)
        if isinstance(value, list):
            text = "[\n" + ",\n".join(f"  {json.dumps(row)}" for row in value) + "\n ]"
        entries.append(f" {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(entries) + "\n}\n"
