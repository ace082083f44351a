"""From a name or folder to a model on its device, ready to encode and answer.

Transformers is imported inside the functions of this room, never on top: a broken torchvision has to be
hidden before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from streamprune.errors import (
    InvalidTypeError,
    InvalidValueError,
    MissingDependencyError,
    ModelNotFoundError,
    ModelWeightsError,
    UnknownNameError,
    UnsupportedModelError,
)
from streamprune.models.base import Checkpoint, VideoFamily
from streamprune.models.checkpoint_files import (
    check_weights,
    hub_options,
    read_chat_template,
    read_config,
    read_pooling_head,
    read_video_settings,
    resolve_name,
)
from streamprune.models.devices import choose_device, choose_dtype, out_of_memory_explained
from streamprune.models.families import family_class
from streamprune.models.placement import check_device_map, check_placed, read_quantization
from streamprune.models.torchvision_guard import hide_broken_torchvision

# hub kernels download and run code, so only what is installed can be chosen
ATTENTION = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")


def load_model(
    name: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    attn_implementation: str | None = None,
    device_map: Any = None,
    quantization_config: Any = None,
    pooling_head: str | Path | None = None,
) -> VideoFamily:
    """Load a model of a supported family from safetensors; never pickles, never code from the checkpoint.

    Args:
        name: "embedded" or "embedded-qwen" (the small shipped models), a local folder, or a hub name
            "owner/name".
        device: "auto" (default: the first GPU, else the CPU), "cpu", "cuda", "cuda:1", "mps".
        dtype: "float32", "bfloat16", "float16", "auto" (as stored); default: float32 on the CPU, else as
            stored.
        attn_implementation: one of ATTENTION; default: what transformers prefers.
        device_map: as in transformers, to spread a model over devices (needs accelerate); not with
            ``device``. All of the model has to fit them.
        quantization_config: "4bit" or "8bit" (needs bitsandbytes), or as in transformers.
        pooling_head: SigLIP checkpoint (folder, .safetensors file or hub name) whose attention-pooling head
            gives the signals ``saliency`` and ``frame_features``; default: ``pooling_head.safetensors``
            beside the weights, if it is there.

    Raises:
        ModelNotFoundError, ModelWeightsError, UnsupportedModelError, DeviceError, MissingDependencyError.
    """
    _check_options(name, device, device_map, attn_implementation)
    hide_broken_torchvision()
    chosen = choose_device(device)
    number_format = choose_dtype(dtype, chosen)
    found = resolve_name(name)
    family = family_class(read_config(found).get("model_type"), str(name))
    if Path(found).is_dir():
        check_weights(Path(found))
    options = {
        "dtype": number_format,
        "attn_implementation": attn_implementation,
        "quantization_config": read_quantization(quantization_config),
        "device_map": device_map,
    }
    head = read_pooling_head(pooling_head, found)
    tokenizer = _load_tokenizer(found)
    with out_of_memory_explained(f"loading {str(name)!r}"):
        model = _load_weights(found, family.auto_class(), options)
        if device_map is None and quantization_config is None:
            model = model.to(chosen)
        check_placed(model, str(name))
        return family(Checkpoint(str(name), model.eval(), tokenizer, read_video_settings(found), head))


def _check_options(name: object, device: object, device_map: object, attn_implementation: str | None) -> None:
    if not isinstance(name, (str, Path)):
        raise InvalidTypeError(
            f"name must be 'embedded', 'embedded-qwen', a folder or a hub name, got {name!r}"
        )
    if device is not None and device_map is not None:
        raise InvalidValueError(f"give device or device_map, not both (got {device!r} and {device_map!r})")
    check_device_map(device_map)
    if attn_implementation is not None and attn_implementation not in ATTENTION:
        raise UnknownNameError.among("attn_implementation", attn_implementation, ATTENTION)


def _where(name: str) -> dict[str, Any]:
    return {} if Path(name).is_dir() else hub_options()


def _load_weights(name: str, auto_class: Any, options: dict[str, Any]) -> Any:
    try:
        with _without_progress_bars():
            model, report = auto_class.from_pretrained(
                name,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                # reported below, by name, instead of in a table on the log
                ignore_mismatched_sizes=True,
                **{option: value for option, value in options.items() if value is not None},
                **_where(name),
            )
    except ImportError as error:
        raise MissingDependencyError(
            f"loading {name!r} needs a package that is not installed: {error}"
        ) from error
    except torch.OutOfMemoryError:
        raise
    except (SafetensorError, OSError) as error:
        raise ModelWeightsError(f"the weights of {name!r} cannot be read: {error}") from error
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        if "memory" in str(error):
            raise
        raise UnsupportedModelError(
            f"the model {name!r} cannot be built from its config and weights: {error}"
        ) from error
    _check_report(name, report)
    return model


def _check_report(name: str, report: Any) -> None:
    """Raise ModelWeightsError for tensors that transformers has filled with random numbers."""
    mismatched = sorted(entry[0] for entry in report["mismatched_keys"])
    if mismatched:
        raise ModelWeightsError(
            f"the weights of {name!r} do not fit its config.json: {len(mismatched)} tensors have another "
            f"shape, e.g. {mismatched[0]!r}"
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelWeightsError(
            f"the weights of {name!r} lack {len(missing)} tensors, e.g. {missing[0]!r}; "
            "download or save them again"
        )


def _load_tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **_where(name))
    except Exception as error:  # whatever a damaged tokenizer file sets off inside the tokenizers library
        raise ModelNotFoundError(
            f"the model {name!r} has no tokenizer that can be loaded: {error}"
        ) from error
    if tokenizer.chat_template is None:
        tokenizer.chat_template = read_chat_template(name)
    if tokenizer.chat_template is None:
        raise UnsupportedModelError(
            f"the model {name!r} has no chat template (chat_template.jinja or tokenizer_config.json), so no "
            "prompt can be built"
        )
    return tokenizer


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
