"""Every method on every family: it runs, changes nothing when it keeps everything, or refuses as recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from streamprune.pipelines.offline import VideoLLM, load
from tests.matrix.cells import CELLS, Cell, ask, made_clip, refusal
from tests.models.test_families import SAVE

RECORD = Path(__file__).resolve().parents[2] / "demos" / "results" / "families.json"
REDUCING = [cell for cell in CELLS if cell.info.stage in ("pre_llm", "in_llm", "kv")]
SETUPS = [(attention, dtype) for attention in ("sdpa", "eager") for dtype in (torch.float32, torch.bfloat16)]


@pytest.fixture(scope="module", params=sorted(SAVE))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SAVE[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def recorded() -> dict[tuple[str, str], dict[str, str]]:
    rows = json.loads(RECORD.read_text(encoding="utf-8"))["rows"]
    return {(row["stage"], row["method"]): row["refused"] for row in rows}


@pytest.fixture(scope="module")
def vlm(folder: Path) -> VideoLLM:
    return load(folder)


@pytest.fixture(scope="module")
def video() -> np.ndarray[Any, Any]:
    return made_clip()


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.id)
def test_it_runs_or_refuses_as_the_table_says(
    vlm: VideoLLM, video: Any, cell: Cell, recorded: dict[tuple[str, str], dict[str, str]]
) -> None:
    refused = recorded[cell.info.stage, cell.info.name]
    assert refusal(vlm, video, cell) == refused.get(vlm.family.model_type)


@pytest.fixture(
    scope="module", params=SETUPS, ids=lambda setup: f"{setup[0]}-{setup[1]}".replace("torch.", "")
)
def whole(folder: Path, video: Any, request: pytest.FixtureRequest) -> tuple[VideoLLM, Any, list[Any]]:
    attention, dtype = request.param
    vlm = load(folder, attn_implementation=attention, dtype=dtype)
    encoded = vlm.encode(video)
    return vlm, encoded, ask(vlm, encoded, None)[1]


@pytest.mark.parametrize("cell", REDUCING, ids=lambda cell: cell.id)
def test_keeping_everything_changes_no_bit(
    whole: tuple[VideoLLM, Any, list[Any]], cell: Cell, recorded: dict[tuple[str, str], dict[str, str]]
) -> None:
    vlm, encoded, stock = whole
    if vlm.family.model_type in recorded[cell.info.stage, cell.info.name]:
        return
    recipe, budget = cell.keeping_all
    _, logits = ask(vlm, encoded, recipe, **budget)
    # a method that asks the model about the question first has logits of its own before
    logits = logits[-len(stock) :]
    assert all(torch.equal(one, other) for one, other in zip(logits, stock, strict=True))
