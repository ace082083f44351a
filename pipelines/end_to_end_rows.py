"""What pairs of answers say: ratios with their intervals, medians, and what is counted."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from streamprune.metrics.clocks import NOTHING, RESOLUTION_SECONDS, Lap
from streamprune.metrics.paired import Interval, median_interval
from streamprune.pipelines.end_to_end import Run

Pair = tuple[Run, Run]
# what is timed -> the stages whose laps add up to it
TIMES: dict[str, tuple[str, ...]] = {
    "decode": ("decode",),
    "preprocess": ("preprocess",),
    "tower": ("tower", "choose"),
    "prefill": ("prefill",),
    "decode_step": ("steps",),
    "ttft": ("first",),
}
_SEEING = ("decode", "preprocess", "tower", "choose", "reduce")


def ratios(pairs: Sequence[Pair]) -> dict[str, dict[str, float] | None]:
    """By name; None below resolution, and for what was not measured at all."""
    found = {name: times_ratio(pairs, laps) for name, laps in TIMES.items()}
    seeing, steps = times_ratio(pairs, _SEEING), found["decode_step"]
    reduce = [(run.lap("reduce"), stock.lap("first")) for stock, run in pairs]
    found["reduce_of_ttft"] = _resolved([(ttft, lap) for lap, ttft in reduce])
    found["frames_per_second"] = None if seeing is None else _inverse(seeing)
    found["tokens_per_second"] = None if steps is None else _inverse(steps)
    for name, sides in _counted(pairs).items():
        found[name] = median_interval([own / stock for stock, own in sides]) if sides[0][0] else None
    peaks = [(stock.peak_bytes, run.peak_bytes) for stock, run in pairs]
    known = [own / stock for stock, own in peaks if stock and own is not None]
    found["peak_bytes"] = median_interval(known) if known else None
    return {name: None if one is None else interval(one) for name, one in found.items()}


def times_ratio(pairs: Sequence[Pair], laps: Sequence[str]) -> Interval | None:
    """Of what the stages ``laps`` took together; None below resolution."""
    return _resolved([(_added(stock, laps), _added(run, laps)) for stock, run in pairs])


def _added(run: Run, laps: Sequence[str]) -> Lap:
    total = NOTHING
    for name in laps:
        total += run.lap(name)
    return total


def _resolved(laps: Sequence[tuple[Lap, Lap]]) -> Interval | None:
    """Of work; None where either side is too short, in the median, to be told from the clock's own work."""
    for side in zip(*laps, strict=True):
        if statistics.median(lap.work_seconds for lap in side) < RESOLUTION_SECONDS:
            return None
    return median_interval([own.work_seconds / stock.work_seconds for stock, own in laps])


def _inverse(ratio: Interval) -> Interval:
    """Of a speed where that of a time is known; the interval turns round."""
    return Interval(1 / ratio.median, 1 / ratio.high, 1 / ratio.low, ratio.confidence, ratio.count)


def interval(ratio: Interval) -> dict[str, float]:
    """For JSON."""
    return {
        "median": round(ratio.median, 4),
        "low": round(ratio.low, 4),
        "high": round(ratio.high, 4),
        "confidence": round(ratio.confidence, 4),
    }


def _counted(pairs: Sequence[Pair]) -> dict[str, list[tuple[float, float]]]:
    """What is counted and not timed, of stock and own, added up over the batch."""
    return {
        name: [
            (sum(getattr(one, name) for one in stock.stats), sum(getattr(one, name) for one in run.stats))
            for stock, run in pairs
        ]
        for name in ("kv_bytes", "prefill_flops", "decode_flops")
    }


def amounts(pairs: Sequence[Pair]) -> dict[str, dict[str, float] | None]:
    """Medians of what is counted; peak memory only where it can be told."""
    found: dict[str, dict[str, float] | None] = {name: _sides(both) for name, both in _counted(pairs).items()}
    peaks = [(stock.peak_bytes, run.peak_bytes) for stock, run in pairs]
    known = [(stock, own) for stock, own in peaks if stock is not None and own is not None]
    found["peak_bytes"] = _sides(known) if known else None
    return found


def _sides(both: Sequence[tuple[float, float]], digits: int = 0) -> dict[str, float]:
    stock, own = (round(statistics.median(side), digits) for side in zip(*both, strict=True))
    return {"stock": stock, "recipe": own}


def milliseconds(pairs: Sequence[Pair]) -> dict[str, dict[str, float]]:
    """Medians of work and of elapsed time; of a decode step one step."""
    found = {}
    for name, laps in {**TIMES, "reduce": ("reduce",), "total": ("total",)}.items():
        added = [(_added(stock, laps), _added(run, laps)) for stock, run in pairs]
        parts = max(1, pairs[0][1].stats[0].new_tokens - 1) if name == "decode_step" else 1
        scale = 1000 / parts
        work = _sides([(scale * one.work_seconds, scale * own.work_seconds) for one, own in added], 2)
        wall = _sides([(scale * one.wall_seconds, scale * own.wall_seconds) for one, own in added], 2)
        found[name] = {**work, "stock_elapsed": wall["stock"], "recipe_elapsed": wall["recipe"]}
    return found


def rates(pairs: Sequence[Pair]) -> dict[str, dict[str, float]]:
    """Frames seen and tokens said in a second of elapsed time, by the whole batch."""
    return {
        "frames_per_second": _sides([(_frame_rate(stock), _frame_rate(own)) for stock, own in pairs], 2),
        "tokens_per_second": _sides([(_token_rate(stock), _token_rate(own)) for stock, own in pairs], 2),
    }


def _frame_rate(run: Run) -> float:
    seconds = _added(run, _SEEING).wall_seconds
    return sum(one.frames for one in run.stats) / seconds if seconds > 0 else 0.0


def _token_rate(run: Run) -> float:
    seconds = run.lap("steps").wall_seconds
    return sum(one.new_tokens - 1 for one in run.stats) / seconds if seconds > 0 else 0.0
