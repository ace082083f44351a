"""Fixtures for every test: small videos, made when first asked for."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.readers.media import Media


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the whole suite."""
    parser.addoption("--goldens-dir", default=None, help="replay the recorded cases of this folder instead")


def _load_media() -> ModuleType:
    """Load tests/readers/media.py by path: the tests are no package."""
    name = "tests_readers_media"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / "readers" / "media.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Media:
    """Clips by name, for example ``media("vfr.mkv")``; tests/readers/media.py lists them."""
    made: Media = _load_media().Media(tmp_path_factory.mktemp("media"))
    return made


@pytest.fixture(scope="session")
def media_module() -> ModuleType:
    """The functions that draw, number, write and damage clips."""
    return _load_media()
