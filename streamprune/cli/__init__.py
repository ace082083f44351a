"""The command line. Help, listings and usage errors answer before torch is imported.

One file per command; importing them here adds them to the application.
"""

from __future__ import annotations

from streamprune.cli import ask, batch, bench, doctor, evaluate, explain, methods, serve, stream, tune
from streamprune.cli.app import app

__all__ = [
    "app",
    "ask",
    "batch",
    "bench",
    "doctor",
    "evaluate",
    "explain",
    "methods",
    "serve",
    "stream",
    "tune",
]
