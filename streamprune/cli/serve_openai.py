"""``streamprune serve --openai``: chat completions about videos, for clients that know OpenAI's interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.text import Text

from streamprune.cli.app import progress_bars
from streamprune.cli.model_choice import ModelChoice
from streamprune.errors import InvalidValueError

if TYPE_CHECKING:
    from streamprune.web.openai_options import ApiOptions
    from streamprune.web.options import WebOptions

_OF_THE_PAGE = (
    "source", "keep_tokens", "memory", "memory_bytes", "fps", "token", "max_upload_bytes", "max_sessions",
    "idle_seconds",
)  # fmt: skip
_OF_OPENAI = (
    "api_key", "allowed_local_media_path", "allow_https", "overrides", "num_frames", "max_video_bytes",
    "max_video_seconds", "max_frames", "max_queue", "max_request_seconds", "cache_bytes",
)  # fmt: skip


def check_mode(ctx: typer.Context, openai: bool) -> None:
    """Refuse options that would be passed over in silence. Raises InvalidValueError."""
    for name in _OF_THE_PAGE if openai else _OF_OPENAI:
        given = ctx.get_parameter_source(name)
        if given is not None and given.name == "COMMANDLINE":
            option = "--" + name.replace("_", "-")
            raise InvalidValueError(
                f"{option} belongs to the page and does nothing with --openai; leave it out"
                if openai
                else f"{option} goes with --openai; add it, or leave {option} out"
            )


def serve_openai(choice: ModelChoice, host: str, port: int, api_key: str | None, **settings: Any) -> None:
    """Serve until Ctrl-C; ``settings`` are those of ApiOptions, of which None is its default."""
    from streamprune.budget import read_bytes
    from streamprune.web.openai_options import ApiOptions
    from streamprune.web.options import WebOptions

    given = {name: value for name, value in settings.items() if value is not None}
    for name in ("max_video_bytes", "cache_bytes"):
        given[name] = read_bytes(name, given[name])
    web = WebOptions(host=host, port=port, token=api_key).secured()
    options = ApiOptions(**given)
    from streamprune.web.openai_app import create_openai_app  # loads torch, what is above does not
    from streamprune.web.openai_request import Overrides
    from streamprune.web.openai_videos import Look
    from streamprune.web.server import listen, make_server

    Look.of(Overrides(), options)
    # that the port is taken should not come out only after a model was loaded
    with listen(web) as listening:
        with progress_bars() as report:
            vlm = choice.load(report)
        app = create_openai_app(vlm, web, options)
        _announce(web, options, app.state.model, listening.getsockname()[1], made=api_key is None)
        try:
            make_server(app, web).run(sockets=[listening])
        except KeyboardInterrupt:
            Console(stderr=True).print("closed")


def _announce(web: WebOptions, options: ApiOptions, model: str, port: int, *, made: bool) -> None:
    from streamprune.web.options import SHORT_TOKEN

    out = Console(highlight=False, soft_wrap=True)
    base = web.address(port).partition("?")[0]
    out.print(Text.assemble("Serving ", (model, "bold"), f" at {base}v1 ; Ctrl-C ends it."))
    sources = ["data: URLs"]
    if options.media_root is not None:
        sources.append(f"files below {options.media_root}")
    if options.allow_https:
        sources.append("public https addresses")
    out.print(f"Videos come from {', '.join(sources)}.")
    if web.token is not None and made:
        out.print(Text.assemble("Clients have to show the key ", (web.token, "bold")))
    if web.token is not None and len(web.token) < SHORT_TOKEN:
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"The key has fewer than {SHORT_TOKEN} characters and could be guessed; leave --api-key out to "
            "have a long one made.",
            style="yellow",
        )
