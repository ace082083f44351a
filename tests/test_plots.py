"""Plots that cannot be drawn are told before the work, not after it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from streamprune.cli import app
from streamprune.errors import StorageError
from streamprune.report.plot import new_figure, save_figure

CLIP = Path(__file__).resolve().parents[1] / "demos" / "clips" / "square_parade.mp4"


@pytest.mark.parametrize(
    "arguments",
    [
        ["bench", "--recipe", "stride"],
        ["eval", "--recipe", "stride"],
        ["tune", str(CLIP), "--max-loss", "5"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_without_matplotlib_nothing_begins(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamprune.models.loading.load_model", pytest.fail)
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    found = CliRunner().invoke(app, [*arguments, "--plot", str(tmp_path / "plot.png")])
    assert found.exit_code == 1, found.output
    assert "pip install 'streamprune[plot]'" in found.output.replace("\n", " ")
    assert list(tmp_path.iterdir()) == []


def test_a_figure_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for path in (tmp_path / "file" / "plot.png", tmp_path / "plot.nonsense"):
        with pytest.raises(StorageError, match="cannot write the plot"):
            save_figure(new_figure(), path)
