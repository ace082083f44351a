"""streamprune as a model of lmms-eval: ``lmms_eval --model streamprune --model_args recipe=...``.

lmms-eval finds :func:`manifest` through the entry point ``lmms_eval.models`` of this package's metadata.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamprune.errors import MissingDependencyError

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


def manifest() -> ModelManifest:
    """Where lmms-eval finds the class of the model. Raises MissingDependencyError without lmms-eval."""
    try:
        from lmms_eval.models.registry_v2 import ModelManifest
    except ImportError as error:
        raise MissingDependencyError.extra(
            "lmms-eval", "eval", "streamprune as a model of lmms-eval"
        ) from error
    return ModelManifest(
        model_id="streamprune",
        chat_class_path="streamprune.integrations.lmms_eval_model.StreampruneModel",
    )
