"""What a worker of a batch says: answers as of single questions, and an error where one cannot be given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from streamprune.errors import SignalError
from streamprune.models.sampling import Sampling
from streamprune.pipelines import batch_asking, batch_worker
from streamprune.pipelines.batch_asking import GroupAsker
from streamprune.pipelines.batch_settings import Asked, BatchSettings, Group
from streamprune.pipelines.offline import VideoLLM
from streamprune.pipelines.request import read_recipe
from tests.pipelines.test_several import noise

QUESTIONS = ["what colour is the circle ?", "is it left ?", "where is the big red square moving ?"]
FIGURES = ("frames", "tokens_in", "tokens_kept", "prompt_tokens", "new_tokens")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Folders of images: 4 frames, 2 frames, and one that is not there."""
    folder = tmp_path_factory.mktemp("films")
    for name, frames in (("a", 4), ("b", 2)):
        (folder / name).mkdir()
        for number, image in enumerate(noise(frames, frames, 40, 48)):
            Image.fromarray(image).save(folder / name / f"{number}.png")
    return [folder / name for name in ("a", "b", "gone")]


@pytest.fixture
def _no_loading(vlm: VideoLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_asking, "load", lambda name, **place: vlm)


def groups(films: list[Path], **part: Any) -> list[Group]:
    asked = tuple(Asked(str(number), question) for number, question in enumerate(QUESTIONS))
    window = {"start_seconds": None, "end_seconds": None, **part}
    return [
        Group(number, str(film), questions=asked[: 3 - number], **window) for number, film in enumerate(films)
    ]


def answered(settings: BatchSettings, several: list[Group]) -> list[dict[str, Any]]:
    asker = GroupAsker(settings, decode_threads=1)
    return list(asker.answer([asker.encode(group) for group in several]))


@pytest.mark.usefixtures("_no_loading")
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"recipe": "fastvid", "keep_ratio": 0.4},
        {"recipe": "cdpruner", "keep_ratio": 0.4},
        {"recipe": "fastv", "keep_ratio": 0.5},
        {"num_frames": 2, "sampling": Sampling(temperature=2.0, seed=3)},
    ],
    ids=["all", "reduced", "by question", "inside", "drawn"],
)
def test_answers_are_those_of_single_questions(
    vlm: VideoLLM, films: list[Path], settings: dict[str, Any]
) -> None:
    settings = {"max_new_tokens": 5, **settings}
    recipe = read_recipe(settings.pop("recipe", None), settings.pop("keep_ratio", None))
    batch = BatchSettings(recipe=recipe, **settings)
    several = groups(films[:2])
    alone = answered(batch, several)
    assert [row["id"] for row in alone] == ["0", "1", "2", "0", "1"]
    sampling = settings.pop("sampling", Sampling())
    drawn = {"temperature": sampling.temperature, "seed": sampling.seed}
    single = [(group.video, asked.prompt) for group in several for asked in group.questions]
    for row, (video, question) in zip(alone, single, strict=True):
        expected = vlm.ask(video, question, recipe=recipe, **settings, **drawn)
        assert row["text"] == expected.text
        assert [row[name] for name in FIGURES] == [getattr(expected.stats, name) for name in FIGURES]
    together = BatchSettings(recipe=recipe, sampling=sampling, videos_per_batch=4, **settings)
    assert answered(together, several) == alone


@pytest.mark.usefixtures("_no_loading")
def test_a_part_and_frames_by_question_reach_the_model(vlm: VideoLLM, films: list[Path]) -> None:
    (group,) = groups(films[:1], start_seconds=1.0, end_seconds=3.0)
    row, *_ = answered(BatchSettings(max_new_tokens=3), [group])
    assert row["frames"] == vlm.ask(films[0], "is it left ?", start_seconds=1.0, end_seconds=3.0).stats.frames
    chosen = BatchSettings(frames="quota", num_frames=2, max_new_tokens=3)
    row, *_ = answered(chosen, groups(films[:1]))
    asked = vlm.ask(films[0], QUESTIONS[0], frames="quota", num_frames=2, max_new_tokens=3)
    assert (row["text"], row["frames"]) == (asked.text, 2)


@pytest.mark.usefixtures("_no_loading")
@pytest.mark.parametrize("at_once", [1, 8])
def test_what_one_video_or_question_brings_about_stays_with_it(films: list[Path], at_once: int) -> None:
    several = groups(films)
    long = Asked("long", "circle " * 5000)
    several[0] = Group(0, several[0].video, None, None, (several[0].questions[0], long))
    rows = answered(BatchSettings(max_new_tokens=3, videos_per_batch=at_once), several)
    by_id = {row["id"]: row for row in rows if "error" in row}
    assert sorted(by_id) == ["0", "long"]
    assert "gone" in by_id["0"]["error"]
    assert "tokens" in by_id["long"]["error"]
    assert sum("text" in row for row in rows) == 3


def test_what_would_be_wrong_with_every_video_is_raised(
    bare_vlm: VideoLLM, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_asking, "load", lambda name, **place: bare_vlm)
    with pytest.raises(SignalError, match="signal"):
        answered(BatchSettings(recipe=read_recipe("fastvid", 0.5)), groups(films))


def test_workers_take_devices_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_asking, "GroupAsker", lambda settings, threads: settings.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    anywhere = [batch_worker.loaded(BatchSettings(), number, None) for number in range(3)]
    assert anywhere == ["cuda:0", "cuda:1", "cuda:0"]
    assert batch_worker.loaded(BatchSettings(device="cpu"), 1, None) == "cpu"
    assert batch_worker.loaded(BatchSettings(device="cuda:0"), 1, None) == "cuda:0"
