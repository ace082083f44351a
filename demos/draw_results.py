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

from streamprune.report.retention import plot_retention

RESULTS = Path(__file__).parent / "results"
# picture -> what draws it; the record has the same name
PLOTS: dict[str, Callable[[dict[str, Any], Path], None]] = {"reducer_losses": plot_retention}
# what a picture says about its record
TEXT = "Source"


def said_of(name: str) -> str:
    """Which record a picture shows, and in which state."""
    content = (RESULTS / f"{name}.json").read_bytes()
    return f"demos/results/{name}.json {hashlib.blake2b(content, digest_size=8).hexdigest()}"


def picture(name: str) -> Path:
    """Where the plot of a record is."""
    return RESULTS / f"{name}.png"


def shown_by(path: Path) -> str:
    """What the picture at ``path`` says about its record."""
    with Image.open(path) as image:
        return str(image.info.get(TEXT, "nothing"))


def draw(name: str) -> bool:
    """Draw the plot of record ``name`` unless it shows that record already; whether it was drawn."""
    path = picture(name)
    if path.exists() and shown_by(path) == said_of(name):
        return False
    PLOTS[name](json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")), path)
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
