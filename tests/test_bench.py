"""``bench``: what it records and compares, and how it answers bad input. Never how long anything takes."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from streamprune.cli import app
from streamprune.metrics import reducer_speed
from streamprune.metrics.made_clip import made_clip
from streamprune.models import shapes
from streamprune.models.small_shapes import find_small_shape
from streamprune.pipelines.made_video import write_made_video
from streamprune.report.bench_table import LABELS, end_to_end_tables
from streamprune.report.speed import llm_markdown, speed_markdown

runner = CliRunner()
# as little as can be measured
QUICK = ["--num-frames", "4", "--max-new-tokens", "3", "--repeats", "1", "--max-seconds", "0"]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("bench") / "clip.mp4"
    return str(write_made_video(path, pictures=8, side=64))


@pytest.fixture(scope="module")
def measured(video: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    """Record, output and folder of one whole bench."""
    folder = tmp_path_factory.mktemp("end_to_end")
    arguments = ["bench", "--family", "llava_onevision", "--video", video, *QUICK]
    arguments += ["--recipe", "none", "--recipe", "stride", "--recipe", "fastv", "--keep-ratio", "0.25"]
    arguments += ["--batch", "1", "--batch", "2"]
    arguments += ["--json", str(folder / "b.json"), "--plot", str(folder / "b.png")]
    done = runner.invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return json.loads((folder / "b.json").read_text()), done.output, folder


def test_a_record_has_a_row_for_every_batch_and_recipe(measured: tuple[dict[str, Any], str, Path]) -> None:
    record, _, folder = measured
    assert record["bench"] == "end-to-end"
    assert {"date", "device", "processor", "torch", "clock", "dtype", "threads"} <= record.keys()
    rows = {(row["batch"], row["recipe"]): row for row in record["rows"]}
    assert list(rows) == [(batch, name) for batch in (1, 2) for name in ("none", "stride", "fastv")]
    assert {name: rows[1, name]["keep_ratio"] for name in ("none", "stride")} == {"none": 1.0, "stride": 0.25}
    for (batch, name), row in rows.items():
        assert (row["model"], row["frames"], row["new_tokens"]) == ("small llava_onevision", 4, 3)
        assert row["tokens_in"] == 64 * batch
        # fastv drops tokens inside the language model, where prompts do not go side by side
        assert row["tokens_kept"] == {"none": 64, "stride": 16, "fastv": 64}[name] * batch
        assert row["together"] is (name != "fastv" or batch == 1)
        assert row["extrapolated"] is None
    assert (folder / "b.png").read_bytes().startswith(b"\x89PNG")


def test_stock_beside_itself_has_every_ratio(measured: tuple[dict[str, Any], str, Path]) -> None:
    record, output, _ = measured
    none, stride = record["rows"][:2]
    assert none["tokens_kept"] == none["tokens_in"]
    assert none["ratios"].keys() == {
        "decode", "preprocess", "tower", "prefill", "decode_step", "ttft", "reduce_of_ttft",
        "frames_per_second", "tokens_per_second", "kv_bytes", "prefill_flops", "decode_flops", "peak_bytes",
    }  # fmt: skip
    for name in ("kv_bytes", "prefill_flops", "decode_flops"):
        assert none["ratios"][name]["median"] == 1.0
        assert stride["ratios"][name]["median"] < 1.0
    # four frames of 64 pixels are prepared in less than the clock can tell
    assert none["ratios"]["preprocess"] is None
    assert none["milliseconds"]["preprocess"]["stock"] < 20
    assert "below resolution" in output
    assert none["amounts"]["peak_bytes"] is None
    assert "not measured" in output
    assert "too few pairs" in " ".join(output.split())


def test_a_run_is_held_against_an_earlier_one(
    measured: tuple[dict[str, Any], str, Path], video: str, tmp_path: Path
) -> None:
    before = {**measured[0], "torch": "0.1"}
    before["rows"] = json.loads(json.dumps(before["rows"][:2]))
    before["rows"][0]["recipe"] = "gone"
    before["rows"][1]["ratios"]["kv_bytes"] = {"median": 0.1, "low": 0.1, "high": 0.1, "confidence": 0.0}
    (tmp_path / "before.json").write_text(json.dumps(before))
    arguments = ["bench", "--family", "llava_onevision", "--video", video, *QUICK, "--recipe", "stride"]
    arguments += ["--keep-ratio", "0.25", "--recipe", "pool", "--against", str(tmp_path / "before.json")]
    done = runner.invoke(app, arguments)
    said = " ".join(done.output.split())
    assert done.exit_code == 0, done.output
    now = measured[0]["rows"][1]["ratios"]["kv_bytes"]["median"]
    assert f"small llava_onevision 1 stride 0.25 KV bytes 0.100 {now:.3f}" in said
    assert "before.json: small llava_onevision 1 gone 1" in said
    assert "before.json: small llava_onevision 1 pool 0.25" in said
    assert "note: torch: '0.1' then" in said
    failed = runner.invoke(app, [*arguments, "--fail-above", "50"])
    assert failed.exit_code == 1
    assert "--fail-above 50: kv_bytes became" in " ".join(failed.output.split())
    other = runner.invoke(app, [*arguments, "--num-frames", "2", "--fail-above", "50"])
    assert other.exit_code == 1
    assert "num_frames: 4 then, 2 now" in " ".join(other.output.split())
    assert "nothing could be compared" in " ".join(other.output.split())


def test_a_slice_is_marked_and_extrapolated(
    monkeypatch: pytest.MonkeyPatch, video: str, tmp_path: Path
) -> None:
    monkeypatch.setattr(shapes, "SHAPES", {"tiny": find_small_shape("qwen2_5_vl")})
    arguments = ["bench", "--shape", "tiny", "--layers", "1", "--video", video, *QUICK]
    arguments += ["--recipe", "stride", "--keep-ratio", "0.5"]
    # a slice of one layer has nothing above the one where fastv drops tokens
    assert runner.invoke(app, [*arguments, "--recipe", "fastv"]).exit_code != 0
    done = runner.invoke(app, [*arguments, "--json", str(tmp_path / "b.json")])
    assert done.exit_code == 0, done.output
    assert "EXTRAPOLATED from 1 to 4 layers, tower 2 to 4" in done.output
    (row,) = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert row["model"] == "small qwen2_5_vl, 1 of 4 layers"
    whole, slice_ = row["extrapolated"]["milliseconds"], row["milliseconds"]
    assert whole["prefill"]["stock"] > slice_["prefill"]["stock"]
    assert whole["tower"]["stock"] > slice_["tower"]["stock"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--stage", "pre-lm"], "unknown stage to time 'pre-lm'. Did you mean 'pre-llm'"),
        (["--method", "fastvidd"], "unknown pre_llm method 'fastvidd'"),
        (["--keep-ratio", "2"], "keep_ratio must be in (0, 1]"),
        (["--repeats", "0"], "repeats must be"),
        (["--stage", "in-llm", "--method", "fastw"], "unknown in_llm method 'fastw'"),
        (["--stage", "llm", "--recipe", "fastvid+fastw"], "unknown recipe 'fastw'"),
        (["--stage", "kv", "--size", "7B"], "unknown size '7B'"),
        (["--stage", "kv", "--tokens", "0"], "tokens must be"),
        (["--stage", "kv", "--shape", "qwen2.5-vl-7b"], "--shape means nothing to --stage kv"),
        (["--stage", "end-to-end", "--size", "7b"], "--size means nothing to --stage end-to-end"),
        (["--shape", "qwen-7b"], "unknown shape 'qwen-7b'"),
        (["--family", "qwen"], "unknown family 'qwen'"),
        (["--recipe", "fastvidd"], "unknown recipe 'fastvidd'"),
        (["--recipe", "stride", "--keep-ratio", "0"], "keep_ratio must be in (0, 1]"),
        (["--recipe", "stride", "--repeats", "0"], "repeats must be at least 1"),
        (["--recipe", "stride", "--max-seconds", "-1"], "max_seconds must be in"),
        (["--batch", "0"], "batch must be at least 1"),
        (["--num-frames", "0"], "num_frames must be at least 1"),
        (["--max-new-tokens", "1"], "max_new_tokens must be at least 2"),
        (["--shape", "qwen2.5-vl-7b", "--layers", "29"], "layers must be in [1, 28]"),
        (["--family", "qwen2_vl", "--layers", "1"], "--layers is for --shape alone"),
        (["--recipe", "stride", "--fail-above", "5"], "--fail-above needs --against"),
        (["--recipe", "stride", "--plot", "b.txt"], "plot must end in .png or .svg"),
        (["--stage", "kv", "--against", "goals"], "no goal for --stage kv"),
        (["--recipe", "stride", "--against", __file__], "no record of 'streamprune bench'"),
    ],
)
def test_bad_input_is_answered(arguments: list[str], said: str) -> None:
    done = runner.invoke(app, ["bench", *arguments])
    assert done.exit_code == 2, done.output
    assert said in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--video", "gone.mp4"], "gone.mp4"),
        (["--recipe", "stride", "--json", "{file}/b.json"], "cannot write"),
        (["--recipe", "stride", "--plot", "{file}/b.png"], "cannot write"),
        (["--recipe", "stride", "--json", "{folder}"], "it is a folder"),
        (["--recipe", "stride", "--against", "{folder}/gone.json"], "cannot read"),
        (["--model", "nowhere"], "there is no model 'nowhere'"),
    ],
)
def test_what_cannot_work_fails_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], said: str
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("something was measured")

    monkeypatch.setattr("streamprune.pipelines.end_to_end_speed.end_to_end_speeds", never)
    monkeypatch.setattr("streamprune.pipelines.made_video.write_made_video", lambda path, seed: path)
    (tmp_path / "file").write_text("")
    filled = [part.format(file=tmp_path / "file", folder=tmp_path) for part in arguments]
    done = runner.invoke(app, ["bench", *filled])
    assert done.exit_code == 1, done.output
    assert said in " ".join(done.output.split())


def test_bench_records_every_method_on_every_clip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small = partial(made_clip, shape=(4, 5, 5, 8))
    monkeypatch.setattr(reducer_speed, "made_clip", lambda scenes, shape: small(scenes))
    arguments = ["bench", "--method", "stride", "--method", "fastvid", "--scenes", "1", "--scenes", "4"]
    done = runner.invoke(app, [*arguments, "--repeats", "1", "--json", str(tmp_path / "b.json")])
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "b.json").read_text())
    assert [(row["method"], row["scenes"]) for row in record["rows"]] == [
        ("stride", 1), ("fastvid", 1), ("stride", 4), ("fastvid", 4),
    ]  # fmt: skip
    assert [row["released_units"] for row in record["rows"]] == [None, 12.0, None, 12.0]
    assert all(row["wall_units"] > 0 for row in record["rows"])
    lines = speed_markdown(record["rows"]).splitlines()
    assert lines[0] == "| method | kept | units, 1 scenes | units, 4 scenes | released |"
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("stage", "name", "kept"),
    [("in-llm", "fastv", 196), ("kv", "streamingllm", 196), ("llm", "stride+fastv+knorm", 49)],
)
def test_bench_puts_a_language_model_beside_itself(tmp_path: Path, stage: str, name: str, kept: int) -> None:
    arguments = ["bench", "--stage", stage, "--method", name, "--keep-ratio", "1", "--keep-ratio", "0.25"]
    arguments += ["--size", "tiny", "--tokens", "196", "--repeats", "1", "--json", str(tmp_path / "b.json")]
    done = runner.invoke(app, arguments)
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "b.json").read_text())
    everything, quarter = record["rows"]
    assert (record["size"], everything["visual_tokens"], everything["recipe"]) == ("tiny", 196, name)
    assert (everything["kv_ratio"], everything["kept_tokens"]) == (1.0, 196)
    assert 0.2 < quarter["kv_ratio"] < 0.7
    assert quarter["kept_tokens"] == kept
    assert all(row["prefill_ratio"] > 0 < row["step_ratio"] for row in record["rows"])
    lines = llm_markdown(record["rows"]).splitlines()
    assert lines[0].startswith("| recipe | keep | prefill | decode step | cache bytes |")
    assert lines[3].startswith(f"| {name} | 0.25 | ")


def test_slow_things_are_not_shown_as_standing_still() -> None:
    sides = {"stock": 0.0421, "recipe": 0.05}
    ratio = {"median": 1.2, "low": 1.1, "high": 1.3, "confidence": 0.96}
    row = {
        "model": "m", "batch": 1, "recipe": "r", "keep_ratio": 0.5, "frames": 1, "tokens_in": 9,
        "tokens_kept": 4, "together": True, "pairs": 9, "extrapolated": None,
        "ratios": dict.fromkeys(LABELS, ratio), "per_second": dict.fromkeys(LABELS, sides),
        "milliseconds": dict.fromkeys(LABELS, sides), "amounts": dict.fromkeys(LABELS, sides),
    }  # fmt: skip
    ((title, table),) = end_to_end_tables({"rows": [row]})
    assert title == "m, batch 1: 1 frames of tokens, 9 visual tokens"
    lines = dict(zip(table.columns[0].cells, table.columns[1].cells, strict=True))
    assert lines["frames/s"] == "0.042"
    assert set(table.columns[2].cells) == {"4", "1.200 (1.100-1.300)", "9"}
