"""Several videos at once: every row of the batch is what its video would get alone, on every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from streamprune.errors import InvalidTypeError, InvalidValueError
from streamprune.models.generation import generate, generate_batch
from streamprune.models.prompt_batch import joined_inputs
from streamprune.models.sampling import Sampling
from streamprune.pipelines import several
from streamprune.pipelines.offline import VideoLLM, load
from streamprune.pipelines.several import go_together, read_videos
from streamprune.readers import open_source
from streamprune.recipe import Choice, Recipe
from streamprune.tokens import Reduction
from tests.models.test_families import SAVE
from tests.pipelines.test_chat import HYBRID

ONE_BY_ONE = HYBRID
QUESTIONS = ["what colour is the circle ?", "is it left ?", "where is the big red square moving ?"]


@pytest.fixture(scope="module", params=sorted(SAVE))
def family_vlm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VideoLLM:
    return load(SAVE[request.param](tmp_path_factory.mktemp(request.param)))


def noise(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def videos() -> list[Any]:
    return [noise(1, 6, 40, 48), noise(2, 2, 48, 40), noise(3, 5, 40, 48)]


def test_families_whose_layers_hand_on_a_state_take_one_by_one(family_vlm: VideoLLM) -> None:
    asking = family_vlm.chat(noise(1, 1, 40, 48))._asking
    assert go_together(asking) == (family_vlm.family.model_type not in ONE_BY_ONE)


@torch.no_grad()
def test_rows_are_the_same_alone(family_vlm: VideoLLM, videos: list[Any]) -> None:
    family, prompts = family_vlm.family, []
    for video, question, share in zip(videos, QUESTIONS, (1, 2, 3), strict=True):
        tokens = family_vlm.encode(video, signals=()).tokens
        kept = Reduction.select(tokens, torch.arange(0, len(tokens), share))
        prompts.append(family.prompt(question, kept, pts_seconds=tokens.pts_seconds))
    assert len({len(prompt) for prompt in prompts}) == 3
    limit = 1e-3 if family.model_type in ONE_BY_ONE else 1e-5
    together = family.model(**joined_inputs(prompts)).logits[:, -4:]
    texts = [one.text for one in generate_batch(family, prompts, max_new_tokens=5)]
    for row, prompt in enumerate(prompts):
        alone = family.model(**prompt.model_inputs()).logits[0, -4:]
        assert (together[row] - alone).abs().max() <= limit
        assert texts[row] == generate(family, prompt, max_new_tokens=5).text
    swapped = joined_inputs([prompts[0], prompts[2], prompts[1]])
    swapped["mm_encoder_outputs"] = joined_inputs(prompts)["mm_encoder_outputs"]
    mixed = family.model(**swapped).logits[:, -4:]
    assert (mixed[1] - together[2]).abs().max() > 1e-2, "rows with another video's tokens are other rows"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"recipe": "fastvid", "keep_ratio": 0.4},
        {"recipe": "cdpruner", "keep_ratio": 0.4},
        {"frames": "quota", "num_frames": 2},
        {"temperature": 3.0, "seed": 4},
        {"recipe": "fastv", "layer": 1, "keep_ratio": 0.5},
        {"recipe": "snapkv", "window": 4, "keep_ratio": 0.5, "protect_text": False},
        {"videos_per_batch": 2},
    ],
    ids=["all", "reduced", "by question", "frames by question", "drawn", "inside", "cache", "by twos"],
)
def test_answers_are_those_of_single_questions(
    vlm: VideoLLM, videos: list[Any], settings: dict[str, Any]
) -> None:
    answers = vlm.ask(videos, QUESTIONS, max_new_tokens=6, **settings)
    settings = {name: value for name, value in settings.items() if name != "videos_per_batch"}
    assert len(answers) == 3
    for answer, video, question in zip(answers, videos, QUESTIONS, strict=True):
        alone = vlm.ask(video, question, max_new_tokens=6, **settings)
        assert (answer.text, answer.question) == (alone.text, question)
        assert answer.pts_seconds == alone.pts_seconds
        counted = ("tokens_kept", "prompt_tokens", "new_tokens", "prefill_flops", "decode_flops")
        assert [getattr(answer.stats, name) for name in counted] == [
            getattr(alone.stats, name) for name in counted
        ]


def test_one_question_for_all(vlm: VideoLLM, videos: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []

    def counted(family: Any, prompts: Any, **settings: Any) -> Any:
        batches.append(len(prompts))
        return generate_batch(family, prompts, **settings)

    monkeypatch.setattr(several, "generate_batch", counted)
    answers: Any = vlm.ask(videos * 2, QUESTIONS[0], max_new_tokens=4, videos_per_batch=4)
    assert batches == [4, 2]
    assert [answer.question for answer in answers] == QUESTIONS[:1] * 6
    assert [answer.text for answer in answers[:3]] == [answer.text for answer in answers[3:]]
    shared = [answer.stats.kv_bytes for answer in answers]
    assert len(set(shared[:4])) == len(set(shared[4:])) == 1


def test_rows_end_by_themselves(vlm: VideoLLM, videos: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = []
    for video, question in zip(videos, QUESTIONS, strict=True):
        tokens = vlm.encode(video, signals=()).tokens
        prompts.append(vlm.family.prompt(question, Reduction.identity(tokens)))
    whole = [generate(vlm.family, prompt, max_new_tokens=8).token_ids for prompt in prompts]
    end = next(token for token in whole[0][1:-1] if token not in whole[1] or token not in whole[2])
    word = vlm.family.tokenizer.decode([end])
    for sampling in (Sampling(), Sampling(stop=(word,))):
        if not sampling.stop:
            monkeypatch.setattr(vlm.family.model.generation_config, "eos_token_id", end)
        together = generate_batch(vlm.family, prompts, max_new_tokens=8, sampling=sampling)
        alone = [generate(vlm.family, prompt, max_new_tokens=8, sampling=sampling) for prompt in prompts]
        assert [(one.token_ids, one.said, one.text) for one in together] == [
            (one.token_ids, one.said, one.text) for one in alone
        ]
        assert len({len(one.token_ids) for one in together}) > 1
        monkeypatch.undo()


def test_a_picture_is_a_video_of_one_frame(family_vlm: VideoLLM, tmp_path: Path) -> None:
    picture, path = noise(9, 40, 48), tmp_path / "photo.png"
    Image.fromarray(picture).save(path)
    expected = family_vlm.ask(picture[None], QUESTIONS[0], max_new_tokens=4)
    assert expected.stats.frames == 1
    shown: list[Any] = [picture, Image.fromarray(picture), path]
    for one in shown:
        assert family_vlm.ask(one, QUESTIONS[0], max_new_tokens=4).text == expected.text


def test_pictures_and_videos_in_one_list(vlm: VideoLLM, videos: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(noise(9, 40, 48)).save(path)
    mixed: list[Any] = [path, noise(9, 40, 48), vlm.encode(videos[0]), videos[1]]
    answers = vlm.ask(mixed, QUESTIONS[0], max_new_tokens=6)
    assert [answer.stats.frames for answer in answers] == [1, 1, 6, 2]
    assert answers[0].text == answers[1].text
    assert answers[3].text == vlm.ask(videos[1], QUESTIONS[0], max_new_tokens=6).text


def test_what_is_several_videos(videos: list[Any]) -> None:
    pictures = [noise(1, 8, 8), noise(2, 8, 8)]
    assert read_videos(pictures) is None
    assert read_videos(videos[0]) is None
    assert read_videos("talk.mp4") is None
    assert read_videos([]) is None
    assert read_videos(iter(videos)) is None
    assert read_videos(["a.mp4", Path("b.mp4")]) == ["a.mp4", Path("b.mp4")]
    assert read_videos((videos[0], pictures[0])) == [videos[0], pictures[0]]
    assert read_videos([torch.zeros(2, 8, 8, 3)]) is not None
    with open_source(videos[0]) as source:
        assert read_videos([source]) == [source]


def test_calls_that_cannot_be_meant(vlm: VideoLLM, videos: list[Any]) -> None:
    with pytest.raises(InvalidValueError, match="one for each of the 3 videos, got 2"):
        vlm.ask(videos, QUESTIONS[:2])
    with pytest.raises(InvalidValueError, match="stream=True takes one question and one video"):
        vlm.ask(videos, QUESTIONS[0], stream=True)
    with pytest.raises(InvalidValueError, match="videos_per_batch must be at least 1"):
        vlm.ask(videos, QUESTIONS[0], videos_per_batch=0)
    with pytest.raises(InvalidTypeError, match="videos_per_batch must be an integer"):
        vlm.ask(videos, QUESTIONS[0], videos_per_batch=2.5)
    recipe = Recipe(stages={"in_llm": Choice("fastv", {"layer": 9})})
    with pytest.raises(InvalidValueError, match="this model has 3"):
        vlm.ask(["no such file.mp4", "nor this.mp4"], QUESTIONS[0], recipe=recipe, keep_ratio=0.5)
