"""What lies in a model's folder (or hub repository), and what is wrong with it, in one sentence."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from safetensors import SafetensorError, safe_open

from streamprune.errors import ModelNotFoundError, ModelWeightsError, UnsupportedModelError
from streamprune.models.siglip_head import find_head_tensors

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
HEAD = "pooling_head.safetensors"
# models that ship with the package, and the folder of each beside its training
EMBEDDED = {"embedded": "weights", "embedded-qwen": "weights_qwen"}
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def embedded_folder(name: str = "embedded") -> Path:
    """Folder of a small model that ships with the package, one of :data:`EMBEDDED`."""
    folder = Path(str(files("streamprune"))) / "embedded" / EMBEDDED[name]
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(
            f"the model {name!r} is missing from this installation ({folder}); reinstall streamprune"
        )
    return folder


def resolve_name(name: str | Path) -> str:
    """Turn what the user asked for into a folder that is there or a hub name.

    The names of :data:`EMBEDDED` are the shipped models; "owner/name" is a hub name unless a folder is called
    so. ModelNotFoundError for anything else.
    """
    if isinstance(name, str) and name in EMBEDDED:
        return str(embedded_folder(name))
    path = Path(name).expanduser()
    if path.is_dir() and name != "":
        return str(path)
    if path.is_file():
        raise ModelNotFoundError(
            f"the model {str(name)!r} is a file; give the folder that holds config.json and weights"
        )
    if (
        isinstance(name, str)
        and name.count("/") == 1
        and not name.startswith((".", "~", "/"))
        and name[-1] != "/"
    ):
        return name
    raise ModelNotFoundError(
        f"there is no model {str(name)!r}: neither {', '.join(map(repr, EMBEDDED))}, nor a folder, nor a hub "
        "name 'owner/name'"
    )


def read_config(name: str) -> dict[str, Any]:
    """Content of ``config.json``; ModelNotFoundError for none, UnsupportedModelError for no JSON."""
    found = find_file(name, "config.json")
    if found is None:
        if Path(name).is_dir():
            raise ModelNotFoundError(f"the folder {name!r} holds no config.json, so it is not a model")
        raise ModelNotFoundError(
            f"no model {name!r} was found on the hub or in its local cache, or the hub cannot be reached; "
            "check the name, log in if it is gated, or download it and give the folder"
        )
    config = _read_json(found)
    if not isinstance(config, dict):
        raise UnsupportedModelError(f"{found} must hold a JSON object, got {type(config).__name__}")
    return config


def read_video_settings(name: str) -> dict[str, Any]:
    """The video processor's settings, from where stock transformers looks for them; {} for none."""
    for file_name, part in (
        ("processor_config.json", "video_processor"),
        ("video_preprocessor_config.json", None),
        ("preprocessor_config.json", None),
    ):
        found = find_file(name, file_name)
        settings = _read_json(found) if found is not None else None
        if part is not None and isinstance(settings, dict):
            settings = settings.get(part)
        if isinstance(settings, dict):
            return settings
    return {}


def read_chat_template(name: str) -> str | None:
    """Template of older folders, which keep it in a JSON file that tokenizers do not read."""
    found = find_file(name, "chat_template.json")
    content = _read_json(found) if found is not None else None
    return content.get("chat_template") if isinstance(content, dict) else None


def find_file(name: str, file_name: str) -> Path | None:
    """Path of one file of a folder or hub repository, None when it is not there."""
    if Path(name).is_dir():
        path = Path(name) / file_name
        return path if path.is_file() else None
    from transformers.utils import cached_file

    try:
        found = cached_file(name, file_name, **hub_options())
    except OSError:
        return None
    return None if found is None else Path(found)


def hub_options() -> dict[str, Any]:
    """Options for everything that may ask the hub: only the local cache when its host cannot be resolved.

    Without this every single file is tried for half a minute on a machine that is offline.
    """
    from huggingface_hub import constants

    host = urlsplit(constants.ENDPOINT).hostname
    if getproxies():  # then the proxy resolves names
        return {}
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return {"local_files_only": True}
    return {}


def check_weights(folder: Path) -> None:
    """Raise ModelWeightsError unless every weight file of ``folder`` is a whole safetensors file."""
    for path in _weight_files(folder):
        open_tensors(path)


def _weight_files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        index = _read_json(folder / INDEX)
        shards = (
            sorted(set(index["weight_map"].values()))
            if isinstance(index, dict) and "weight_map" in index
            else []
        )
        missing = [shard for shard in shards if not (folder / shard).is_file()]
        if not shards or missing:
            raise ModelWeightsError(
                f"{folder / INDEX} names weight files that are missing: {', '.join(missing) or 'all'}"
            )
        return [folder / shard for shard in shards]
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    if pickles:
        raise ModelWeightsError(
            f"the folder {str(folder)!r} holds only pickled weights ({', '.join(pickles[:3])}). Loading a "
            "pickle can run any code, so only safetensors are read; load it where you trust it and save it "
            "again with save_pretrained, which writes safetensors"
        )
    raise ModelWeightsError(f"the folder {str(folder)!r} holds no weights ({WEIGHTS} or {INDEX})")


def open_tensors(path: Path) -> Any:
    """Open a safetensors file for reading; ModelWeightsError when it is damaged or something else."""
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ModelWeightsError(
            f"{path} is not a whole safetensors file ({error}); download or save it again"
        ) from error


def read_pooling_head(where: str | Path | None, model_name: str) -> dict[str, torch.Tensor] | None:
    """Tensors of a SigLIP pooling head under their stock names.

    Args:
        where: a .safetensors file, or a folder or hub name of a SigLIP checkpoint; None takes the file that
            lies beside the weights of ``model_name``, if any.
    """
    if where is None:
        found = find_file(model_name, HEAD)
        return None if found is None else _head_tensors([found], str(found))
    path = Path(where).expanduser()
    if path.is_file():
        if path.suffix != ".safetensors":
            raise ModelWeightsError(
                f"pooling_head={str(where)!r} must be a .safetensors file or a folder that holds one"
            )
        return _head_tensors([path], str(where))
    name = resolve_name(where)
    beside = find_file(name, HEAD)
    if beside is not None:
        return _head_tensors([beside], str(where))
    if Path(name).is_dir():
        return _head_tensors(_weight_files(Path(name)), str(where))
    weights = find_file(name, WEIGHTS)
    return _head_tensors([weights] if weights else [], str(where))


def _head_tensors(paths: Sequence[Path], where: str) -> dict[str, torch.Tensor]:
    opened = [open_tensors(path) for path in paths]
    holder = {key: tensors for tensors in opened for key in tensors.keys()}  # noqa: SIM118 - not a dict
    names = find_head_tensors(list(holder))
    if not names:
        raise ModelWeightsError(
            f"{where} holds no SigLIP pooling head: tensors named head.probe, head.attention.in_proj_weight, "
            "post_layernorm.weight and so on, with or without the prefix 'vision_model.', are needed"
        )
    return {name: holder[key].get_tensor(key) for name, key in names.items()}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UnsupportedModelError(f"cannot read {path}: {error}") from error
