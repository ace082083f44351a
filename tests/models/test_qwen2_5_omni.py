"""What only Qwen2.5-Omni does: a part of a whole folder, whose settings are for pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from streamprune.errors import InvalidValueError
from streamprune.models.base import VideoFamily
from streamprune.models.loading import load_model
from streamprune.models.preprocessing import Clip
from streamprune.tokens import Reduction
from tests.models.small_qwen import make_tokenizer, save_small_qwen


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("omni")
    return save_small_qwen(folder, "qwen2_5_omni", min_pixels=3136, max_pixels=12_845_056)


@pytest.fixture(scope="module")
def family(folder: Path) -> VideoFamily:
    return load_model(folder)


def test_the_thinker_alone_is_loaded(folder: Path, family: VideoFamily, tmp_path: Path) -> None:
    assert json.loads((folder / "config.json").read_text())["model_type"] == "qwen2_5_omni"
    assert type(family.model).__name__ == "Qwen2_5OmniThinkerForConditionalGeneration"
    family.model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "qwen2_5_omni_thinker"
    alone = load_model(tmp_path)
    assert alone.model_type == family.model_type
    for one, other in zip(alone.model.parameters(), family.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_bounds_are_those_of_the_stock_processor(family: VideoFamily) -> None:
    """Enlarged to 128 x 28 x 28 pixels at least and shrunk to 768 x 28 x 28, in steps of a token's 56."""
    assert family.frame_size(Clip(2, 30, 50)) == (280, 448)
    assert family.frame_size(Clip(2, 2160, 3840)) == (560, 1008)
    assert family.frame_size(Clip(2, 400, 500)) == (392, 504)


def test_sound_in_a_question_is_refused(family: VideoFamily) -> None:
    tokens = family.encode(torch.zeros(2, 3, 112, 112)).tokens({})
    with pytest.raises(InvalidValueError, match="placeholders '99'"):
        family.prompt("what is 99 ?", Reduction.identity(tokens))
