"""One clip and one folder for each set, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.benchmarks.releases import RELEASES
from tests.readers.media import picture, write_video


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of three frames, and a picture of the same name beside it."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_video(path, numbers=range(3))
    Image.fromarray(picture(7)).save(path.with_suffix(".png"))
    return path


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory, clip: Path) -> dict[str, Path]:
    """The folder of every set, by name."""
    return {name: release.write(tmp_path_factory.mktemp(name), clip) for name, release in RELEASES.items()}
