"""A torchvision that is installed but cannot be imported stops transformers from loading any model; hide it.

It happens when its wheel was built for another torch (a CUDA wheel beside a CPU torch). Nothing here needs
it: pictures are prepared by ``preprocessing``. To a process that cannot import it, it is as good as absent.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys

logger = logging.getLogger("streamprune.models")


def hide_broken_torchvision() -> bool:
    """Make a torchvision that fails to import look absent to this process; return whether it does.

    Has to run before transformers first asks whether torchvision is there.
    """
    if "torchvision" in sys.modules:
        return sys.modules["torchvision"] is None
    if importlib.util.find_spec("torchvision") is None:
        return False
    try:
        importlib.import_module("torchvision")
    except Exception as error:  # whatever a wheel for another torch runs into
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        # the import system's own way of saying "not there"
        sys.modules["torchvision"] = None  # type: ignore[assignment]
        logger.warning("torchvision is installed but does not import (%s); going on without it", error)
        return True
    return False
