"""Downloads: from public addresses only, whatever names and redirections say, within a size and a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest

from streamprune.errors import MissingDependencyError
from streamprune.web import openai_download
from streamprune.web.openai_download import download, is_public
from streamprune.web.openai_errors import ApiError

NAMES = {
    "videos.example": ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"],
    "cdn.example": ["151.101.1.69"],
    "inside.example": ["10.0.0.7"],
    "both.example": ["93.184.215.14", "127.0.0.1"],
    "xn--bcher-kva.example": ["93.184.215.14"],
}
Answer = Callable[[httpx2.Request], httpx2.Response]


def fetch(
    url: str, answer: Answer, max_bytes: int = 1000, max_seconds: float = 5
) -> tuple[bytes, list[httpx2.Request]]:
    """What comes from ``url`` when servers ``answer`` so, and what they were sent."""
    sent: list[httpx2.Request] = []

    def note(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        return answer(request)

    async def resolve(host: str, port: int) -> list[str]:
        if host.replace(".", "").isdigit() or ":" in host:
            return [host]
        if host not in NAMES:
            raise OSError("unknown")
        return NAMES[host]

    found = asyncio.run(
        download(
            url, max_bytes, max_seconds, param="p", resolve=resolve, transport=httpx2.MockTransport(note)
        )
    )
    return found, sent


def refused(status: int, reason: str) -> Any:
    return pytest.raises(ApiError, match=reason, check=lambda error: error.status == status)


def film(request: httpx2.Request) -> httpx2.Response:
    return brings(b"film")


def brings(data: bytes) -> httpx2.Response:
    return httpx2.Response(200, headers={"content-length": str(len(data))}, stream=httpx2.ByteStream(data))


def test_the_address_that_was_checked_is_connected_to() -> None:
    data, (request,) = fetch("https://user:secret@videos.example:8443/a%20b.mp4?key=1#top", film)
    assert data == b"film"
    assert str(request.url) == "https://93.184.215.14:8443/a%20b.mp4?key=1"
    assert request.headers["host"] == "videos.example:8443"
    assert request.extensions["sni_hostname"] == "videos.example", "the certificate is that of the name"
    assert "authorization" not in request.headers
    assert fetch("https://bücher.example/", film)[1][0].headers["host"] == "xn--bcher-kva.example"


def test_redirections_are_followed_if_they_are_public() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.headers["host"] == "cdn.example":
            return film(request)
        where = "//cdn.example/y" if request.url.path == "/x" else "/x"
        return httpx2.Response(302, headers={"location": where})

    data, sent = fetch("https://videos.example/start", answer)
    assert data == b"film"
    assert [str(request.url) for request in sent] == [
        "https://93.184.215.14/start", "https://93.184.215.14/x", "https://151.101.1.69/y"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("https://inside.example/", "not a public one"),
        ("https://127.0.0.1/", "not a public one"),
        ("https://169.254.169.254/latest/meta-data", "not a public one"),
        ("https://[::1]/", "not a public one"),
        ("https://[::ffff:10.0.0.1]/", "not a public one"),
        ("http://videos.example/", "only https addresses"),
        ("file:///etc/passwd", "only https addresses"),
        ("https://[bad/", "what is no address"),
    ],
)
def test_nothing_private_is_reached_by_redirection(where: str, reason: str) -> None:
    sent = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request.url.host)
        return httpx2.Response(307, headers={"location": where})

    with pytest.raises(ApiError, match=reason):
        fetch("https://videos.example/", answer)
    assert sent == ["93.184.215.14"]


@pytest.mark.parametrize(
    ("url", "status", "reason"),
    [
        ("https://inside.example/a.mp4", 400, "not a public one"),
        ("https://both.example/a.mp4", 400, "not a public one"),
        ("https://localhost.nowhere/a.mp4", 422, "its host is not known"),
        ("https:///a.mp4", 400, "only https addresses"),
        ("https://videos.example:99999/", 400, "only https addresses"),
        ("http://videos.example/", 400, "only https addresses"),
    ],
)
def test_addresses_that_are_not_asked(url: str, status: int, reason: str) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        raise AssertionError("nothing may be sent")

    with refused(status, reason):
        fetch(url, answer)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True), ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True), ("127.0.0.1", False),
        ("10.1.2.3", False), ("172.16.0.1", False), ("192.168.1.1", False), ("169.254.169.254", False),
        ("100.64.0.1", False), ("0.0.0.0", False), ("224.0.0.1", False), ("255.255.255.255", False),
        ("240.0.0.1", False), ("::1", False), ("::", False), ("fe80::1%eth0", False), ("fd00::1", False),
        ("ff02::1", False), ("::ffff:127.0.0.1", False), ("::ffff:93.184.215.14", True),
        ("2002:7f00:1::", False), ("64:ff9b::7f00:1", False), ("64:ff9b::5db8:d70e", True), ("name", False),
    ],
)  # fmt: skip
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


async def _drops(size: int, pause_seconds: float) -> AsyncIterator[bytes]:
    while True:
        yield bytes(size)
        await asyncio.sleep(pause_seconds)


class _Endless(httpx2.AsyncByteStream):
    def __init__(self, size: int, pause_seconds: float) -> None:
        self._size, self._pause_seconds = size, pause_seconds

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for drop in _drops(self._size, self._pause_seconds):
            yield drop


def test_it_ends_when_too_much_comes() -> None:
    with refused(413, "5000 bytes or more, of at most 1000"):
        fetch("https://videos.example/", lambda r: brings(bytes(5000)))
    with refused(413, "1001 bytes or more, of at most 1000"):
        fetch("https://videos.example/", lambda r: httpx2.Response(200, stream=_Endless(7 * 11 * 13, 0)))
    data, _ = fetch("https://videos.example/", lambda r: brings(bytes(1000)))
    assert len(data) == 1000


def test_it_ends_when_it_takes_too_long() -> None:
    """A drop now and then is enough to keep a connection, and not to keep a place."""
    with refused(422, r"longer than 0\.2 s"):
        fetch(
            "https://videos.example/",
            lambda r: httpx2.Response(200, stream=_Endless(1, 0.01)),
            max_bytes=10**9,
            max_seconds=0.2,
        )


def test_what_servers_answer_instead() -> None:
    with refused(422, "its server answers with status 404"):
        fetch("https://videos.example/", lambda r: httpx2.Response(404))
    with refused(422, "redirected more than 3 times"):
        fetch("https://videos.example/", lambda r: httpx2.Response(302, headers={"location": "/again"}))

    def breaks(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused by 93.184.215.14")

    with refused(422, "^p: its server cannot be reached or broke off$"):
        fetch("https://videos.example/", breaks)


def test_without_the_client_the_install_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_download, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'streamprune\[web\]'"):
        fetch("https://videos.example/", film)
