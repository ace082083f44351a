"""Questions of a published set out of a local folder; nothing is ever downloaded."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from streamprune.benchmarks.base import Benchmark, SetFolder
from streamprune.benchmarks.cg_bench import CGBench
from streamprune.benchmarks.conversations import Conversations
from streamprune.benchmarks.ego_schema import EgoSchema
from streamprune.benchmarks.item import Item
from streamprune.benchmarks.long_video_bench import LongVideoBench
from streamprune.benchmarks.mlvu import MLVU
from streamprune.benchmarks.mvbench import MVBench
from streamprune.benchmarks.next_qa import NExTQA
from streamprune.benchmarks.ovo_bench import OVOBench
from streamprune.benchmarks.streaming_bench import StreamingBench
from streamprune.benchmarks.video_mme import VideoMME
from streamprune.benchmarks.vn_bench import VNBench
from streamprune.errors import InvalidValueError, SourceError, SourceNotFoundError, UnknownNameError

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        VideoMME(),
        MLVU(),
        LongVideoBench(),
        EgoSchema(),
        MVBench(),
        NExTQA(),
        StreamingBench(),
        OVOBench(),
        VNBench(),
        CGBench(),
        Conversations(),
    )
}
_SHOWN = 5


@dataclass(frozen=True)
class LoadedSet:
    """What a folder gave.

    Args:
        name: of the set, a key of BENCHMARKS.
        items: questions whose video is there, in the order of the set's files.
        missing: videos that are not there, in order; their questions are not in ``items``.
        skipped: how many questions that are.
        notes: what else was left out, and why.
    """

    name: str
    items: tuple[Item, ...]
    missing: tuple[Path, ...] = ()
    skipped: int = 0
    notes: tuple[str, ...] = ()


def load_set(
    name: str,
    folder: Path | str,
    *,
    subset: str | None = None,
    subtitles: bool = False,
    allow_missing: bool = False,
) -> LoadedSet:
    """Read a set from its local folder.

    Args:
        name: a key of BENCHMARKS (case, "-" and "_" do not matter), or "auto" to recognise the set by its
            files.
        folder: where the set was unpacked; the layout of each is ``BENCHMARKS[name].layout``.
        subset: only this part, one of ``BENCHMARKS[name].subsets``.
        subtitles: put the subtitles in front of every question, for sets that have them.
        allow_missing: leave out questions whose video is not there, and name those videos in the result.

    Raises:
        UnknownNameError: no such set, or no such subset of it.
        SourceNotFoundError: no such folder, not that set's, or videos missing (how many, and the first).
        SourceFormatError: a question file that is broken, with its line.
        InvalidValueError: a missing column, an answer out of range, an id twice, nothing to ask.
    """
    path = _existing(folder)
    benchmark = _named(detect(path) if name == "auto" else name)
    if subset is not None and subset not in benchmark.subsets:
        raise UnknownNameError.among(f"subset of {benchmark.title}", subset, benchmark.subsets)
    if subtitles and not benchmark.has_subtitles:
        with_them = ", ".join(key for key, one in BENCHMARKS.items() if one.has_subtitles)
        raise InvalidValueError(
            f"subtitles=True needs a set with subtitles ({with_them}); {benchmark.title} has none"
        )
    source = SetFolder(path, subset=subset, subtitles=subtitles)
    items = list(benchmark.items(source))
    _check_ids(benchmark, items)
    if not items:
        part = f" of subset {subset!r}" if subset else ""
        raise InvalidValueError(f"{path} holds no question of {benchmark.title}{part}")
    return _with_videos(benchmark, source, items, allow_missing=allow_missing)


def load_items(
    name: str,
    folder: Path | str,
    *,
    subset: str | None = None,
    subtitles: bool = False,
    allow_missing: bool = False,
) -> list[Item]:
    """The questions alone of :func:`load_set`, which also says what is missing."""
    return list(load_set(name, folder, subset=subset, subtitles=subtitles, allow_missing=allow_missing).items)


def detect(folder: Path | str) -> str:
    """The name of the set that ``folder`` holds, by its files and their columns.

    Raises:
        SourceNotFoundError: no such folder, none of the known sets, or it could be several; it says which.
        SourceFormatError: its question file is broken.
    """
    path = _existing(folder)
    found, broken = [], []
    for name, benchmark in BENCHMARKS.items():
        try:
            if benchmark.recognises(SetFolder(path)):
                found.append(name)
        except SourceError as error:
            broken.append(error)
    if len(found) == 1:
        return found[0]
    if found:
        raise SourceNotFoundError(f"{folder} could be any of {', '.join(found)}; say which one it is")
    if broken:
        raise broken[0]
    looked_for = "; ".join(f"{name}: {one.looked_for}" for name, one in BENCHMARKS.items())
    raise SourceNotFoundError(f"{folder} is no folder of a known set. Looked for {looked_for}")


def _existing(folder: Path | str) -> Path:
    path = Path(folder)
    if not path.is_dir():
        raise SourceNotFoundError(f"{path} is no folder; give the one that the set was unpacked into")
    return path


def _named(name: str) -> Benchmark:
    by_plain_name = {_plain(known): benchmark for known, benchmark in BENCHMARKS.items()}
    if _plain(name) not in by_plain_name:
        raise UnknownNameError.among("set of questions", name, [*BENCHMARKS, "auto"])
    return by_plain_name[_plain(name)]


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _check_ids(benchmark: Benchmark, items: list[Item]) -> None:
    counts = Counter(item.id for item in items)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise InvalidValueError(
            f"{benchmark.title}: {len(twice)} ids are there more than once, the first: "
            f"{', '.join(twice[:_SHOWN])}"
        )


def _with_videos(
    benchmark: Benchmark, source: SetFolder, items: list[Item], *, allow_missing: bool
) -> LoadedSet:
    missing = [video for video in dict.fromkeys(item.video for item in items) if not video.exists()]
    gone = set(missing)
    there = tuple(item for item in items if item.video not in gone)
    if missing and (not allow_missing or not there):
        total = len({item.video for item in items})
        shown = ", ".join(str(video).removeprefix(f"{source.path}{os.sep}") for video in missing[:_SHOWN])
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        leave = "leave out their questions with allow_missing (--allow-missing)"
        hint = leave if there else "there is nothing to ask about"
        raise SourceNotFoundError(
            f"{benchmark.title}: {len(missing)} of {total} videos are missing below {source.path}: "
            f"{shown}{more}; {hint}"
        )
    return LoadedSet(
        benchmark.name, there, tuple(missing), len(items) - len(there), notes=tuple(source.notes)
    )
