"""Whether a bench repeats itself: the same command twice, and by how much each ratio's median differs.

python demos/bench_check.py --json demos/results/bench_repeat.json
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from streamprune.metrics.comparison import compare, read_record
from streamprune.report.record import circumstances, write_record

AIM_PERCENT = 5.0
BENCH = ["bench", "--recipe", "fastvid", "--keep-ratio", "0.25"]


def main() -> None:
    """Run twice, compare, and write both down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max-seconds", type=float, default=240.0, help="of each run")
    parser.add_argument("--json", type=Path, help="write the record here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        records = []
        for name in ("first.json", "second.json"):
            path = Path(folder) / name
            command = [*BENCH, "--max-seconds", f"{arguments.max_seconds:g}", "--json", str(path)]
            subprocess.run([sys.executable, "-m", "streamprune", *command], check=True)
            records.append(read_record(path))
    found = compare(records[1], records[0], "the first run")
    rows = [
        {
            "ratio": change.ratio,
            "first": change.before,
            "second": change.after,
            "percent": None if change.percent is None else round(change.percent, 2),
        }
        for change in found.changes
    ]
    known = [abs(float(row["percent"])) for row in rows if isinstance(row["percent"], float)]
    record = {
        "demo": "bench_check",
        **circumstances(["python", *sys.argv]),
        "bench": " ".join(["streamprune", *BENCH, "--max-seconds", f"{arguments.max_seconds:g}"]),
        "pairs": [one["rows"][0]["pairs"] for one in records],
        "aim_percent": AIM_PERCENT,
        "within_aim": sum(percent < AIM_PERCENT for percent in known),
        "compared": len(known),
        "largest_percent": max(known),
        "rows": rows,
    }
    for row in rows:
        print(row)
    print(f"{record['within_aim']} of {record['compared']} ratios within {AIM_PERCENT:g} % of each other")
    if arguments.json is not None:
        write_record(arguments.json, record)


if __name__ == "__main__":
    main()
