"""Where the page is served, and what a port, a host and a token may be."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from streamprune.web.options import WebOptions
from streamprune.web.server import listen


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("localhost", True), ("LOCALHOST", True),
     ("0.0.0.0", False), ("::", False), ("192.168.1.7", False), ("localhost.example.com", False)],
)  # fmt: skip
def test_all_but_loopback_has_a_token(host: str, loopback: bool) -> None:
    options = WebOptions(host=host)
    assert options.loopback == loopback
    assert (options.secured().token is None) == loopback
    assert WebOptions(host=host, token="mine").secured().token == "mine"


def test_made_tokens_are_long_and_differ() -> None:
    tokens = {WebOptions(host="0.0.0.0").secured().token for _ in range(20)}
    assert len(tokens) == 20
    assert all(token is not None and len(token) >= 32 for token in tokens)


def test_addresses_can_be_opened() -> None:
    assert WebOptions().address(8000) == "http://127.0.0.1:8000/"
    assert WebOptions(host="0.0.0.0", token="abc").address(81) == "http://127.0.0.1:81/?token=abc"
    assert WebOptions(host="::1").address(81) == "http://[::1]:81/"
    assert WebOptions(host="cam.local", token="abc").address(81) == "http://cam.local:81/?token=abc"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"host": " "}, "host must be a name or address"),
        ({"port": -1}, "port must be at least 0, got -1"),
        ({"port": 65536}, r"port must be in 0\.\.65535, got 65536"),
        ({"port": "80"}, "port must be an integer"),
        ({"token": ""}, "token must be letters, digits"),
        ({"token": "a b"}, "token must be letters, digits"),
        ({"token": 7}, "token must be text, got int"),
        ({"max_upload_bytes": 0}, "max_upload_bytes must be at least 1"),
        ({"max_sessions": 0}, "max_sessions must be at least 1"),
        ({"idle_seconds": 0.5}, r"idle_seconds must be in \[1, 1e\+09\]"),
        ({"fps": 0}, r"fps must be in \[0\.01, 60\]"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
    ],
)
def test_what_cannot_be_served(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WebOptions(**given)


def test_a_port_that_is_taken() -> None:
    with listen(WebOptions(port=0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(
            ValueError, match=rf"cannot listen on 127\.0\.0\.1:{port}: the port is in use; .*--port"
        ):
            listen(WebOptions(port=port))
    with listen(WebOptions(port=port)) as again:
        assert again.getsockname()[1] == port


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("no-such-host.invalid", "host 'no-such-host.invalid' is no name or address that is known here"),
        ("192.0.2.1", r"cannot listen on 192\.0\.2\.1:0: this machine does not have that address"),
    ],
)
def test_a_host_that_is_none(host: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = socket.getaddrinfo

    def offline(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return known(name, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    with pytest.raises(ValueError, match=message):
        listen(WebOptions(host=host, port=0))
