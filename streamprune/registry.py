"""Looking methods up by name, and adding one's own at run time with :func:`register_method`.

The built-in ones are the lines of :mod:`streamprune.catalog`.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from streamprune.catalog import ROWS, STAGES, MethodInfo, Stage
from streamprune.errors import InvalidTypeError, InvalidValueError, UnknownNameError

__all__ = [
    "STAGES",
    "MethodInfo",
    "Stage",
    "build_method",
    "build_methods",
    "check_stage",
    "get_method",
    "get_methods",
    "list_methods",
    "register_method",
    "unregister_method",
]

_methods: dict[tuple[Stage, str], MethodInfo] = {(row.stage, row.name): row for row in ROWS}


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


def get_methods(stage: Stage, names: str) -> list[MethodInfo]:
    """The rows of a name, or of several joined by ``+``, of which all but one must stack.

    Raises UnknownNameError, and InvalidValueError where methods do not go together.
    """
    rows = [get_method(stage, name.strip()) for name in str(names).split("+")]
    alone = [row.name for row in rows if not row.stacks]
    if len(alone) > 1:
        raise InvalidValueError(f"{' and '.join(map(repr, alone))} are both a whole {stage} method; name one")
    for row in rows:
        if rows.count(row) > 1:
            raise InvalidValueError(f"the {stage} method {row.name!r} is named twice in {names!r}")
    return rows


def register_method(
    cls: type,
    name: str,
    *,
    stage: Stage = "pre_llm",
    source: str = "user",
    summary: str = "",
) -> MethodInfo:
    """Make ``cls`` available under ``name`` to ``reduce_tokens`` and recipes, in this process.

    ``needs``, ``causal``, ``training_free``, ``may_repeat`` and ``stacks`` are read from the class.
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
        stacks=bool(getattr(cls, "stacks", False)),
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
    (built,) = build_methods(stage, get_method(stage, name).name, options)
    return built


def build_methods(stage: Stage, names: str, options: Mapping[str, Any]) -> list[Any]:
    """Make each of the methods ``names`` (see :func:`get_methods`) with those of ``options`` that it has."""
    rows = get_methods(stage, names)
    known = {row.name: _option_names(row.load()) for row in rows}
    taken = {name for one in known.values() for name in (options if one is None else one)}
    for option in options:
        if option not in taken:
            raise UnknownNameError.among(f"option of {names}", option, taken - {"budget"})
    built = []
    for row in rows:
        own = known[row.name]
        given = {name: value for name, value in options.items() if own is None or name in own}
        built.append(_make(row.load(), f"{stage} method {row.name!r}", given))
    return built


def _option_names(cls: type) -> set[str] | None:
    """What can be given to ``cls``; None when only calling it tells."""
    if not dataclasses.is_dataclass(cls):
        return None
    return {field.name for field in dataclasses.fields(cls) if field.init} | {"budget"}


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
