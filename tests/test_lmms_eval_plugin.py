"""The plug-in for lmms-eval as far as it goes without lmms-eval; the rest is tests/integrations."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from streamprune.errors import InvalidTypeError, InvalidValueError, MissingDependencyError
from streamprune.integrations.lmms_eval import manifest
from streamprune.integrations.lmms_eval_requests import Asked, Shown, answer_settings

ROOT = Path(__file__).resolve().parents[1]
VIDEO = {"type": "video", "url": "/clips/a.mp4"}


def text(said: str) -> dict[str, str]:
    return {"type": "text", "text": said}


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def test_the_entry_point_loads_nothing_heavy() -> None:
    module = "streamprune.integrations.lmms_eval"
    script = (
        f"import sys, {module}, streamprune.integrations.lmms_eval_requests\n"
        "print(sorted({'torch', 'transformers', 'lmms_eval', 'av'} & sys.modules.keys()))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    name, _, attribute = declared["lmms_eval.models"]["streamprune"].partition(":")
    assert getattr(import_module(name), attribute) is manifest


def test_without_lmms_eval_the_install_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmms_eval", None)
    with pytest.raises(MissingDependencyError, match=r"'lmms-eval'.*pip install 'streamprune\[eval\]'"):
        manifest()


def test_the_class_it_names_is_there() -> None:
    """Read, not imported: it is lmms-eval's subclass."""
    source = (ROOT / "streamprune" / "integrations" / "lmms_eval_model.py").read_text()
    assert "class StreampruneModel(lmms):" in source
    named = (ROOT / "streamprune" / "integrations" / "lmms_eval.py").read_text()
    assert '"streamprune.integrations.lmms_eval_model.StreampruneModel"' in named


def test_a_question_about_a_video() -> None:
    asked = Asked.read([user(VIDEO, text("why ?"), text("A. yes"))])
    assert asked == Asked((Shown("/clips/a.mp4"),), (), "why ?\nA. yes")


def test_turns_and_what_the_system_says() -> None:
    asked = Asked.read(
        [
            {"role": "system", "content": "be brief"},
            user(VIDEO, text("why ?")),
            {"role": "assistant", "content": [text("because")]},
            user(text("really ?")),
        ]
    )
    assert (asked.turns, asked.question) == ((("be brief\nwhy ?", "because"),), "really ?")


@pytest.mark.parametrize(
    ("part", "shown"),
    [
        ({**VIDEO, "start_time": 2, "end_time": 5.5}, Shown("/clips/a.mp4", 2.0, 5.5)),
        ({**VIDEO, "start_time": None}, Shown("/clips/a.mp4")),
        (
            {"type": "video", "url": {"path": "/clips/b.mp4", "video_start": 1, "video_end": 3}},
            Shown("/clips/b.mp4", 1.0, 3.0),
        ),
        ({"type": "image", "url": "/clips/a.png"}, Shown("/clips/a.png", is_picture=True)),
    ],
)
def test_where_a_video_is(part: dict[str, Any], shown: Shown) -> None:
    assert Asked.read([user(part, text("?"))]).shown == (shown,)


def test_only_files_are_known_again() -> None:
    held = [object(), object()]
    assert [Shown(one).key for one in held] == [None, None]
    assert Shown("a.mp4").key == Shown("a.mp4").key != Shown("a.mp4", 1.0).key


@pytest.mark.parametrize(
    ("given", "settings"),
    [
        ({}, {"max_new_tokens": 64, "temperature": 0.0, "stop": ()}),
        (
            {"max_new_tokens": 5, "until": "\n\n"},
            {"max_new_tokens": 5, "temperature": 0.0, "stop": ("\n\n",)},
        ),
        (
            {"until": ["", "."], "temperature": 0.7, "do_sample": False, "top_p": 0.9},
            {"max_new_tokens": 64, "temperature": 0.0, "stop": (".",)},
        ),
        (
            {"temperature": 0.7, "top_p": 0.9, "num_beams": 1, "image_aspect_ratio": "pad"},
            {"max_new_tokens": 64, "temperature": 0.7, "stop": (), "top_p": 0.9, "seed": 3},
        ),
        ({"do_sample": True}, {"max_new_tokens": 64, "temperature": 1.0, "stop": (), "seed": 3}),
    ],
)
def test_how_a_task_wants_its_answers(given: dict[str, Any], settings: dict[str, Any]) -> None:
    assert answer_settings(given, 64, 3) == settings


@pytest.mark.parametrize(
    ("messages", "error", "reason"),
    [
        ([user(text("why ?"))], InvalidValueError, "comes without a video or picture"),
        ([user(VIDEO)], InvalidValueError, "must end with a question"),
        ([user(VIDEO, text("a")), {"role": "assistant", "content": "b"}], InvalidValueError, "must end with"),
        ([user({"type": "audio", "url": "a.wav"}, text("?"))], InvalidValueError, "a task shows 'audio'"),
        ([user({"type": "video"}, text("?"))], InvalidValueError, "a video of a task has no url"),
        ([{"role": "user", "content": 3}], InvalidTypeError, "must be text or a list, got int"),
        (
            [user(VIDEO, VIDEO, text("a")), {"role": "assistant", "content": "b"}, user(text("c"))],
            InvalidValueError,
            "several turns can be about one video only",
        ),
    ],
)
def test_what_no_video_model_is_asked(messages: Any, error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        Asked.read(messages)


def test_there_is_no_search_in_beams() -> None:
    with pytest.raises(InvalidValueError, match="num_beams must be 1, got 4"):
        answer_settings({"num_beams": 4}, 64, None)
