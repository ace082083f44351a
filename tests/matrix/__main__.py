"""Record which method runs on which family: ``python -m tests.matrix``; then ``make results``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from streamprune.pipelines.offline import load
from streamprune.report.record import write_record
from tests.matrix.cells import CELLS, made_clip, refusal
from tests.matrix.test_matrix import RECORD
from tests.models.test_families import SAVE


def main() -> None:
    """Write the record."""
    video = made_clip()
    rows: list[dict[str, Any]] = [
        {"stage": cell.info.stage, "method": cell.info.name, "refused": {}} for cell in CELLS
    ]
    for family in sorted(SAVE):
        with tempfile.TemporaryDirectory() as folder:
            vlm = load(SAVE[family](Path(folder)))
            for row, cell in zip(rows, CELLS, strict=True):
                refused = refusal(vlm, video, cell)
                if refused is not None:
                    row["refused"][family] = refused
    write_record(RECORD, {"families": sorted(SAVE), "rows": rows})


if __name__ == "__main__":
    main()
