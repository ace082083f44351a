"""Chat completions about the shipped clips with the embedded model: the answers are those of ``ask``."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from streamprune.errors import InvalidValueError
from streamprune.pipelines.offline import VideoLLM, load
from streamprune.pipelines.together import Videos
from streamprune.readers import open_source
from streamprune.web.openai_app import create_openai_app, served_name
from streamprune.web.openai_options import ApiOptions
from streamprune.web.options import WebOptions
from tests.web.openai_client import CLIP, CLIPS, QUESTION, data_url, events, request, said, user

FRAMES = 4
VIDEO = data_url(CLIP.read_bytes())
PLACE = "messages[0].content[0].video_url"
Json = dict[str, Any]


@pytest.fixture(scope="module")
def vlm() -> VideoLLM:
    return load("embedded")


@pytest.fixture(scope="module")
def client(vlm: VideoLLM) -> Iterator[TestClient]:
    options = ApiOptions(media_root=CLIPS, num_frames=FRAMES, max_new_tokens=16)
    app = create_openai_app(vlm, WebOptions(), options)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield client


def completed(client: TestClient, *messages: Json, **fields: Any) -> Json:
    response = client.post("/v1/chat/completions", json=request(*messages, **fields))
    assert response.status_code == 200, response.text
    answer: Json = response.json()
    return answer


def text_of(answer: Json) -> str:
    text: str = answer["choices"][0]["message"]["content"]
    return text


@pytest.mark.parametrize("url", [VIDEO, CLIP.as_uri(), f"file://localhost{CLIP}"])
def test_it_answers_what_ask_answers(client: TestClient, vlm: VideoLLM, url: str) -> None:
    expected = vlm.ask(CLIP, QUESTION, num_frames=FRAMES, max_new_tokens=16)
    answer = completed(client, user(QUESTION, url))
    assert text_of(answer) == expected.text == "purple"
    assert (answer["object"], answer["model"]) == ("chat.completion", "embedded")
    assert answer["choices"][0]["finish_reason"] == "stop"
    stats = expected.stats
    assert answer["usage"] == {
        "prompt_tokens": stats.prompt_tokens,
        "completion_tokens": stats.new_tokens,
        "total_tokens": stats.prompt_tokens + stats.new_tokens,
    }
    told = answer["streamprune"]
    kept = (told["tokens_in"], told["tokens_kept"], told["frames"])
    assert kept == (stats.tokens_in, stats.tokens_kept, stats.frames)
    assert set(told["ms"]) == {
        "queue", "decode", "preprocess", "encode", "choose", "reduce", "prefill", "generate"
    }  # fmt: skip


@pytest.mark.parametrize("question", ["which shape is red?", "count the scenes in the video"])
def test_a_request_chooses_its_method(client: TestClient, vlm: VideoLLM, question: str) -> None:
    expected = vlm.ask(CLIP, question, recipe="fastvid", keep_ratio=0.25, num_frames=8)
    how = {"recipe": "fastvid", "keep_ratio": 0.25, "num_frames": 8}
    answer = completed(client, user(question, VIDEO), streamprune=how)
    assert text_of(answer) == expected.text
    told = answer["streamprune"]
    assert (told["recipe"], told["tokens_kept"]) == ("fastvid", expected.stats.tokens_kept)
    assert told["tokens_kept"] == told["tokens_in"] // 4
    assert answer["usage"]["prompt_tokens"] == expected.stats.prompt_tokens


def test_frames_a_second(client: TestClient, vlm: VideoLLM) -> None:
    answer = completed(client, user(QUESTION, VIDEO), streamprune={"fps": 1})
    assert answer["streamprune"]["frames"] == vlm.ask(CLIP, QUESTION, fps=1).stats.frames != FRAMES


def test_a_stream_says_the_same_in_pieces(client: TestClient) -> None:
    body = request(user(QUESTION, VIDEO), stream=True, stream_options={"include_usage": True})
    response = client.post("/v1/chat/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    chunks = events(response.text)
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    whole = completed(client, user(QUESTION, VIDEO))
    assert said(chunks) == text_of(whole)
    ends = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert ends[-1] == "stop"
    assert set(ends[:-1]) == {None}
    assert (chunks[-1]["choices"], chunks[-1]["usage"]) == ([], whole["usage"])
    assert chunks[-2]["streamprune"]["tokens_kept"] == whole["streamprune"]["tokens_kept"]


def test_a_conversation_is_that_of_a_chat(client: TestClient, vlm: VideoLLM) -> None:
    chat = vlm.chat(CLIP, num_frames=FRAMES)
    first = chat.ask(QUESTION)
    second = chat.ask("which shape is red?")
    answer = completed(
        client,
        user(QUESTION, VIDEO),
        {"role": "assistant", "content": first.text, "refusal": None},
        user("which shape is red?"),
    )
    assert text_of(answer) == second.text
    # of the first answer all but the end token was in the cache of the chat
    cached = first.stats.prompt_tokens + first.stats.new_tokens - 1
    assert answer["usage"]["prompt_tokens"] == cached + second.stats.prompt_tokens


def test_what_the_system_says_begins_the_question(client: TestClient, vlm: VideoLLM) -> None:
    system = {"role": "system", "content": [{"type": "text", "text": "answer briefly ."}]}
    answer = completed(client, system, user(QUESTION, VIDEO))
    expected = vlm.ask(CLIP, f"answer briefly .\n{QUESTION}", num_frames=FRAMES)
    assert (text_of(answer), answer["usage"]["prompt_tokens"]) == (
        expected.text,
        expected.stats.prompt_tokens,
    )


def test_a_video_is_encoded_once(client: TestClient) -> None:
    how: Json = {"num_frames": 3}
    before = completed(client, user(QUESTION, VIDEO), streamprune=how)["streamprune"]
    # the same file by another way, another question, another number of tokens kept
    how |= {"recipe": "stride", "keep_ratio": 0.5}
    again = completed(client, user("which shape is red?", CLIP.as_uri()), streamprune=how)["streamprune"]
    other = completed(client, user(QUESTION, VIDEO), streamprune={"num_frames": 2})["streamprune"]
    assert [one["encoded_before"] for one in (before, again, other)] == [False, True, False]
    assert before["ms"]["encode"] > 0
    assert (again["ms"]["decode"], again["ms"]["encode"]) == (0, 0)


def test_frames_one_by_one(client: TestClient, vlm: VideoLLM) -> None:
    """As vLLM's clients send them: pictures with commas between them."""
    with open_source(CLIP) as source:
        images = [frame.image for frame in source.sample([0.5, 2.0, 4.0, 6.0, 7.5])]
    pieces = [png(image) for image in images]
    url = data_url(b"", "video/jpeg") + ",".join(data_url(piece).partition(",")[2] for piece in pieces)
    answer = completed(client, user(QUESTION, url, fps=0.5), streamprune={"num_frames": 5})
    expected = vlm.ask(np.stack(images), QUESTION, num_frames=5)
    assert (text_of(answer), answer["streamprune"]["frames"]) == (expected.text, 5)
    assert answer["usage"]["prompt_tokens"] == expected.stats.prompt_tokens


def png(image: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")  # Pillow goes by what is in a file, which is JPEG elsewhere
    return out.getvalue()


def test_pictures_and_videos_together(client: TestClient, vlm: VideoLLM) -> None:
    with open_source(CLIP) as source:
        (frame,) = source.sample([1.0])
    message = user(QUESTION, VIDEO)
    message["content"].insert(1, {"type": "image_url", "image_url": data_url(png(frame.image), "image/png")})
    answer = completed(client, message)
    expected = vlm.ask(
        Videos(vlm.encode(CLIP, num_frames=FRAMES), vlm.encode(frame.image, num_frames=1)), QUESTION
    )
    assert text_of(answer) == expected.text
    assert answer["streamprune"]["tokens_in"] == expected.stats.tokens_in
    assert answer["usage"]["prompt_tokens"] == expected.stats.prompt_tokens


@pytest.mark.parametrize(
    ("fields", "text", "reason"),
    [
        ({"max_tokens": 2}, "purple", "stop"),  # the word and the end token
        ({"max_tokens": 1}, "purple", "length"),
    ],
)
def test_an_answer_that_was_cut_says_so(client: TestClient, fields: Json, text: str, reason: str) -> None:
    answer = completed(client, user(QUESTION, VIDEO), **fields)
    assert (text_of(answer), answer["choices"][0]["finish_reason"]) == (text, reason)
    assert answer["usage"]["completion_tokens"] == fields["max_tokens"]


def test_an_answer_ends_before_a_text_to_stop_at(client: TestClient) -> None:
    assert text_of(completed(client, user(QUESTION, VIDEO), stop=["ple"])) == "pur"


def test_models_and_health(client: TestClient) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    listed = client.get("/v1/models").json()
    assert (listed["object"], [model["id"] for model in listed["data"]]) == ("list", ["embedded"])
    assert client.get("/v1/models/embedded").json() == listed["data"][0]


def test_of_a_folder_only_the_name_is_told(tmp_path: Any) -> None:
    assert served_name(str(tmp_path)) == tmp_path.name
    assert served_name("Qwen/Qwen2.5-VL-7B-Instruct") == "Qwen/Qwen2.5-VL-7B-Instruct"


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        (request(user(QUESTION, VIDEO), model="gpt-4o"), 404, "model", "model_not_found"),
        (request(user(QUESTION, VIDEO), streamprune={"recipe": "nope"}), 400, None, "invalid_value"),
        (request(user(QUESTION, VIDEO), streamprune={"keep_ratio": 0.5}), 400, None, "invalid_value"),
        (request(user(QUESTION, data_url(b"no video"))), 422, PLACE, "unreadable_video"),
        (request(user("<video> ?", VIDEO)), 400, None, "invalid_value"),
        (request(user("why " * 9000, VIDEO)), 400, None, "context_length_exceeded"),
        (request(user(QUESTION, (CLIPS / "none.mp4").as_uri())), 404, PLACE, "file_not_found"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_what_fails_has_a_status_and_a_reason(
    client: TestClient, body: Json, status: int, param: str | None, code: str, stream: bool
) -> None:
    response = client.post("/v1/chat/completions", json={**body, "stream": stream})
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (status, param, code), error
    assert error["type"] == "invalid_request_error"
    for secret in ("/tmp", str(CLIPS), "Traceback", "streamprune-"):
        assert secret not in response.text


def test_a_recipe_of_the_server_that_cannot_be_meant(vlm: VideoLLM) -> None:
    with pytest.raises(InvalidValueError, match="keep_ratio and keep_tokens need a method"):
        create_openai_app(vlm, WebOptions(), ApiOptions(keep_ratio=0.5))
    with pytest.raises(InvalidValueError, match=r"api_key must be given where others can reach the host"):
        create_openai_app(vlm, WebOptions(host="0.0.0.0"), ApiOptions())
