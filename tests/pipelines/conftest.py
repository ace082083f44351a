from __future__ import annotations

from pathlib import Path

import pytest

from streamprune.pipelines.offline import VideoLLM, load
from tests.models.small_llava import save_small_llava


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_llava(tmp_path_factory.mktemp("small_llava"))


@pytest.fixture(scope="session")
def vlm(small_folder: Path) -> VideoLLM:
    return load(small_folder)


@pytest.fixture(scope="session")
def bare_vlm(tmp_path_factory: pytest.TempPathFactory) -> VideoLLM:
    """The same model without a pooling head and with little room."""
    return load(save_small_llava(tmp_path_factory.mktemp("bare_llava"), head=False, context_tokens=64))
