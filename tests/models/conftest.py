from __future__ import annotations

from pathlib import Path

import pytest

from streamprune.models.base import VideoFamily
from streamprune.models.loading import load_model
from tests.models.small_llava import save_small_llava


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_llava(tmp_path_factory.mktemp("small_llava"))


@pytest.fixture(scope="session")
def family(small_folder: Path) -> VideoFamily:
    return load_model(small_folder)
