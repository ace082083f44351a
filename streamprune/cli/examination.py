"""What this machine and this installation can do, found out part by part and without a network."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal

from streamprune.cache.cache_folder import default_cache_folder, features_folder

State = Literal["ok", "missing", "broken"]

# video codecs that most files and cameras use
_CODECS = ("h264", "hevc", "vp9", "av1")
# packages that transformers asks for with an argument of load(), and what for
_FOR_LOADING = {"accelerate": "device_map", "bitsandbytes": "quantization_config='4bit' or '8bit'"}
# extras for whoever works on the package
_NOT_FOR_USERS = frozenset({"dev"})
_CLIP_SEED, _CLIP_FRAMES = 9_000, 16


@dataclass(frozen=True)
class Finding:
    """One fact.

    Attributes:
        area: what it is about, e.g. "video".
        name: the part in question.
        state: "missing" parts are optional, "broken" ones are needed.
        detail: what was found.
        hint: what to do, where there is something to do.
    """

    area: str
    name: str
    state: State
    detail: str
    hint: str = ""

    def to_dict(self) -> dict[str, str]:
        """Plain values by name, ready for JSON."""
        return asdict(self)


def examine(cache_folder: Path | None = None) -> Iterator[Finding]:
    """Every finding, in order; a part that fails in an unknown way is "broken", and the others go on.

    Args:
        cache_folder: where encoded videos are kept on disk; None is :func:`default_cache_folder`.
    """
    folder = default_cache_folder() if cache_folder is None else cache_folder
    parts: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("installation", installation),
        ("devices", devices),
        ("video", codecs),
        ("extras", extras),
        ("attention", attention),
        ("families", families),
        ("models", models),
        ("disk", lambda: disk(folder)),
    ]
    for area, part in parts:
        try:
            yield from part()
        except Exception as error:  # whatever a half-installed package sets off
            yield Finding(area, area, "broken", f"{type(error).__name__}: {error}", "install it again")


def installation() -> Iterator[Finding]:
    """Python, and every package that is needed, each in the range that is supported and importable."""
    version = platform.python_version()
    fine = sys.version_info >= (3, 11)
    yield Finding("installation", "python", "ok" if fine else "broken", version, "" if fine else "use 3.11+")
    for line, extra in _requirements():
        if extra is None:
            yield _needed(line)


def _requirements() -> Iterator[tuple[str, str | None]]:
    """(requirement, its extra or None) of this package."""
    for line in importlib.metadata.requires("streamprune") or ():
        requirement, _, marker = line.partition(";")
        yield requirement.strip(), marker.split('"')[1] if "extra ==" in marker else None


def _needed(line: str) -> Finding:
    from packaging.requirements import Requirement

    requirement = Requirement(line)
    name, install = requirement.name, f"pip install '{line}'"
    version = _version(name)
    if version is None:
        return Finding("installation", name, "broken", "not installed", install)
    if not requirement.specifier.contains(version, prereleases=True):
        return Finding(
            "installation", name, "broken", f"{version} is not in {requirement.specifier}", install
        )
    try:
        import_module({"pillow": "PIL", "tomli-w": "tomli_w"}.get(name, name))
    except Exception as error:  # a package may fail in any way while it is imported
        detail = f"{version} cannot be imported: {type(error).__name__}: {error}"
        return Finding("installation", name, "broken", detail, install)
    return Finding("installation", name, "ok", version)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def devices() -> Iterator[Finding]:
    """How torch was built, and what it can compute on."""
    import torch

    kind = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    yield Finding("devices", "torch build", "ok", f"{torch.__version__}, {kind}")
    yield Finding("devices", "cpu", "ok", f"{platform.machine()}, {torch.get_num_threads()} threads")
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        found = torch.cuda.get_device_properties(number)
        bf16 = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16"
        detail = f"{found.name}, {found.total_memory / 2**30:.0f} GB, {bf16}"
        yield Finding("devices", f"cuda:{number}", "ok", detail)
    if not torch.cuda.is_available():
        hint = "" if torch.version.cuda is None else "a driver or a GPU is missing"
        yield Finding("devices", "cuda", "missing", "no GPU that torch can use", hint)
    if torch.backends.mps.is_available():
        yield Finding("devices", "mps", "ok", "Apple GPU")


def codecs() -> Iterator[Finding]:
    """What the default reader can decode."""
    import av

    libraries = ".".join(map(str, av.library_versions["libavcodec"]))
    yield Finding("video", "pyav", "ok", f"{av.__version__}, libavcodec {libraries}")
    lost = [name for name in _CODECS if name not in av.codecs_available]
    found = [name for name in _CODECS if name not in lost]
    if found:
        yield Finding("video", "codecs", "ok", ", ".join(found))
    for name in lost:
        yield Finding("video", name, "missing", "cannot be decoded", "pip install --force-reinstall av")


def extras() -> Iterator[Finding]:
    """Optional packages, with what installs them."""
    for line, extra in _requirements():
        if extra is None or extra in _NOT_FOR_USERS:
            continue
        from packaging.requirements import Requirement

        name = Requirement(line).name
        yield _optional(extra, name, f"pip install 'streamprune[{extra}]'")
    for name, purpose in _FOR_LOADING.items():
        yield _optional(name, name, f"pip install {name}", f" (for {purpose})")


def _optional(label: str, package: str, install: str, purpose: str = "") -> Finding:
    version = _version(package)
    if version is None:
        return Finding("extras", label, "missing", f"{package} is not installed{purpose}", install)
    return Finding("extras", label, "ok", f"{package} {version}{purpose}")


def attention() -> Iterator[Finding]:
    """Implementations of attention that can be chosen."""
    from streamprune.models.attention_kinds import usable_attention

    found = usable_attention()
    yield Finding("attention", "usable", "ok", ", ".join(found))
    if not any("flash" in name for name in found):
        hint = "pip install flash-attn (needs an NVIDIA GPU)"
        yield Finding("attention", "flash", "missing", "no flash attention; sdpa is used", hint)


def families() -> Iterator[Finding]:
    """Model families that are supported."""
    from streamprune.models.families import FAMILIES

    yield Finding("families", "supported", "ok", ", ".join(sorted(FAMILIES)))


def models() -> Iterator[Finding]:
    """The models that come with the package, each of which has to answer a question about a made clip."""
    from streamprune.embedded.world import clip
    from streamprune.models.checkpoint_files import EMBEDDED
    from streamprune.pipelines.offline import load

    made = clip(_CLIP_SEED, _CLIP_FRAMES, split="eval", questions=1)
    (question,) = made.questions
    for name in EMBEDDED:
        started = time.perf_counter()
        answer = load(name).ask(made.frames, question.text, num_frames=_CLIP_FRAMES, max_new_tokens=8)
        seconds = time.perf_counter() - started
        right = answer.text == question.answer
        yield Finding(
            "models",
            name,
            "ok" if right else "broken",
            f"{question.text} {answer.text} ({seconds:.1f} s)",
            "" if right else f"the answer is {question.answer!r}: install the package again",
        )


def disk(folder: Path) -> Iterator[Finding]:
    """Whether encoded videos can be kept in ``folder``, which is not created, and how much is there."""
    there = folder
    while not there.exists():
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"streamprune")
    except OSError as error:
        hint = "choose another folder with --cache-dir, or make it writable"
        yield Finding("disk", "cache folder", "missing", f"{folder}: {error.strerror or error}", hint)
        return
    free = shutil.disk_usage(there).free / 2**30
    held = sum(path.stat().st_size for path in features_folder(folder).glob("*") if path.is_file()) / 2**20
    yield Finding("disk", "cache folder", "ok", f"{folder} ({held:.0f} MB held, {free:.0f} GB free)")
