from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from streamprune.models.base import VideoFamily
from streamprune.models.loading import load_model


def _load_small_llava() -> ModuleType:
    """Load tests/models/small_llava.py by path: the tests are no package."""
    name = "tests_models_small_llava"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, Path(__file__).parents[1] / "models" / "small_llava.py"
        )
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def save_small_llava() -> Callable[..., Path]:
    save: Callable[..., Path] = _load_small_llava().save_small_llava
    return save


@pytest.fixture(scope="session")
def small_folder(save_small_llava: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_llava(tmp_path_factory.mktemp("small_llava"))


@pytest.fixture(scope="session")
def family(small_folder: Path) -> VideoFamily:
    return load_model(small_folder)
