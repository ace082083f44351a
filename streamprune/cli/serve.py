"""``streamprune serve``: a page that shows a camera and answers about it, or chat completions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.text import Text

from streamprune.cli import ask_options as asking
from streamprune.cli import serve_options as options
from streamprune.cli import stream_options as streaming
from streamprune.cli.app import app, progress_bars
from streamprune.cli.model_choice import ModelChoice
from streamprune.cli.serve_openai import check_mode, serve_openai
from streamprune.errors import MissingDependencyError

if TYPE_CHECKING:
    from streamprune.pipelines.live import LiveStream
    from streamprune.readers import Source
    from streamprune.web.options import WebOptions

_NEEDED = ("starlette", "uvicorn", "websockets")
_MEMORY_BYTES = "256MB"
_QUESTION_TOKENS = 192
_NEW_TOKENS = 64
_PICTURES = 3  # of a source that are under way at once: one waits, one is decoded, one is looked at


@app.command()
def serve(
    ctx: typer.Context,
    source: options.Source = None,
    model: asking.Model = "embedded",
    recipe: asking.RecipeName = None,
    keep_ratio: asking.KeepRatio = None,
    keep_tokens: asking.KeepTokens = None,
    memory: streaming.Memory = None,
    memory_bytes: streaming.MemoryBytes = None,
    fps: options.Fps = 2.0,
    max_new_tokens: options.MaxNewTokens = None,
    host: options.Host = "127.0.0.1",
    port: options.Port = 8000,
    token: options.Token = None,
    max_upload_bytes: options.MaxUploadBytes = "2MB",
    max_sessions: options.MaxSessions = 4,
    idle_seconds: options.IdleSeconds = 600.0,
    device: asking.Device = None,
    dtype: asking.Dtype = None,
    openai: options.OpenAI = False,
    api_key: options.ApiKey = None,
    allowed_local_media_path: options.MediaRoot = None,
    allow_https: options.AllowHttps = False,
    overrides: options.Overrides = True,
    num_frames: options.NumFrames = None,
    max_video_bytes: options.MaxVideoBytes = "64MB",
    max_video_seconds: options.MaxVideoSeconds = 3600.0,
    max_frames: options.MaxFrames = 64,
    max_queue: options.MaxQueue = 8,
    max_request_seconds: options.MaxRequestSeconds = 120.0,
    cache_bytes: options.CacheBytes = "256MB",
) -> None:
    """Serve a page that shows a camera and answers about it; with --openai, chat completions about videos."""
    _check_installed()
    check_mode(ctx, openai)
    choice = ModelChoice(model, device, dtype)
    if openai:
        serve_openai(
            choice, host, port, api_key, allow_https=allow_https, allow_overrides=overrides, recipe=recipe,
            keep_ratio=keep_ratio, num_frames=num_frames, media_root=allowed_local_media_path,
            max_video_bytes=max_video_bytes, max_video_seconds=max_video_seconds, max_frames=max_frames,
            max_queue=max_queue, max_seconds=max_request_seconds, cache_bytes=cache_bytes,
            max_new_tokens=max_new_tokens,
        )  # fmt: skip
        return
    from streamprune.budget import read_bytes
    from streamprune.web.options import WebOptions

    web = WebOptions(
        host=host,
        port=port,
        token=token,
        max_upload_bytes=read_bytes("max_upload_bytes", max_upload_bytes),
        max_sessions=max_sessions,
        idle_seconds=idle_seconds,
        fps=fps,
        max_new_tokens=_NEW_TOKENS if max_new_tokens is None else max_new_tokens,
    ).secured()
    how: dict[str, Any] = {
        "recipe": recipe, "keep_ratio": keep_ratio, "keep_tokens": keep_tokens, "memory": memory,
        "memory_bytes": memory_bytes or _MEMORY_BYTES, "fps": web.fps,
        "answer_tokens": web.max_new_tokens + _QUESTION_TOKENS,
    }  # fmt: skip
    _serve_page(choice, source, web, how)


def _check_installed() -> None:
    for package in _NEEDED:
        if find_spec(package) is None:
            raise MissingDependencyError.extra(package, "web", "streamprune serve")


def _serve_page(choice: ModelChoice, source: str | None, web: WebOptions, how: dict[str, Any]) -> None:
    from streamprune.pipelines.live_options import StreamOptions  # loads torch, what is above does not
    from streamprune.web.server import listen

    StreamOptions.read(**how)
    # that the port is taken should not come out only after a model was loaded
    with listen(web) as listening:
        place = None if source is None else _Place(source)
        shown = None if place is None else place.open(web.fps)
        with progress_bars() as report:
            vlm = choice.load(report)
        if place is not None and shown is not None and not place.arrives:
            shown = place.open(web.fps, realtime=True)
        if shown is not None:
            how["frame_bytes"] = _PICTURES * shown.info.rows * shown.info.cols * 3
        _serve(partial(vlm.open_stream, **how), web, shown, listening)


class _Place:
    """Where frames come from: by themselves, or from a file."""

    def __init__(self, source: str) -> None:
        from streamprune.readers.address import read_address

        is_camera = source.isdecimal() and not Path(source).exists()
        self._place: str | int = int(source) if is_camera else source
        self.arrives = read_address(self._place) is not None

    def open(self, fps: float, *, realtime: bool = False) -> Source:
        """Open it; a file is only looked at until it is opened with ``realtime``, and then played."""
        from streamprune.readers import open_source

        if self.arrives or realtime:
            return open_source(self._place, fps=fps, drop="latest", realtime=realtime)
        with open_source(self._place) as looked_at:
            return looked_at


def _serve(
    open_stream: Callable[[], LiveStream], web: WebOptions, source: Source | None, listening: socket
) -> None:
    from streamprune.web.app import create_app
    from streamprune.web.server import make_server
    from streamprune.web.shared import SharedSource

    try:
        first = open_stream()  # too little memory is told now, and not to the first visitor
    except BaseException:
        if source is not None:
            source.close()
        raise
    settings = first.describe()
    about = {"model": settings.pop("model"), "settings": settings}
    if source is None:
        first.close()
    shared = None if source is None else SharedSource(source, first)
    server = make_server(create_app(open_stream, web, about, shared), web)
    _announce(web, listening.getsockname()[1])
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt:
        Console(stderr=True).print("closed")


def _announce(web: WebOptions, port: int) -> None:
    from streamprune.web.options import SHORT_TOKEN

    out = Console(highlight=False, soft_wrap=True)
    out.print(Text.assemble("Open ", (web.address(port), "bold"), " in a browser; Ctrl-C ends it."))
    aside = Console(stderr=True, highlight=False, soft_wrap=True)
    if not web.loopback:
        aside.print(
            "Whoever has this address can watch and ask. Browsers lend a camera only to pages over https or "
            "of their own machine; for visitors' cameras put a proxy with a certificate in front.",
            style="yellow",
        )
    if web.token is not None and len(web.token) < SHORT_TOKEN:
        aside.print(
            f"The token has fewer than {SHORT_TOKEN} characters and could be guessed; leave --token out to "
            "have a long one made.",
            style="yellow",
        )
