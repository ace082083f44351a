"""The contributor's example is put in place, all three of them, and held to the whole contract."""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import pytest
import torch

from streamprune import registry
from streamprune.catalog.info import method_row
from streamprune.reduce import reduce_tokens
from tests.contract import test_contract as contract
from tests.contract.row import Row
from tests.contract.table import clip

PAGE = Path(__file__).resolve().parents[1] / "CONTRIBUTING.md"


def _blocks() -> list[str]:
    indented = re.findall(r"^ +```python\n(.*?)^ +```", PAGE.read_text(encoding="utf-8"), re.S | re.M)
    return [textwrap.dedent(block) for block in indented]


@pytest.fixture
def row(monkeypatch: pytest.MonkeyPatch) -> Row:
    file, line, contract_row = _blocks()
    module = ModuleType("streamprune.pre_llm.loudest")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(file, module.__name__, "exec"), module.__dict__)
    info = eval(line, {"_row": method_row})
    monkeypatch.setitem(registry._methods, ("pre_llm", info.name), info)
    made: Row = eval(contract_row, {"Row": Row})
    return made


def test_it_is_thirty_lines_that_follow_the_rules() -> None:
    file, line, contract_row = _blocks()
    assert sum(bool(text.strip()) for text in file.splitlines()) <= 30
    assert max(map(len, file.splitlines())) <= 110
    assert line.count("_row(") == contract_row.count("Row(") == 1


@pytest.mark.parametrize("grid", contract.GRIDS, ids=str)
def test_it_keeps_what_it_announces(row: Row, grid: tuple[int, int, int]) -> None:
    contract.test_what_is_announced_is_kept(row, grid)


def test_it_holds_every_other_promise(row: Row) -> None:
    contract.test_keeping_everything_changes_no_bit(row, {"keep_ratio": 1.0})
    contract.test_runs_and_seeds_do_not_matter(row)
    contract.test_half_precision_decides_as_float32_does_on_the_same_values(row, torch.bfloat16)
    contract.test_a_view_decides_as_its_copy_does_and_stays_on_its_device(row, "cpu")
    for features in (clip(1, 1, 1), torch.zeros(6, 4, 4, 8), clip(1, 6, 5).expand(12, -1, -1, -1)):
        contract.test_degenerate_clips_are_defined(row, features)
    contract.test_sizes_from_an_earlier_merge_are_carried(row)
    contract.test_features_must_be_finite(row, float("nan"))
    contract.test_a_misspelt_option_is_answered_with_the_known_ones(row)
    contract.test_class_and_registry_say_the_same(row.name)


def test_its_options_are_checked_and_it_does_what_it_says(row: Row) -> None:
    with pytest.raises(ValueError, match="power"):
        reduce_tokens(clip(), row.name, keep_ratio=0.3, power=9)
    features = torch.zeros(3, 2, 2, 4)
    features[1, 1, 0] = 5
    assert reduce_tokens(features, row.name, keep_tokens=1).index.tolist() == [6]
