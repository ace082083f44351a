"""Clips are pure functions of a seed, the splits never meet, evidence lies where the object is."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import pytest

from streamprune.embedded import world
from streamprune.embedded.train.packing import encode
from streamprune.embedded.train.tokenizer import UNKNOWN
from streamprune.embedded.world import seeds, textures, wordings
from streamprune.embedded.world.crowd import BACKGROUND, crowd
from streamprune.embedded.world.draw import cell_coverage
from streamprune.errors import InvalidTypeError, InvalidValueError


def _digest(clip: world.Clip) -> str:
    said = "".join(f"{q.text}|{q.answer}|{q.type}|{q.spans};" for q in clip.questions)
    return hashlib.sha256(clip.frames.tobytes() + said.encode()).hexdigest()[:16]


@pytest.mark.parametrize("frames", [1, 2, 8, 16, 40])
def test_same_seed_same_clip_whatever_was_drawn_before(frames: int) -> None:
    first = _digest(world.clip(5, frames))
    for other in range(3):
        assert _digest(world.clip(other, frames)) != first
    textures.texture.cache_clear()
    textures.noise.cache_clear()
    assert _digest(world.clip(5, frames)) == first


def test_clips_do_not_drift_between_versions() -> None:
    """The shipped weights were trained on exactly this world."""
    assert [_digest(world.clip(seed, 8, split)) for seed, split in ((0, "train"), (7, "eval"))] == [  # type: ignore[arg-type]
        "c31c509b9cd65137",
        "c9809dcec0e7634c",
    ]


def test_frames_can_be_drawn_one_by_one() -> None:
    clip = world.clip(11, 16)
    assert clip.frames.shape == (16, 96, 96, 3)
    assert clip.frames.dtype == np.uint8
    picked = [13, 2, 7]
    assert np.array_equal(clip.render_frames(picked), clip.frames[picked])


def test_time_stamps_and_enlarged_frames() -> None:
    clip = world.clip(3, 4, fps=2.0)
    assert clip.pts_seconds.tolist() == [0.0, 0.5, 1.0, 1.5]
    assert clip.render(192).shape == (4, 192, 192, 3)
    assert np.array_equal(world.upscale(clip.frames, 192, nearest=True)[:, ::2, ::2], clip.frames)


def test_splits_share_no_texture_no_noise_and_no_clip() -> None:
    train = {textures.texture("train", i).tobytes() for i in range(textures.TEXTURES_PER_SPLIT)}
    held_out = {textures.texture("eval", i).tobytes() for i in range(textures.TEXTURES_PER_SPLIT)}
    assert len(train) == len(held_out) == textures.TEXTURES_PER_SPLIT
    assert not train & held_out
    assert not np.array_equal(textures.noise("train", 4), textures.noise("eval", 4))
    for purpose in ("clip", "crowd", "stream", "chapter"):
        draws = [seeds.generator(split, purpose, 1).random() for split in ("train", "eval")]
        assert draws[0] != draws[1]
    assert world.clip(4, 16, "train").script != world.clip(4, 16, "eval").script


def _pattern(wording: str) -> re.Pattern[str]:
    escaped = re.escape(wording).replace(r"\{a\}", "[a-z0-9 ]+?").replace(r"\{b\}", "[a-z0-9 ]+?")
    return re.compile(escaped + r"\??")


def test_held_out_wordings_are_never_asked_in_training() -> None:
    held_out = [_pattern(wordings.held_out(family)) for family in wordings.WORDINGS]
    usual = [_pattern(w) for family in wordings.WORDINGS for w in wordings.training(family)]
    for seed in range(150):
        for question in world.clip(seed, 16, "train", 10).questions:
            assert not any(p.fullmatch(question.text) for p in held_out), question.text
        for question in world.clip(seed, 16, "eval", 10).questions:
            assert not any(p.fullmatch(question.text) for p in usual), question.text


def test_evidence_points_at_the_drawn_object() -> None:
    """Where coverage is high, pixels have the object's colour."""
    checked = 0
    for seed in range(40):
        clip = world.clip(seed, 8)
        for thing, coverage in zip(clip.script.things, clip.coverage, strict=True):
            assert coverage[: thing.start].sum() == coverage[thing.stop :].sum() == 0
            for frame in range(thing.start, thing.stop):
                near = abs(clip.frames[frame].astype(int) - np.array(thing.rgb)).max(-1) < 60
                cells = near.reshape(6, 16, 6, 16).mean((1, 3))
                best = np.unravel_index(coverage[frame].argmax(), (6, 6))
                share = 0.05 if thing.role == "digit" else 0.6 * coverage[frame][best]
                assert cells[best] >= share, (seed, thing.kind, frame)
                checked += 1
    assert checked > 200


def test_every_question_has_evidence_and_known_words() -> None:
    types: set[str] = set()
    for seed in range(200):
        clip = world.clip(seed, 16, "train" if seed % 2 else "eval", 10)
        assert len({(q.text, q.answer) for q in clip.questions}) >= len(clip.questions) - 2
        for question in clip.questions:
            types.add(question.type)
            evidence = clip.evidence(question)
            assert evidence.shape == (16, 6, 6)
            assert evidence.max() > 0.05
            assert clip.evidence_by_thing(question).shape[0] == len(question.spans)
            assert UNKNOWN not in encode(question.text) + encode(question.answer)
            assert question.group in {"needle", "main", "global"}
    assert types == set(world.QUESTION_TYPES)


def test_world_statistics() -> None:
    clips = [world.clip(seed, 16) for seed in range(300)]
    scenes = np.array([len(c.script.scenes) for c in clips])
    assert set(scenes) == {1, 2, 3, 4}
    assert (
        np.mean(
            [
                len({t.scene for t in c.script.things if t.role == "main"})
                < sum(t.role == "main" for t in c.script.things)
                for c in clips
            ]
        )
        > 0.2
    )
    for clip in clips:
        shaped = [t for t in clip.script.things if t.role != "digit"]
        assert len({t.kind for t in shaped}) == len({t.color for t in shaped}) == len(shaped)
        brief = [t for t in clip.script.things if t.role != "main"]
        assert all(t.stop - t.start <= 2 for t in brief)
        shown = np.zeros(16, int)
        for thing in brief:
            shown[thing.start : thing.stop] += 1
        assert shown.max(initial=0) <= 1


def test_focus_and_wording_can_be_chosen() -> None:
    clips = [world.clip(s, 4, focus={"motion": 50.0}, one_scene_share=1.0, questions=2) for s in range(40)]
    assert all(len(c.script.scenes) == 1 for c in clips)
    assert np.mean([c.questions[0].type == "motion" for c in clips]) > 0.7
    plain, reworded = world.clip(3, 16, "eval"), world.clip(3, 16, "eval", wording="train")
    assert np.array_equal(plain.frames, reworded.frames)
    assert [q.text for q in plain.questions] != [q.text for q in reworded.questions]


def test_crowded_frame_labels_follow_the_objects() -> None:
    frame = crowd(2, "train")
    assert len(frame.things) >= 5
    for thing in frame.things:
        row, col = thing.center(0)
        assert frame.kinds[(row // 16) * 6 + col // 16] != BACKGROUND


def test_crowded_pairs_of_frames_have_the_labels_of_both() -> None:
    pairs = [crowd(seed, "train", frames=2) for seed in range(40)]
    spans = {(t.start, t.stop) for pair in pairs for t in pair.things}
    assert spans == {(0, 1), (1, 2), (0, 2)}
    for seed, pair in enumerate(pairs):
        single = crowd(seed, "train")
        assert pair.images.shape == (2, 96, 96, 3)
        assert [t.kind for t in pair.things] == [t.kind for t in single.things]
        for thing in pair.things:
            covered = [cell_coverage(thing.kind, thing.half_pixels, center) for center in thing.centers]
            assert all(pair.kinds[share.argmax()] != BACKGROUND for share in covered if share.max() > 0.12)
    assert (pairs[0].images[0] != pairs[0].images[1]).any()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"seed": -1}, InvalidValueError),
        ({"seed": 1.5}, InvalidTypeError),
        ({"seed": 1, "frames": 0}, InvalidValueError),
        ({"seed": 1, "frames": 10_000}, InvalidValueError),
        ({"seed": 1, "frames": True}, InvalidTypeError),
        ({"seed": 1, "split": "test"}, InvalidValueError),
        ({"seed": 1, "questions": 65}, InvalidValueError),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], error: type[Exception]) -> None:
    name = list(arguments)[-1]
    with pytest.raises(error, match=name):
        world.clip(**arguments)  # type: ignore[arg-type]
