"""Imports run one way. A comma in a layer means: same layer, may not import each other."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# from the bottom up; a module may import what stands above it in this list, and its own noun
LAYERS: list[tuple[str, ...]] = [
    ("errors",),
    ("checks", "reduction"),
    ("tokens", "embedded.world"),
    ("readers", "benchmarks"),
    ("budget", "ops", "positions"),
    ("frames", "encoder", "pre_llm", "in_llm", "kv"),
    ("catalog",),
    ("registry",),
    ("recipe", "reduce"),
    ("cache",),
    ("models",),
    ("metrics",),
    ("report",),
    ("pipelines",),
    ("embedded",),
    ("web", "integrations"),
    ("cli", "__init__"),
    ("__main__",),
]
TRANSFORMERS_ROOMS = {"models", "cache", "pipelines", "embedded"}


def _modules() -> list[tuple[str, Path]]:
    """(dotted name below streamprune, file) of every module."""
    found = []
    for folder, prefix in (
        (ROOT / "streamprune", ()),
        *((ROOT / n, (n,)) for n in ("readers", "cache", "pipelines")),
    ):
        for path in sorted(folder.rglob("*.py")):
            parts = (*prefix, *path.relative_to(folder).with_suffix("").parts)
            if parts[-1] == "__init__" and len(parts) > 1:
                parts = parts[:-1]
            found.append((".".join(parts), path))
    return found


def _room(module: str) -> tuple[int, str]:
    """Layer number and room of a dotted name below streamprune."""
    parts = module.split(".")
    if parts[:2] == ["embedded", "world"]:
        return next(
            level for level, rooms in enumerate(LAYERS) if "embedded.world" in rooms
        ), "embedded.world"
    for level, rooms in enumerate(LAYERS):
        if parts[0] in rooms:
            return level, parts[0]
    raise AssertionError(f"{module} has no place in LAYERS")


def _imports(path: Path) -> list[str]:
    """Dotted names below streamprune that a file imports, functions included, type checking excluded."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: list[str] = []
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            skipped.update(n for child in node.body for n in ast.walk(child))
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "streamprune":
                names += [f"streamprune.{alias.name}" for alias in node.names]
            else:
                names.append(node.module)
    return names


def test_imports_run_one_way() -> None:
    wrong = []
    for module, path in _modules():
        level, room = _room(module)
        for name in _imports(path):
            if not name.startswith("streamprune."):
                continue
            other_level, other_room = _room(name.removeprefix("streamprune."))
            if other_level > level or (other_level == level and other_room != room):
                wrong.append(f"{module} ({room}) imports {name} ({other_room})")
    assert wrong == []


def test_only_the_model_rooms_know_transformers() -> None:
    wrong = [
        module
        for module, path in _modules()
        if any(name.split(".")[0] == "transformers" for name in _imports(path))
        and module.split(".")[0] not in TRANSFORMERS_ROOMS
    ]
    assert wrong == []


def test_files_and_functions_stay_small() -> None:
    too_long = []
    for module, path in _modules():
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > 320:
            too_long.append(f"{module}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
                lines = node.end_lineno - node.lineno + 1
                if lines > 65:
                    too_long.append(f"{module}.{node.name}: {lines} lines")
    assert too_long == []


def test_no_drawers_for_odds_and_ends() -> None:
    names = {path.name for _, path in _modules()}
    assert names.isdisjoint({"utils.py", "helpers.py", "common.py", "misc.py"})
