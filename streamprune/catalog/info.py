"""What the registry knows about a method, and the one way to write it down."""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass
from typing import Literal, get_args

Stage = Literal["frames", "encoder", "pre_llm", "in_llm", "kv", "memory"]
STAGES: tuple[Stage, ...] = get_args(Stage)


@dataclass(frozen=True)
class MethodInfo:
    """One row of the registry.

    Attributes:
        name: what users type.
        stage: where in the pipeline it works.
        needs: names of the signals it reads.
        causal: usable on a live stream.
        training_free: works without training anything.
        source: where the method was published, or "baseline".
        summary: one line for the table.
        target: ``module:Class``, or the class itself for methods registered at run time.
        may_repeat: the released method can keep the same token twice.
        families: the model families it runs on, by ``model_type``; empty = every family.
        not_on: families it does not run on, where it runs on every other.
        stacks: it stands beside another method of its stage: ``snapkv+kivi``.
    """

    name: str
    stage: Stage
    needs: tuple[str, ...]
    causal: bool
    training_free: bool
    source: str
    summary: str
    target: str | type = dataclasses.field(repr=False)
    may_repeat: bool = False
    families: tuple[str, ...] = ()
    stacks: bool = False
    not_on: tuple[str, ...] = ()

    def runs_on(self, family: str) -> bool:
        """Whether it runs on models of the type ``family``."""
        return family not in self.not_on and (not self.families or family in self.families)

    def load(self) -> type:
        """Import and return the method's class."""
        if isinstance(self.target, type):
            return self.target
        module, _, name = self.target.partition(":")
        loaded: type = getattr(importlib.import_module(module), name)
        return loaded


# families whose language model has layers that cannot hold fewer tokens than those below: recurrent ones,
# sliding windows, layers that share the keys of others
_UNCUT = ("minicpmv4_6", "qwen3_5")

# families whose language model turns a part of each head only
TURNED_IN_PART = ("minicpmv4_6", "qwen3_5")

# families whose tower can be run layer by layer
_IN_THE_TOWER = ("internvl", "llava_next_video", "llava_onevision", "smolvlm")

# families whose tower can compute some tokens of a frame without the others
TOWER_IN_PARTS = (
    "internvl", "llava_next_video", "llava_onevision", "qwen2_5_omni", "qwen2_5_vl", "qwen2_vl", "qwen3_5",
    "qwen3_vl", "smolvlm", "video_llama_3",
)  # fmt: skip


def method_row(
    stage: Stage,
    name: str,
    target: str,
    *,
    source: str,
    summary: str,
    needs: tuple[str, ...] = (),
    causal: bool = False,
    may_repeat: bool = False,
    stacks: bool = False,
    not_on: tuple[str, ...] = (),
    families: tuple[str, ...] = (),
) -> MethodInfo:
    families = _IN_THE_TOWER if stage == "encoder" and not families else families
    not_on = _UNCUT if stage == "in_llm" else not_on
    target = f"streamprune.{target}"
    return MethodInfo(
        name, stage, needs, causal, True, source, summary, target, may_repeat, families, stacks, not_on
    )
