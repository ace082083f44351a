"""Who is served when: keys, a bound on waiting requests, clients that leave, requests that take too long."""

from __future__ import annotations

import http.client
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient
from typer.testing import CliRunner

from streamprune.cache.content_hash import FileState
from streamprune.cli import app as command
from streamprune.cli.model_choice import ModelChoice
from streamprune.pipelines.answers import Answer, AnswerStream
from streamprune.pipelines.encoding import EncodedVideo
from streamprune.recipe import Recipe
from streamprune.tokens import VideoGrid, VisualTokens
from streamprune.web.openai_app import create_openai_app
from streamprune.web.openai_completions import ChatCompletions
from streamprune.web.openai_media import Media
from streamprune.web.openai_messages import MediaPart
from streamprune.web.openai_options import ApiOptions
from streamprune.web.openai_videos import EncodedVideos, Look, num_bytes
from streamprune.web.options import WebOptions
from streamprune.web.server import listen
from tests.web.openai_client import CLIP, CLIPS, data_url, events, request, said, user
from tests.web.page_server import PageServer, served
from tests.web.quick_stream import quick_answer

VIDEO = data_url(CLIP.read_bytes())
PATH = "/v1/chat/completions"
PATIENCE_SECONDS = 10


class QuickModel:
    """The methods of a VideoLLM that the server calls; every token waits for ``gate``."""

    def __init__(self) -> None:
        self.family = SimpleNamespace(default_num_frames=4, checkpoint=SimpleNamespace(name="embedded"))
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Semaphore(0)
        self.ended: list[str] = []
        self.settings: dict[str, Any] = {}
        self.fails: Exception | None = None

    def encode(
        self, source: Any, *, progress: Callable[[str, int, int], None], **settings: Any
    ) -> EncodedVideo:
        progress("decode", 1, 1)
        tokens = VisualTokens(torch.zeros(4, 250), VideoGrid(1, 2, 2), {}, (0.0,))
        return EncodedVideo(tokens=tokens, source="s", warnings=(), decode_ms=1, preprocess_ms=1, encode_ms=1)

    def chat(self, encoded: EncodedVideo, **settings: Any) -> QuickModel:
        self.settings = settings
        return self

    def recall(self, question: str, answer: str) -> None:
        raise AssertionError("no earlier turn was sent")

    def ask(self, question: str, *, stream: bool) -> AnswerStream:
        def work(say: Callable[[str], None], stop: threading.Event) -> Answer:
            self.begun.release()
            if self.fails is not None:
                raise self.fails
            for word in question.split():
                while not self.gate.wait(0.01):
                    if stop.is_set():
                        break
                if stop.is_set():
                    self.ended.append("stopped")
                    break
                say(word + " ")
            else:
                self.ended.append("whole")
            return quick_answer(question, question)

        return AnswerStream(work)


@pytest.fixture
def model() -> QuickModel:
    return QuickModel()


@contextmanager
def client_of(model: QuickModel, web: WebOptions | None = None, **options: Any) -> Iterator[TestClient]:
    app = create_openai_app(model, web or WebOptions(), ApiOptions(**options))  # type: ignore[arg-type]
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


class Caller:
    """Clients of a real server."""

    def __init__(self, server: PageServer, completions: ChatCompletions) -> None:
        self.server = server
        self.completions = completions
        self.connections: list[http.client.HTTPConnection] = []

    def post(self, body: dict[str, Any]) -> http.client.HTTPConnection:
        """Send a request, and do not wait for the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=PATIENCE_SECONDS)
        self.connections.append(connection)
        connection.request("POST", PATH, json.dumps(body), {"content-type": "application/json"})
        return connection

    def ask(self, question: str) -> tuple[int, Any]:
        """Send a request and wait: status and body."""
        return answer_of(self.post(request(user(question, VIDEO))))


def answer_of(connection: http.client.HTTPConnection) -> tuple[int, Any]:
    response = connection.getresponse()
    return response.status, json.loads(response.read())


@contextmanager
def callers_of(model: QuickModel, **options: Any) -> Iterator[Caller]:
    web = WebOptions(port=0)
    app = create_openai_app(model, web, ApiOptions(**options))  # type: ignore[arg-type]
    with served(app, web) as server:
        caller = Caller(server, app.state.completions)
        try:
            yield caller
        finally:
            for connection in caller.connections:
                connection.close()


def wait_for(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert true()


def test_without_the_key_nothing_is_answered(model: QuickModel) -> None:
    with client_of(model, WebOptions(host="0.0.0.0", token="a-key")) as client:
        assert client.get("/health").json() == {"status": "ok"}
        for headers in ({}, {"authorization": "Bearer b-key"}, {"authorization": "Basic a-key"}):
            for answer in (
                client.get("/v1/models?token=a-key", headers=headers),
                client.post(PATH, json=request(user("why", VIDEO)), headers=headers),
            ):
                assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
                assert answer.json()["error"]["code"] == "invalid_api_key"
                assert "a-key" not in answer.text
        assert not model.begun.acquire(blocking=False)
        shown = {"authorization": "Bearer a-key"}
        assert client.get("/v1/models", headers=shown).status_code == 200
        assert client.post(PATH, json=request(user("why", VIDEO)), headers=shown).status_code == 200


def test_pages_of_other_sites_cannot_ask(model: QuickModel) -> None:
    """Neither by a name that is made to point here, nor by what a form or a plain request may send."""
    with client_of(model) as client:
        body = json.dumps(request(user("why", VIDEO)))
        answer = client.post(PATH, content=body, headers={"host": "evil.example"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (421, "wrong_host")
        for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
            answer = client.post(PATH, content=body, headers={"content-type": kind})
            assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_type")
        asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
        answer = client.options(PATH, headers=asked)
        assert answer.status_code == 405
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 400, "invalid_json"),
        (b"{", 400, "invalid_json"),
        (b"\xff", 400, "invalid_json"),
        (b"[" * 100_000, 400, "invalid_json"),
        (b"[]", 400, "invalid_value"),
        (b" " * 1_001_336, 413, "too_large"),
    ],
)
def test_bodies_that_are_refused(model: QuickModel, content: bytes, status: int, code: str) -> None:
    def in_pieces() -> Iterator[bytes]:  # without saying how large it is
        yield content

    with client_of(model, max_video_bytes=1000) as client:
        for body in (content, in_pieces()):
            answer = client.post(PATH, content=body, headers={"content-type": "application/json"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_other_paths_and_methods(model: QuickModel) -> None:
    with client_of(model) as client:
        for answer, status, code in (
            (client.get("/v1/completions"), 404, "not_found"),
            (client.get(PATH), 405, "method_not_allowed"),
            (client.get("/v1/models/other"), 404, "model_not_found"),
        ):
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_what_nobody_foresaw_is_only_in_the_log(model: QuickModel, caplog: pytest.LogCaptureFixture) -> None:
    model.fails = RuntimeError("in /home/secret.py")
    with client_of(model) as client:
        answer = client.post(PATH, json=request(user("why", VIDEO)))
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert answer.json()["error"]["type"] == "server_error"
    assert "secret" not in answer.text
    assert "in /home/secret.py" in caplog.text


def test_settings_reach_the_model(model: QuickModel) -> None:
    how = {"temperature": 0.5, "top_p": 0.9, "seed": 3, "stop": "x", "max_tokens": 9}
    with client_of(model) as client:
        client.post(PATH, json=request(user("why", VIDEO), **how))
    del model.settings["recipe"]
    assert model.settings == {
        "decide": "each", "max_new_tokens": 9, "temperature": 0.5, "top_p": 0.9, "seed": 3, "stop": ("x",)
    }  # fmt: skip


def test_one_is_answered_while_others_wait_and_no_more_are_taken(model: QuickModel) -> None:
    model.gate.clear()
    with callers_of(model, max_queue=1) as caller:
        first = caller.post(request(user("one two", VIDEO)))
        assert model.begun.acquire(timeout=PATIENCE_SECONDS)
        second = caller.post(request(user("three", VIDEO), stream=True))
        wait_for(lambda: caller.completions.free_places == 0)
        status, refused = caller.ask("four")
        assert (status, refused["error"]["code"]) == (503, "queue_full")
        model.gate.set()
        assert answer_of(first)[1]["choices"][0]["message"]["content"] == "one two"
        assert said(events(second.getresponse().read().decode())) == "three "
        assert model.ended[:2] == ["whole", "whole"]
        wait_for(lambda: caller.completions.free_places == 2)
        assert caller.ask("five")[0] == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_is_not_answered_to_the_end(model: QuickModel, stream: bool) -> None:
    with callers_of(model, max_queue=0) as caller:
        model.gate.clear()
        leaving = caller.post(request(user("one two three", VIDEO), stream=stream))
        assert model.begun.acquire(timeout=PATIENCE_SECONDS)
        leaving.close()
        wait_for(lambda: model.ended == ["stopped"])
        model.gate.set()
        wait_for(lambda: caller.completions.free_places == 1)
        assert caller.ask("next")[0] == 200


def test_a_client_that_leaves_while_it_waits_is_not_begun_with(model: QuickModel) -> None:
    with callers_of(model, max_queue=1) as caller:
        model.gate.clear()
        first = caller.post(request(user("one", VIDEO)))
        assert model.begun.acquire(timeout=PATIENCE_SECONDS)
        waiting = caller.post(request(user("two", VIDEO)))
        wait_for(lambda: caller.completions.free_places == 0)
        waiting.close()
        wait_for(lambda: caller.completions.free_places == 1)
        model.gate.set()
        assert answer_of(first)[0] == 200
        wait_for(lambda: caller.completions.free_places == 2)
        assert caller.ask("three")[0] == 200
        assert model.ended == ["whole", "whole"]


def test_what_takes_too_long_is_ended(model: QuickModel) -> None:
    model.gate.clear()
    with client_of(model, max_seconds=0.3) as client:
        answer = client.post(PATH, json=request(user("one", VIDEO)))
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "timeout")
        assert "longer than 0.3 s" in answer.json()["error"]["message"]
        assert model.ended == ["stopped"]


def test_a_stream_that_fails_half_way_says_so(model: QuickModel) -> None:
    class Halting(QuickModel):
        def ask(self, question: str, *, stream: bool) -> AnswerStream:
            def work(say: Callable[[str], None], stop: threading.Event) -> Answer:
                say("half ")
                raise MemoryError

            return AnswerStream(work)

    with client_of(Halting()) as client:
        chunks = events(client.post(PATH, json=request(user("one", VIDEO), stream=True)).text)
    assert said(chunks[:-1]) == "half "
    assert chunks[-1]["error"]["code"] == "internal_error"


def test_videos_that_were_used_last_are_kept(model: QuickModel) -> None:
    videos = EncodedVideos(model, ApiOptions(cache_bytes=8000))  # type: ignore[arg-type]
    look, going_on = Look(Recipe.resolve(None), None, None), threading.Event()
    part = MediaPart("video", "", None, "p")

    clip = (CLIP, FileState.of(CLIP))

    def known(content: str, how: Look = look) -> bool:
        return videos.encoded(Media(part, content, clip), how, "why ?", going_on).from_cache

    assert [known("a"), known("b"), known("a"), known("c"), known("a"), known("b")] == [
        False, False, True, False, True, False
    ]  # fmt: skip
    assert videos.held_bytes == 8000 == 2 * num_bytes(model.encode(None, progress=lambda *done: None))
    assert not known("b", replace(look, num_frames=2))
    none = EncodedVideos(model, ApiOptions(cache_bytes=3999))  # type: ignore[arg-type]
    assert not any(none.encoded(Media(part, "a", clip), look, "?", going_on).from_cache for _ in range(2))
    assert none.held_bytes == 0


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["--openai", "--fps", "1"], 2, "--fps belongs to the page and does nothing with --openai"),
        (["--openai", "--token", "x"], 2, "--token belongs to the page"),
        (["--allow-https"], 2, "--allow-https goes with --openai"),
        (["--max-frames", "3"], 2, "--max-frames goes with --openai"),
        (["--openai", "--api-key", "a b"], 2, "token must be letters"),
        (["--openai", "--max-video-bytes", "many"], 2, "max_video_bytes must be bytes"),
        (["--openai", "--max-video-seconds", "0"], 2, "max_video_seconds must be in"),
        (["--openai", "--max-request-seconds", "0"], 2, "max_seconds must be in"),
        (["--openai", "--allowed-local-media-path", "nowhere"], 2, "must be a folder that is there"),
        (["--openai", "--recipe", "fastvit"], 2, "Did you mean 'fastvid'"),
        (["--openai", "--keep-ratio", "0.5"], 2, "need a method that chooses what stays"),
        (["--openai", "--num-frames", "65"], 2, "num_frames=65 is more than max_frames=64"),
        (["--openai", "--port", "0", "--model", "/nowhere"], 1, "/nowhere"),
    ],
)
def test_what_cannot_be_served_is_told(arguments: list[str], code: int, reason: str) -> None:
    result = CliRunner().invoke(command, ["serve", *arguments])
    assert (result.exit_code, reason in result.stderr) == (code, True), result.stderr


def _visit(port: int, seen: dict[str, Any]) -> None:
    """Ask as soon as there is somebody, without the key and with it, and press Ctrl-C."""
    server, deadline = PageServer(port), time.monotonic() + PATIENCE_SECONDS
    while "health" not in seen and time.monotonic() < deadline:
        with suppress(ConnectionError):
            seen["health"] = server.get("/health")[0].status
        time.sleep(0.02)
    seen["refused"] = server.get("/v1/models")[0].status
    seen["models"] = json.loads(server.get("/v1/models", Authorization="Bearer short")[1])["data"][0]["id"]
    signal.raise_signal(signal.SIGINT)


def test_it_is_served_until_it_is_interrupted(model: QuickModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ModelChoice, "load", lambda self, report: model)
    monkeypatch.setenv("STREAMPRUNE_API_KEY", "short")
    with listen(WebOptions(port=0)) as free:
        port = free.getsockname()[1]
    seen: dict[str, Any] = {}
    visitor = threading.Thread(target=_visit, args=(port, seen), name="visitor")
    visitor.start()
    arguments = ["--openai", "--port", str(port), "--allowed-local-media-path", str(CLIPS), "--allow-https"]
    result = CliRunner().invoke(command, ["serve", *arguments])
    visitor.join(PATIENCE_SECONDS)
    assert seen == {"health": 200, "refused": 401, "models": "embedded"}
    assert result.exit_code == 0
    assert f"Serving embedded at http://127.0.0.1:{port}/v1" in result.stdout
    assert f"Videos come from data: URLs, files below {CLIPS}, public https addresses." in result.stdout
    assert "short" not in result.stdout
    assert "The key has fewer than 16 characters" in result.stderr
    assert "closed" in result.stderr
