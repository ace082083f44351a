"""Models spread over devices, or held in four or eight bits: what can be asked for, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch

from streamprune.errors import (
    InvalidTypeError,
    InvalidValueError,
    MissingDependencyError,
    UnknownNameError,
    UnsupportedModelError,
)
from streamprune.models.devices import choose_device

_SPREADS = ("auto", "balanced", "balanced_low_0", "sequential")
_BITS: dict[str, dict[str, Any]] = {
    "4bit": {"load_in_4bit": True, "bnb_4bit_compute_dtype": "bfloat16"},
    "8bit": {"load_in_8bit": True},
}


def check_device_map(device_map: object) -> None:
    """Raise unless ``device_map`` names devices that are there, or a way to spread a model over them."""
    if device_map is None:
        return
    if find_spec("accelerate") is None:
        raise MissingDependencyError("device_map needs the package accelerate: pip install accelerate")
    if device_map in _SPREADS:
        return
    for place in device_map.values() if isinstance(device_map, Mapping) else [device_map]:
        if place in ("disk", "meta"):
            raise InvalidValueError(
                f"device_map puts a part of the model on {place!r}, where it cannot be read while answering; "
                "use devices, 'auto', or a smaller model (quantization_config='4bit')"
            )
        number = isinstance(place, int) and not isinstance(place, bool)
        if not number and not isinstance(place, str | torch.device):
            raise InvalidTypeError(
                f"device_map must be one of {', '.join(_SPREADS)}, a device, or a dict of module names and "
                f"devices, got {device_map!r}"
            )
        choose_device(f"cuda:{place}" if number else place)  # type: ignore[arg-type]


def read_quantization(given: object) -> Any:
    """What transformers takes for "4bit", "8bit", a dict of options, or a configuration of its own."""
    if isinstance(given, str):
        if given not in _BITS:
            raise UnknownNameError.among("quantization_config", given, list(_BITS))
        return {"quant_method": "bitsandbytes", **_BITS[given]}
    if given is None or isinstance(given, Mapping) or hasattr(given, "quant_method"):
        return given
    raise InvalidTypeError(
        "quantization_config must be '4bit', '8bit', a dict, or a configuration of transformers, got "
        f"{given!r}"
    )


def check_placed(model: Any, name: str) -> None:
    """Raise UnsupportedModelError when a part of the model was left on disk or is moved in for every call."""
    away = [key for key, value in model.named_parameters() if value.device.type == "meta"]
    if away:
        raise UnsupportedModelError(
            f"device_map leaves {len(away)} tensors of {name!r} outside the devices, e.g. {away[0]!r}: there "
            "is not enough memory for all of it. Free some, or load with dtype='bfloat16' or "
            "quantization_config='4bit'"
        )
