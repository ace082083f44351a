"""Draw the plots of the recorded results; every picture carries the name and the checksum of its record.

python demos/draw_results.py
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from streamprune.metrics.comparison import GOALS
from streamprune.report.bench_plot import plot_end_to_end
from streamprune.report.retention import plot_retention

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "demos" / "results"
# picture -> its record, and what draws it
PLOTS: dict[str, tuple[Path, Callable[[dict[str, Any], Path], None]]] = {
    "reducer_losses": (RESULTS / "reducer_losses.json", plot_retention),
    "end_to_end": (GOALS / "end_to_end.json", plot_end_to_end),
}
# what a picture says about its record
TEXT = "Source"


def said_of(name: str) -> str:
    """Which record the plot ``name`` shows, and in which state."""
    record = PLOTS[name][0]
    checksum = hashlib.blake2b(record.read_bytes(), digest_size=8).hexdigest()
    return f"{record.relative_to(ROOT).as_posix()} {checksum}"


def picture(name: str) -> Path:
    """Where the plot ``name`` is."""
    return RESULTS / f"{name}.png"


def shown_by(path: Path) -> str:
    """What the picture at ``path`` says about its record."""
    with Image.open(path) as image:
        return str(image.info.get(TEXT, "nothing"))


def draw(name: str) -> bool:
    """Draw the plot ``name`` unless it shows its record already; whether it was drawn."""
    path = picture(name)
    if path.exists() and shown_by(path) == said_of(name):
        return False
    record, plot = PLOTS[name]
    plot(json.loads(record.read_text(encoding="utf-8")), path)
    about = PngInfo()
    about.add_text(TEXT, said_of(name))
    with Image.open(path) as image:
        image.load()
        image.convert("RGB").quantize(256).save(path, optimize=True, pnginfo=about)
    return True


def main() -> None:
    """Draw what changed."""
    for name in PLOTS:
        print(f"{'drawn' if draw(name) else 'as it was'}: {picture(name)}")


if __name__ == "__main__":
    main()
