"""Qwen3.5: the videos and prompts of Qwen3-VL, in a language model of which few layers attend."""

from __future__ import annotations

from typing import ClassVar

from streamprune.models.qwen3_vl import Qwen3VL


class Qwen35(Qwen3VL):
    """A stock ``Qwen3_5ForConditionalGeneration``.

    Nothing but the features goes from the tower to the language model. Three of four layers of that are
    recurrent: they keep one state however many tokens there are, so that a kv method has the other layers
    alone to act on. A token that was dropped is not masked for them: it never was.

    Not supported: methods inside the language model below a recurrent layer.
    """

    model_type: ClassVar[str] = "qwen3_5"


FAMILY = Qwen35
