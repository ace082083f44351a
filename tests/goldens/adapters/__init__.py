"""How each folder of recorded cases is replayed: one row per folder, one file per family of methods."""

from __future__ import annotations

from tests.goldens.adapters import (
    attention,
    attention_more,
    diversity,
    encoder_stage,
    fastvid,
    in_llm,
    kv,
    matching,
    memory,
    prompt_wide,
    segments,
    temporal,
)

ADAPTERS = {
    **fastvid.ADAPTERS,
    **attention.ADAPTERS,
    **attention_more.ADAPTERS,
    **diversity.ADAPTERS,
    **encoder_stage.ADAPTERS,
    **in_llm.ADAPTERS,
    **kv.ADAPTERS,
    **matching.ADAPTERS,
    **memory.ADAPTERS,
    **prompt_wide.ADAPTERS,
    **segments.ADAPTERS,
    **temporal.ADAPTERS,
}
