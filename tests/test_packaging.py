"""The wheel holds every package, and the generic folder names never become top-level modules."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import streamprune
from streamprune.models.checkpoint_files import EMBEDDED

ROOT = Path(__file__).resolve().parents[1]
MAPPED = ("cache", "pipelines", "readers")


def _setuptools_table() -> dict[str, object]:
    table: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    return table


def _folders_with_init() -> set[str]:
    inner = {
        ".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "streamprune").rglob("__init__.py")
    }
    return inner | {f"streamprune.{name}" for name in MAPPED if (ROOT / name / "__init__.py").exists()}


def test_every_package_is_listed() -> None:
    assert set(_setuptools_table()["packages"]) == _folders_with_init()  # type: ignore[call-overload]


def test_mapped_folders_are_flat_and_mapped() -> None:
    package_dir = _setuptools_table()["package-dir"]
    for name in MAPPED:
        assert package_dir[f"streamprune.{name}"] == name  # type: ignore[index]
        assert not [p for p in (ROOT / name).iterdir() if p.is_dir() and p.name != "__pycache__"]


def test_generic_names_are_not_importable_from_elsewhere(tmp_path: Path) -> None:
    code = f"import sys, streamprune.readers; print([n for n in {MAPPED!r} if n in sys.modules])"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"


def test_wheel_holds_every_module_and_the_weights(tmp_path: Path) -> None:
    """Build from a copy, so that a stale build/ cannot lend modules, and compare file by file."""
    import shutil
    import zipfile

    source = tmp_path / "source"
    ignore = shutil.ignore_patterns(".venv", ".git", "build", "runs", "*.egg-info", "__pycache__", "tests")
    shutil.copytree(ROOT, source, ignore=ignore)
    command = "from setuptools import build_meta; print(build_meta.build_wheel('../wheel'))"
    subprocess.run([sys.executable, "-c", command], cwd=source, check=True, capture_output=True)
    (wheel,) = (tmp_path / "wheel").glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    expected = {str(p.relative_to(ROOT)) for p in (ROOT / "streamprune").rglob("*.py")}
    expected |= {f"streamprune/{p.relative_to(ROOT)}" for name in MAPPED for p in (ROOT / name).glob("*.py")}
    folders = [ROOT / "streamprune" / "embedded" / folder for folder in EMBEDDED.values()]
    expected |= {str(p.relative_to(ROOT)) for folder in folders for p in folder.iterdir() if p.is_file()}
    page = ROOT / "streamprune" / "web" / "static"
    expected |= {str(p.relative_to(ROOT)) for p in page.iterdir()}
    assert expected - packed == set()
    for folder in folders:
        assert str((folder / "model.safetensors").relative_to(ROOT)) in packed


def test_exported_names_are_sorted_and_exist() -> None:
    assert streamprune.__all__ == sorted(streamprune.__all__)
    assert set(streamprune.__all__) == set(streamprune._HOME)
    for name in streamprune.__all__:
        assert getattr(streamprune, name) is not None
