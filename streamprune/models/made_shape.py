"""Models of given shapes with random weights, for measuring speed where no weights are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from streamprune.errors import DeviceError
from streamprune.models.base import Checkpoint, VideoFamily
from streamprune.models.devices import choose_device, choose_dtype, out_of_memory_explained
from streamprune.models.families import family_class
from streamprune.models.made_tokenizer import END, MARKS, made_tokenizer
from streamprune.models.shapes import Shape
from streamprune.models.torchvision_guard import hide_broken_torchvision

# random numbers that weights are filled with again and again; a prime, so that no two rows begin alike
_NUMBERS = 1_000_003
_MEMORY = Path("/proc/meminfo")


def made_shape(
    shape: Shape,
    *,
    layers: int | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> VideoFamily:
    """A model of ``shape``, or of its first ``layers`` layers, whose answers mean nothing and never end.

    Weights are float32 on the CPU and bfloat16 elsewhere unless ``dtype`` says otherwise.

    Raises InvalidValueError for ``layers`` out of range, DeviceError when the weights do not fit.
    """
    chosen = choose_device(device)
    number_format = choose_dtype(dtype, chosen)
    if isinstance(number_format, str):
        number_format = torch.bfloat16
    empty = empty_model(shape, layers)
    weights = sum(weight.numel() for weight in empty.parameters()) * number_format.itemsize
    _check_room(shape.name, weights, chosen)
    with out_of_memory_explained(f"the shape {shape.name!r}"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with _number_format(number_format), _without_weights():
            model = _built(shape, layers, chosen)
        numbers = torch.randn(_NUMBERS).to(chosen, number_format)
        for name, weight in model.named_parameters():
            _fill(name, weight, numbers)
    marks = MARKS[shape.model_type]
    with torch.no_grad():
        model.get_output_embeddings().weight[: marks.count] = 0  # marks are never an answer
    # an id that cannot come up ends no answer
    model.generation_config.eos_token_id = int(model.config.get_text_config().vocab_size)
    model.generation_config.pad_token_id = 0
    name = shape.name if layers is None else f"{shape.name}, {layers} of {shape.layers} layers"
    head = _pooling_head(shape, numbers) if shape.model_type == "llava_onevision" else None
    tokenizer = made_tokenizer(shape.model_type)
    return family_class(shape.model_type, name)(
        Checkpoint(name, model.eval(), tokenizer, dict(shape.settings), head)
    )


def empty_model(shape: Shape, layers: int | None = None) -> Any:
    """The same model without memory behind its weights: to count them."""
    return _built(shape, layers, torch.device("meta"))


def _built(shape: Shape, layers: int | None, device: torch.device) -> Any:
    hide_broken_torchvision()
    from transformers import AutoConfig

    text, vision = shape.sliced(layers)
    text |= {"eos_token_id": END, "pad_token_id": 0, "bos_token_id": 2}
    ids = MARKS[shape.model_type].numbered()
    auto = family_class(shape.model_type, shape.name).auto_class()
    # of families that load a part of a checkpoint it is that part's own class
    part = getattr(auto, "config_class", None)
    kind = type(AutoConfig.for_model(shape.model_type)) if part is None else part
    config = kind(text_config=text, vision_config=vision, **shape.top, **ids)
    with device:
        model = auto.from_config(config) if part is None else auto(config)
    model.tie_weights()
    return model


@contextmanager
def _number_format(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _without_weights() -> Iterator[None]:
    """Build models without filling them: what takes minutes for billions of numbers is done by _fill."""
    from transformers.initialization import no_init_weights

    with no_init_weights():
        yield


@torch.no_grad()
def _fill(name: str, weight: torch.Tensor, numbers: torch.Tensor) -> None:
    """Random matrices that keep the size of what goes through them, plain norms, no biases."""
    if weight.ndim < 2:
        weight.fill_(0.0 if name.endswith("bias") else 1.0)
        return
    flat, scaled = weight.view(-1), numbers * (weight[0].numel() ** -0.5)
    whole = len(flat) - len(flat) % len(scaled)
    flat[:whole].view(-1, len(scaled)).copy_(scaled.expand(whole // len(scaled), -1))
    flat[whole:] = scaled[: len(flat) - whole]


def _pooling_head(shape: Shape, numbers: torch.Tensor) -> dict[str, torch.Tensor]:
    """The attention-pooling head that a SigLIP tower of this width has, for signals that come from it."""
    width, inner = int(shape.vision["hidden_size"]), int(shape.vision["intermediate_size"])
    sizes = {
        "post_layernorm.weight": (width,),
        "post_layernorm.bias": (width,),
        "head.probe": (1, 1, width),
        "head.attention.in_proj_weight": (3 * width, width),
        "head.attention.in_proj_bias": (3 * width,),
        "head.attention.out_proj.weight": (width, width),
        "head.attention.out_proj.bias": (width,),
        "head.layernorm.weight": (width,),
        "head.layernorm.bias": (width,),
        "head.mlp.fc1.weight": (inner, width),
        "head.mlp.fc1.bias": (inner,),
        "head.mlp.fc2.weight": (width, inner),
        "head.mlp.fc2.bias": (width,),
    }
    head = {
        name: torch.empty(size, dtype=numbers.dtype, device=numbers.device) for name, size in sizes.items()
    }
    for name, weight in head.items():
        _fill(name, weight, numbers)
    return head


def _check_room(name: str, weight_bytes: int, device: torch.device) -> None:
    """Raise DeviceError unless so many bytes are free: a machine that swaps is of no use to anybody."""
    free = _free_bytes(device)
    if free is not None and weight_bytes > free:
        raise DeviceError(
            f"the weights of the shape {name!r} take {weight_bytes / 2**30:.1f} GiB and {device} has "
            f"{free / 2**30:.1f} GiB free; use --layers for a slice of it, or --dtype bfloat16"
        )


def _free_bytes(device: torch.device) -> int | None:
    """None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu" or not _MEMORY.exists():
        return None
    lines = _MEMORY.read_text(encoding="utf-8").splitlines()
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024 * int(found[0]) if found else None
