"""Who is let in: by host, origin, size and token, over HTTP and WebSockets, before anything else happens."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from websockets.exceptions import InvalidStatus

from streamprune.web.app import create_app
from streamprune.web.options import WebOptions
from tests.web.page_server import PageServer, hear, served
from tests.web.quick_stream import QuickStream

TOKEN = "a-token_of.this~test"
ABOUT = {"model": "quick", "settings": {}}
PATHS = ["/", "/health", "/static/app.js", "/static/index.html", "/nowhere"]


@pytest.fixture(scope="module")
def opened() -> list[QuickStream]:
    """The streams that were opened on the locked server."""
    return []


@pytest.fixture(scope="module")
def locked(opened: list[QuickStream]) -> Iterator[PageServer]:
    """A server with a token."""

    def open_stream() -> QuickStream:
        opened.append(QuickStream())
        return opened[-1]

    options = WebOptions(port=0, token=TOKEN, max_upload_bytes=1000)
    with served(create_app(open_stream, options, ABOUT), options) as server:  # type: ignore[arg-type]
        yield server


@pytest.fixture(scope="module")
def unlocked() -> Iterator[PageServer]:
    """A server of this machine only, without one."""
    options = WebOptions(port=0, max_upload_bytes=1000)
    with served(create_app(QuickStream, options, ABOUT), options) as server:  # type: ignore[arg-type]
        yield server


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("query", "headers", "reason"),
    [
        ("", {}, "a token is needed"),
        ("?token=wrong", {}, "a wrong token was shown"),
        ("?token=", {}, "a token is needed"),
        ("", {"Authorization": "Bearer wrong"}, "a wrong token was shown"),
        ("", {"Authorization": f"Basic {TOKEN}"}, "a wrong token was shown"),
        ("", {"Cookie": f"other={TOKEN}"}, "a token is needed"),
        ("", {"Cookie": "\xff\xfe;;=,"}, "a token is needed"),
    ],
)
def test_without_the_token_nothing_is_shown(
    locked: PageServer, path: str, query: str, headers: dict[str, str], reason: str
) -> None:
    response, text = locked.get(path + query, **headers)
    assert response.status == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert reason in text
    assert "streamprune serve" in text
    assert TOKEN not in text


def test_the_token_of_the_address_becomes_a_cookie(locked: PageServer) -> None:
    response, _ = locked.get(f"/?token={TOKEN}")
    assert (response.status, response.headers["location"]) == (303, "/")
    cookie = response.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    for others in ("", 'theirs={"a": [1, 2]}; ', "x; =; ;"):
        shown, page = locked.get("/", Cookie=others + cookie.split(";")[0])
        assert shown.status == 200
        assert "<title>streamprune</title>" in page


def test_the_redirection_stays_here(locked: PageServer) -> None:
    response, _ = locked.get(f"//example.com/?token={TOKEN}")
    assert response.headers["location"] == "/"


def test_programs_show_it_in_a_header(locked: PageServer) -> None:
    for path, status in zip(PATHS, [200, 200, 200, 200, 404], strict=True):
        assert locked.get(path, Authorization=f"Bearer {TOKEN}")[0].status == status


@pytest.mark.parametrize("query", ["", "?token=wrong", f"?session={TOKEN}"])
def test_no_stream_is_opened_without_the_token(
    locked: PageServer, opened: list[QuickStream], query: str
) -> None:
    before = len(opened)
    with pytest.raises(InvalidStatus) as refused:
        locked.connect(query)
    assert refused.value.response.status_code == 401
    assert b"token" in refused.value.response.body
    assert len(opened) == before


def test_a_websocket_with_the_token(locked: PageServer) -> None:
    with locked.connect(f"?token={TOKEN}") as page:
        assert hear(page, "hello")["model"] == "quick"
    with locked.connect(additional_headers={"Authorization": f"Bearer {TOKEN}"}) as page:
        assert hear(page, "hello")["mode"] == "page"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[bad"])
def test_other_names_for_this_machine_are_refused(unlocked: PageServer, host: str) -> None:
    response, text = unlocked.get("/", Host=host)
    assert response.status == 421
    assert "open it as 127.0.0.1" in text


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:1", "[::1]:8000", "LOCALHOST"])
def test_this_machine_s_own_names(unlocked: PageServer, host: str) -> None:
    assert unlocked.get("/", Host=host)[0].status == 200


def test_with_a_token_any_name_will_do(locked: PageServer) -> None:
    headers = {"Host": "cam.example", "Authorization": f"Bearer {TOKEN}"}
    assert locked.get("/", **headers)[0].status == 200


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "http://127.0.0.1:1", "http://localhost", "null", "file://", "http://[", "x"],
)
def test_pages_of_others_open_no_websocket(unlocked: PageServer, origin: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        unlocked.connect(additional_headers={"Origin": origin})
    assert refused.value.response.status_code == 403
    assert b"open the server's own page" in refused.value.response.body


def test_a_page_behind_a_proxy_opens_one(locked: PageServer) -> None:
    headers = {"Origin": "https://cam.example", "Authorization": f"Bearer {TOKEN}"}
    with locked.connect(name="cam.example", additional_headers=headers) as page:
        assert hear(page, "hello")["mode"] == "page"


def test_nobody_is_served_to_others_without_a_token() -> None:
    with pytest.raises(
        ValueError, match=r"token must be given where others can reach the host, .*'0\.0\.0\.0'"
    ):
        create_app(QuickStream, WebOptions(host="0.0.0.0"), ABOUT)  # type: ignore[arg-type]


def test_an_origin_does_not_stand_for_a_token(locked: PageServer) -> None:
    with pytest.raises(InvalidStatus) as refused:
        locked.connect(additional_headers={"Origin": f"http://127.0.0.1:{locked.port}"})
    assert refused.value.response.status_code == 401


def test_its_own_page_opens_one(unlocked: PageServer) -> None:
    with unlocked.connect(additional_headers={"Origin": f"http://127.0.0.1:{unlocked.port}"}) as page:
        assert hear(page, "hello")["history"] == []


@pytest.mark.parametrize(("size", "status"), [(1000, 405), (1001, 413)])
def test_large_uploads_are_refused(unlocked: PageServer, size: int, status: int) -> None:
    response, text = unlocked.post("/", bytes(size))
    assert response.status == status
    if status == 413:
        assert "1001 bytes are more than the 1000 taken in (--max-upload-bytes)" in text


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_has_safe_headers(unlocked: PageServer, path: str) -> None:
    response, _ = unlocked.get(path)
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert "unsafe" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize("path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py"])
def test_only_the_page_s_files_are_handed_out(unlocked: PageServer, path: str) -> None:
    assert unlocked.get(path)[0].status == 404
