"""On PYTHONPATH of the vLLM tests: lets a torchvision built for CUDA import beside a CPU torch.

Its wheel wants two operators that its compiled part would bring; nothing here calls them.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any

_kept: list[Any] = []  # a library that is collected takes its operators along


class _DeclareBeforeTorchvision(MetaPathFinder):
    """Finds nothing; declares the operators when torchvision is first asked for."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname == "torchvision" and not _kept:
            import torch

            library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
            _kept.append(library)
            for name in ("nms", "qnms"):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return None


sys.meta_path.insert(0, _DeclareBeforeTorchvision())
