"""Every method, one line each: stage, name, where its class lives, and what the table in the README says.

Rows hold import strings, so listing methods and answering a misspelt name loads no torch.
Users add their own at run time with :func:`register_method`.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from streamprune.errors import InvalidTypeError, InvalidValueError, UnknownNameError

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

    def load(self) -> type:
        """Import and return the method's class."""
        if isinstance(self.target, type):
            return self.target
        module, _, name = self.target.partition(":")
        loaded: type = getattr(importlib.import_module(module), name)
        return loaded


def _row(
    stage: Stage,
    name: str,
    target: str,
    *,
    source: str,
    summary: str,
    needs: tuple[str, ...] = (),
    causal: bool = False,
    may_repeat: bool = False,
) -> MethodInfo:
    return MethodInfo(name, stage, needs, causal, True, source, summary, f"streamprune.{target}", may_repeat)


_ROWS = (
    _row("frames", "uniform", "frames.uniform:Uniform", source="baseline",
         summary="frames evenly spread over the clip"),
    _row("frames", "fps", "frames.fps:Fps", source="baseline", causal=True,
         summary="so many frames per second"),
    _row("frames", "keyframes", "frames.keyframes:Keyframes", source="baseline", causal=True,
         summary="the codec's own keyframes"),
    _row("frames", "timestamps", "frames.timestamps:Timestamps", source="baseline", causal=True,
         summary="frames shown at the given seconds"),
    _row("pre_llm", "none", "pre_llm.none:KeepAll", source="baseline", causal=True,
         summary="keeps every token"),
    _row("pre_llm", "random", "pre_llm.random:RandomTokens", source="baseline",
         summary="seeded uniform choice of tokens"),
    _row("pre_llm", "stride", "pre_llm.stride:Stride", source="baseline",
         summary="every n-th token of the flattened video"),
    _row("pre_llm", "pool", "pre_llm.pool:Pool", source="baseline", causal=True,
         summary="average over blocks of each frame's grid"),
    _row("pre_llm", "fastvid", "pre_llm.fastvid:FastVID", source="arXiv 2503.11187",
         needs=("saliency", "frame_features"),
         summary="dynamic segments, salient tokens, density-based merging"),
)  # fmt: skip

_methods: dict[tuple[Stage, str], MethodInfo] = {(row.stage, row.name): row for row in _ROWS}


def list_methods(stage: Stage | None = None) -> list[MethodInfo]:
    """All registered methods in pipeline order, or those of one ``stage``."""
    if stage is not None:
        check_stage(stage)
    rows = [row for row in _methods.values() if stage in (None, row.stage)]
    return sorted(rows, key=lambda row: STAGES.index(row.stage))


def get_method(stage: Stage, name: str) -> MethodInfo:
    """The row of ``name`` in ``stage``; UnknownNameError suggests near names."""
    check_stage(stage)
    try:
        return _methods[stage, name]
    except (KeyError, TypeError):
        known = [row.name for row in _methods.values() if row.stage == stage]
        raise UnknownNameError.among(f"{stage} method", name, known) from None


def register_method(
    cls: type,
    name: str,
    *,
    stage: Stage = "pre_llm",
    source: str = "user",
    summary: str = "",
) -> MethodInfo:
    """Make ``cls`` available under ``name`` to ``reduce_tokens`` and recipes, in this process.

    ``needs``, ``causal``, ``training_free`` and ``may_repeat`` are read from the class.
    Raises InvalidValueError when the name is taken by another class.
    """
    check_stage(stage)
    if not isinstance(cls, type):
        raise InvalidTypeError(f"cls must be a class, got {cls!r}; pass instances straight to reduce_tokens")
    if not isinstance(name, str) or not name.replace("_", "").isalnum():
        raise InvalidValueError(f"name must be letters, digits and '_', got {name!r}")
    taken = _methods.get((stage, name))
    if taken is not None and taken.target is not cls:
        raise InvalidValueError(f"the {stage} method {name!r} exists already; choose another name")
    if stage == "pre_llm" and not callable(getattr(cls, "reduce", None)):
        raise InvalidTypeError(f"{cls.__name__} must have a method reduce(tokens) -> Reduction")
    info = MethodInfo(
        name,
        stage,
        tuple(getattr(cls, "needs", ())),
        bool(getattr(cls, "causal", False)),
        bool(getattr(cls, "training_free", True)),
        source,
        summary or (cls.__doc__ or "").strip().partition("\n")[0],
        cls,
        bool(getattr(cls, "may_repeat", False)),
    )
    _methods[stage, name] = info
    return info


def unregister_method(name: str, *, stage: Stage = "pre_llm") -> None:
    """Forget a method that :func:`register_method` added."""
    if not isinstance(get_method(stage, name).target, type):
        raise InvalidValueError(f"{name!r} is built in and stays")
    del _methods[stage, name]


def build_method(stage: Stage, name: str, options: Mapping[str, Any]) -> Any:
    """Make the method ``name`` with ``options`` as its fields; unknown ones raise UnknownNameError."""
    cls = get_method(stage, name).load()
    if dataclasses.is_dataclass(cls):
        known = [f.name for f in dataclasses.fields(cls) if f.init and f.name != "budget"]
        for option in options:
            if option != "budget" and option not in known:
                raise UnknownNameError.among(f"option of {name}", option, known)
    return _make(cls, f"{stage} method {name!r}", dict(options))


def _make(cls: type, label: str, options: dict[str, Any]) -> Any:
    """``cls(**options)``; a class of the user's may take no budget as long as nobody sets one."""
    signature = inspect.signature(cls)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    if not takes_any and "budget" not in signature.parameters:
        budget = options.pop("budget", None)
        if budget is not None and not budget.keeps_all:
            raise InvalidValueError(
                f"the {label} takes no budget: leave out keep_ratio and keep_tokens, or let its class take "
                "budget= and ask it how many tokens stay"
            )
    try:
        signature.bind(**options)
    except TypeError as error:
        raise InvalidTypeError(f"the {label} cannot be made from its options: {error}") from error
    return cls(**options)


def check_stage(stage: object) -> None:
    """Raise UnknownNameError unless ``stage`` is one of the six stages."""
    if stage not in STAGES:
        raise UnknownNameError.among("stage", stage, STAGES)
