"""Finds the recorded cases and says at the end which of them nothing here replays.

``--goldens-dir`` itself is declared in ``tests/conftest.py``, so that every way of calling pytest knows it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.goldens.adapters import ADAPTERS
from tests.goldens.case import cases_in

RECORDED = Path(__file__).parent / "recorded"
_UNCOVERED = pytest.StashKey[list[str]]()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per recorded case."""
    if "case" not in metafunc.fixturenames:
        return
    given = metafunc.config.getoption("goldens_dir")
    folder = RECORDED if given is None else Path(given)
    cases = cases_in(folder)
    if not cases:
        raise pytest.UsageError(f"--goldens-dir: no METHOD/CASE.npz below {str(folder)!r}")
    unknown = sorted({case.folder for case in cases} - ADAPTERS.keys())
    metafunc.config.stash[_UNCOVERED] = unknown
    metafunc.parametrize("case", cases, ids=lambda case: case.id)


@pytest.hookimpl
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name the folders that were not replayed, however quiet the run."""
    unknown = config.stash.get(_UNCOVERED, [])
    if unknown:
        terminalreporter.write_line(f"goldens not covered: {', '.join(unknown)}", yellow=True)
