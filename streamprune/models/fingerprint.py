"""Whether two loaded models are the same one: what was saved of one can be read by the other."""

from __future__ import annotations

import hashlib
import json

import torch

from streamprune.models.base import VideoFamily

# of every weight, so many values are looked at: a training run changes all of them
_LOOKED_AT = 64
# what says how a model was loaded, not which one it is
_PASSING = ("transformers_version", "_name_or_path", "torch_dtype", "use_cache")


def fingerprint(family: VideoFamily) -> str:
    """A name for the model's weights, their type, its sizes and its way to prepare pictures.

    Values are sampled, so that a large model takes no longer than its number of weights.
    """
    found = hashlib.sha256()
    config = {key: value for key, value in family.model.config.to_dict().items() if key not in _PASSING}
    said = [family.model_type, config, dict(family.checkpoint.video_settings)]
    found.update(json.dumps(said, sort_keys=True, default=str).encode())
    for name, weight in sorted(family.model.state_dict().items()):
        flat = weight.detach().reshape(-1)
        step = max(1, len(flat) // _LOOKED_AT)
        some = flat[::step][: _LOOKED_AT + 1].to("cpu").contiguous()
        found.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        found.update(some.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:32]
