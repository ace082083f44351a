"""The shown example runs, and a quarter of the tokens is enough for its answer."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

DEMOS = Path(__file__).resolve().parents[2] / "demos"


def test_the_example_says_the_same_from_fewer_tokens(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(DEMOS))
    importlib.import_module("accelerate_stock").main()
    question, *lines = capsys.readouterr().out.splitlines()
    said = [re.fullmatch(r"  (\d+) tokens in the cache: (\w+)", line) for line in lines]
    counts = [int(one[1]) for one in said if one is not None]
    assert question == "which color is the square?"
    assert [one[2] for one in said if one is not None] == ["purple", "purple"]
    # a quarter of 16 frames of 36 tokens; the rest is text
    assert counts[0] - counts[1] == 16 * 36 * 3 // 4
