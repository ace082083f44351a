"""Every built-in method, one line each in the file of its stage: name, class, what tables say.

Rows hold import strings, so listing methods and answering a misspelt name loads no torch.
"""

from __future__ import annotations

from streamprune.catalog import encoder, frames, in_llm, kv, memory, pre_llm
from streamprune.catalog.info import STAGES, MethodInfo, Stage

__all__ = ["ROWS", "STAGES", "MethodInfo", "Stage"]

ROWS = (*frames.ROWS, *encoder.ROWS, *pre_llm.ROWS, *in_llm.ROWS, *kv.ROWS, *memory.ROWS)
