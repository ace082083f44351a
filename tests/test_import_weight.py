"""Light doors stay light: what may not be loaded by them, seen from a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "av", "cv2", "decord", "torchcodec", "faiss")


def _loaded_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*[n for n in {HEAVY!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import streamprune",
        "import streamprune.errors",
        "import streamprune.readers",
        "import streamprune.benchmarks",
        "import streamprune.embedded.world",
        "import streamprune; streamprune.list_methods()",
        "import streamprune.frames.scene, streamprune.frames.quota, streamprune.frames.holitom",
        "import streamprune; streamprune.Recipe.resolve('fastvid').with_budget(keep_ratio=0.1)",
    ],
)
def test_nothing_heavy_is_imported(statement: str) -> None:
    assert _loaded_after(statement) == set()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["ask", "--help"],
        ["methods"],
        ["ask", "x.mp4", "q", "--recipe", "fastvidd"],
        ["ask", "x.mp4", "q", "--keep-ratio", "1.5"],
        ["methods", "--stage", "frames"],
        ["ask", "x.mp4", "q", "--frames", "sceen"],
        ["ask", "x.mp4", "q", "--frames", "vilamp", "--fps", "2"],
        ["ask", "x.mp4", "q", "--frames", "quota", "--num-frames", "0"],
        ["serve", "--help"],
        ["serve", "--port", "70000"],
        ["serve", "--token", "a b"],
        ["batch", "--help"],
        ["batch", "no.jsonl", "-o", "no.jsonl", "--recipe", "fastvidd"],
        ["serve", "--openai", "--max-frames", "0"],
        ["bench", "--shape", "qwen-7b"],
        ["bench", "--recipe", "fastvid", "--keep-ratio", "0"],
    ],
)
def test_help_listing_and_usage_errors_need_no_torch(arguments: list[str]) -> None:
    run = f"import streamprune.cli\ntry: streamprune.cli.app({arguments!r})\nexcept SystemExit: pass\n"
    code = "import io, sys\nout = sys.stdout\nsys.stdout = io.StringIO()\n" + run + "sys.stdout = out"
    assert _loaded_after(code) == set()


def test_the_check_itself_sees_torch() -> None:
    assert "torch" in _loaded_after("import streamprune.pre_llm.base, streamprune.pre_llm.random")
