"""Where on disk what was computed once is kept. Loads nothing heavy."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

# names another folder than the user's own
VARIABLE = "STREAMPRUNE_CACHE"


def default_cache_folder() -> Path:
    """The folder that the environment variable STREAMPRUNE_CACHE names, else this user's cache folder."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named).expanduser()
    return platformdirs.user_cache_path("streamprune", appauthor=False)


def features_folder(cache_folder: str | Path | None = None) -> Path:
    """Where encoded videos are kept below ``cache_folder``; None is :func:`default_cache_folder`."""
    base = default_cache_folder() if cache_folder is None else Path(cache_folder).expanduser()
    return base / "features"
