"""Options and fixtures of the whole suite."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.readers.media import Media


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the whole suite."""
    parser.addoption(
        "--require-live", action="store_true", help="fail where a server or browser for live tests is missing"
    )
    parser.addoption("--goldens-dir", default=None, help="replay the recorded cases of this folder instead")


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the suite encodes is not kept in the cache of whoever runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STREAMPRUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Media:
    """Clips by name, for example ``media("vfr.mkv")``; tests/readers/media.py lists them."""
    from tests.readers.media import Media

    return Media(tmp_path_factory.mktemp("media"))
