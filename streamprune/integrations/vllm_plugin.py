"""Where vLLM comes in: the entry point ``vllm.general_plugins``, called in every process that it starts.

Being installed changes nothing. Only where STREAMPRUNE_VLLM_METHOD names a pre-LLM method are some of vLLM's
model classes replaced by subclasses that ask this method which video tokens stay; how many, vLLM's own
``--video-pruning-rate`` says (the share REMOVED: 0.75 is keep_ratio 0.25).

    STREAMPRUNE_VLLM_METHOD=divprune vllm serve Qwen/Qwen2.5-VL-7B-Instruct --video-pruning-rate 0.75
    STREAMPRUNE_VLLM_METHOD=random STREAMPRUNE_VLLM_OPTIONS='{"seed": 3}' vllm serve ...
"""

from __future__ import annotations

import json
import logging
import os
from functools import lru_cache
from typing import TYPE_CHECKING

from streamprune.errors import InvalidValueError

if TYPE_CHECKING:
    from streamprune.integrations.vllm_pruner import VideoPruner

logger = logging.getLogger("streamprune.integrations.vllm")

METHOD = "STREAMPRUNE_VLLM_METHOD"
OPTIONS = "STREAMPRUNE_VLLM_OPTIONS"

# vLLM's name of a model class -> the module of our subclass of that name, imported with the model
SERVED_MODELS = {
    "Qwen2_5_VLForConditionalGeneration": "streamprune.integrations.vllm_qwen2_5_vl",
    "Qwen3VLForConditionalGeneration": "streamprune.integrations.vllm_qwen3_vl",
}


def register() -> None:
    """Put our subclasses in vLLM's registry where a method was chosen; as often as it likes to call.

    Raises:
        UnknownNameError, InvalidValueError, InvalidTypeError: the environment names a method or options that
            do not exist or that vLLM cannot serve.
    """
    if chosen_pruner() is None:
        return
    from vllm import ModelRegistry

    for name, module in SERVED_MODELS.items():
        ModelRegistry.register_model(name, f"{module}:{name}")
    logger.info("%s prunes videos for %s", os.environ[METHOD], ", ".join(SERVED_MODELS))


def chosen_pruner() -> VideoPruner | None:
    """The method that the environment of this process names, or None; raises what :func:`register` does."""
    return _read(os.environ.get(METHOD, "").strip(), os.environ.get(OPTIONS, "").strip())


@lru_cache(maxsize=16)
def _read(method: str, options: str) -> VideoPruner | None:
    if not method:
        if options:
            raise InvalidValueError(f"{OPTIONS} is {options!r}, but {METHOD} names no method; set both")
        return None
    try:
        given = json.loads(options or "{}")
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise InvalidValueError(f"""{OPTIONS} must be a JSON object, e.g. '{{"seed": 3}}', got {options!r}""")
    from streamprune.integrations.vllm_pruner import VideoPruner

    return VideoPruner(method=method, options=given)
