"""What the README says about methods is what the registry says."""

from __future__ import annotations

import re
from pathlib import Path

from streamprune.registry import list_methods
from streamprune.report.tables import methods_markdown

README = Path(__file__).resolve().parents[1] / "README.md"


def test_method_table_is_the_registry() -> None:
    found = re.search(r"<!-- methods -->\n(.*?)<!-- /methods -->", README.read_text(encoding="utf-8"), re.S)
    assert found is not None, "the README has lost its <!-- methods --> markers"
    built_in = [row for row in list_methods() if isinstance(row.target, str)]
    assert found[1] == methods_markdown(built_in), "paste the output of: streamprune methods --markdown"


def test_readme_shows_a_result_by_line_40() -> None:
    head = "\n".join(README.read_text(encoding="utf-8").splitlines()[:40])
    assert "make demo" in head
    assert "saved: visual tokens" in head


def test_linked_files_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (README.parent / target).exists(), target


def test_the_short_demo_is_as_short_as_told() -> None:
    assert "in under 40 lines of Python" in README.read_text(encoding="utf-8")
    assert len((README.parent / "demos" / "long_video_qa.py").read_text(encoding="utf-8").splitlines()) < 40
