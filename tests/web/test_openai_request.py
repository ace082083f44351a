"""Requests are read strictly: what cannot be meant, or not done here, is refused by its name."""

from __future__ import annotations

from typing import Any

import pytest

from streamprune.errors import InvalidTypeError, InvalidValueError
from streamprune.models.sampling import Sampling
from streamprune.web.openai_errors import ApiError
from streamprune.web.openai_options import ApiOptions
from streamprune.web.openai_request import ChatRequest, Overrides
from streamprune.web.options import WebOptions
from tests.web.openai_client import request, user

URL = "data:video/mp4;base64,AAAA"
ASKED = user("what ?", URL)
OPTIONS = ApiOptions(max_new_tokens=100, max_frames=32)
Json = dict[str, Any]


def read(*messages: Json, **fields: Any) -> ChatRequest:
    return ChatRequest.read(request(*messages, **fields), OPTIONS)


def test_a_plain_question() -> None:
    chat = read(ASKED)
    assert (chat.model, chat.said.question, chat.said.turns) == ("embedded", "what ?", ())
    assert [(part.kind, part.url, part.fps) for part in chat.said.media] == [("video", URL, None)]
    assert (chat.sampling, chat.max_new_tokens, chat.stream, chat.overrides) == (
        Sampling(), 100, False, Overrides()
    )  # fmt: skip


def test_turns() -> None:
    chat = read(
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [*ASKED["content"], {"type": "text", "text": "and why ?"}], "name": "x"},
        {"role": "assistant", "content": "because", "refusal": None, "annotations": []},
        {"role": "developer", "content": "be briefer"},
        user("more ?", URL),  # clients that send the video with every question
        {"role": "user", "content": "please"},
    )
    assert chat.said.turns == (("be brief\nwhat ?\nand why ?", "because"),)
    assert chat.said.question == "be briefer\nmore ?\nplease"
    assert len(chat.said.media) == 1


@pytest.mark.parametrize(
    ("fields", "sampling"),
    [
        ({"temperature": 0.7, "top_p": 0.9, "seed": 3}, Sampling(0.7, top_p=0.9, seed=3)),
        ({"temperature": 0, "top_p": 0.5}, Sampling()),
        ({"temperature": 0.5, "top_p": 1}, Sampling(0.5)),
        ({"top_p": 0.5}, Sampling(1.0, top_p=0.5)),
        ({"top_p": 1.0, "seed": None}, Sampling()),
        ({"stop": "."}, Sampling(stop=(".",))),
        ({"stop": [".", "!"]}, Sampling(stop=(".", "!"))),
    ],
)
def test_how_words_are_chosen(fields: Json, sampling: Sampling) -> None:
    assert read(ASKED, **fields).sampling == sampling


def test_fields_that_ask_for_nothing_are_let_through() -> None:
    chat = read(
        ASKED, n=1, logprobs=False, tools=[], response_format={"type": "text"}, user="me",
        metadata={"a": "b"}, presence_penalty=0.0, logit_bias=None, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    assert (chat.stream, chat.include_usage) == (True, True)


def test_the_newer_name_of_the_longest_answer_counts() -> None:
    assert read(ASKED, max_completion_tokens=7, max_tokens=9).max_new_tokens == 7
    assert read(ASKED, max_tokens=9).max_new_tokens == 9


@pytest.mark.parametrize(
    ("fields", "param", "reason"),
    [
        ({"n": 2}, "n", "n can only be 1"),
        ({"logprobs": True}, "logprobs", "can only be False"),
        ({"tools": [{"type": "function"}]}, "tools", "tools can only be"),
        ({"response_format": {"type": "json_object"}}, "response_format", "can only be"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "can only be 0"),
        ({"temprature": 1}, "temprature", "unknown field 'temprature'"),
        ({"temperature": 3}, "temperature", r"temperature must be in \[0, 2\]"),
        ({"temperature": "hot"}, "temperature", "must be a number"),
        ({"temperature": float("nan")}, "temperature", "got nan"),
        ({"top_p": 0}, "temperature", r"top_p must be in \(0, 1\]"),
        ({"seed": -1, "temperature": 1}, "seed", "seed must be at least 0"),
        ({"stop": [""]}, "stop", "empty text"),
        ({"stop": list("abcde")}, "stop", "at most 4"),
        ({"stop": 3}, "stop", "must be a text"),
        ({"max_tokens": 0}, "max_tokens", "at least 1"),
        ({"max_tokens": 101}, "max_tokens", "at most 100 on this server"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens", "must be an integer"),
        ({"stream": "yes"}, "stream", "stream must be True or False"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "goes with stream: true"),
        ({"streamprune": 3}, "streamprune", "must be an object"),
        ({"streamprune": {"ratio": 1}}, "streamprune.ratio", "known: recipe, keep_ratio, num_frames, fps"),
        ({"streamprune": {"recipe": "/etc/x.toml"}}, "streamprune.recipe", "must be the name of a method"),
        ({"streamprune": {"recipe": 3}}, "streamprune.recipe", "must be a name"),
        ({"streamprune": {"keep_ratio": 2}}, "streamprune", r"keep_ratio must be in \[0, 1\]"),
        ({"streamprune": {"num_frames": 33}}, "streamprune.num_frames", "at most 32"),
        ({"streamprune": {"num_frames": 0}}, "streamprune", "at least 1"),
        ({"streamprune": {"fps": 0}}, "streamprune", "fps must be in"),
        ({"model": ""}, "model", "must be the name of the model"),
    ],
)
def test_fields_that_are_refused(fields: Json, param: str, reason: str) -> None:
    with pytest.raises(ApiError, match=reason) as refused:
        read(ASKED, **fields)
    assert (refused.value.status, refused.value.param) == (400, param)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "at least one message"),
        (["hi"], r"messages\[0\] must be an object"),
        ([{"role": "user", "content": "hi"}], "must hold a video_url or image_url part"),
        ([{"role": "tool", "content": "hi"}], r"messages\[0\].role must be one of"),
        ([user(" ", URL)], "must be a question"),
        ([ASKED, {"role": "assistant", "content": "yes"}], "must be a question"),
        ([{"role": "assistant", "content": "yes"}, ASKED], "answers nothing"),
        ([ASKED, {"role": "assistant", "content": None}, ASKED], "must be text or a list of parts"),
        ([ASKED, {"role": "assistant", "content": "", "tool_calls": [{}]}], "calls tools"),
        ([{"role": "system", "content": ASKED["content"]}], "only messages of the user may hold videos"),
        ([ASKED, {"role": "assistant", "content": "a"}, user("b", URL + "BBBB")], "in the first message"),
        ([user("a", URL, URL), {"role": "assistant", "content": "a"}, user("b")], "is about one video"),
        ([user("a", *[URL] * 33)], "at most 32"),
        ([{"role": "user", "content": [{"type": "input_video"}]}], "must be a part of type text, video_url"),
        (
            [{"role": "user", "content": [{"type": "video_url", "video_url": 3}]}],
            r"\.url must be text",
        ),
        ([user("a", URL, size=3)], r"unknown field .*\.size"),
        ([user("a", URL, fps="fast")], r"fps must be a number of frames a second"),
        ([user("a", URL, fps=-1)], r"above 0, got -1"),
    ],
)
def test_messages_that_are_refused(messages: list[Any], reason: str) -> None:
    with pytest.raises(ApiError, match=reason) as refused:
        read(*messages)
    assert refused.value.status == 400
    assert str(refused.value.param).startswith("messages")


@pytest.mark.parametrize("body", [None, [], "x", 3])
def test_a_body_is_an_object(body: object) -> None:
    with pytest.raises(ApiError, match="must be a JSON object"):
        ChatRequest.read(body, OPTIONS)


def test_a_server_may_keep_its_method() -> None:
    firm = ApiOptions(allow_overrides=False)
    with pytest.raises(ApiError, match="does not let requests choose"):
        ChatRequest.read(request(ASKED, streamprune={"recipe": "none"}), firm)
    assert ChatRequest.read(request(ASKED, streamprune={}), firm).overrides == Overrides()


@pytest.mark.parametrize(
    ("options", "error", "reason"),
    [
        ({"max_frames": 0}, InvalidValueError, "max_frames must be at least 1"),
        ({"max_video_bytes": 1.5}, InvalidTypeError, "max_video_bytes must be an integer"),
        ({"max_seconds": 0}, InvalidValueError, "max_seconds must be in"),
        ({"max_queue": -1}, InvalidValueError, "max_queue must be at least 0"),
        ({"num_frames": 65}, InvalidValueError, "num_frames=65 is more than max_frames=64"),
    ],
)
def test_options_that_cannot_be_meant(options: Json, error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        ApiOptions(**options)


def test_a_folder_of_videos_must_be_there(tmp_path: Any) -> None:
    with pytest.raises(InvalidValueError, match="allowed_local_media_path must be a folder that is there"):
        ApiOptions(media_root=tmp_path / "nowhere")
    assert WebOptions(host="0.0.0.0").secured().token
