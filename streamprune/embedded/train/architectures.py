"""The architectures that can be trained, by ``model_type``."""

from __future__ import annotations

from streamprune.embedded.train.architecture import Architecture
from streamprune.embedded.train.llava_onevision import LlavaOnevision
from streamprune.embedded.train.qwen2_5_vl import Qwen25VL

ARCHITECTURES: dict[str, Architecture] = {one.model_type: one for one in (LlavaOnevision(), Qwen25VL())}
