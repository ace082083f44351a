"""The OpenAI-style server as an application: its paths, and who may use them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Scope

from streamprune.errors import InvalidValueError
from streamprune.web.guard import Guard, bearer, equal
from streamprune.web.openai_completions import ChatCompletions
from streamprune.web.openai_errors import ApiError
from streamprune.web.openai_options import ApiOptions
from streamprune.web.openai_request import Overrides
from streamprune.web.openai_videos import Look
from streamprune.web.options import WebOptions

if TYPE_CHECKING:
    from streamprune.pipelines.offline import VideoLLM

_HEALTH = "/health"
_CODES = {401: "invalid_api_key", 404: "not_found", 405: "method_not_allowed", 413: "too_large",
          421: "wrong_host"}  # fmt: skip


def served_name(checkpoint: str) -> str:
    """What clients call a model: a hub name as it is, of a folder only its last part."""
    return Path(checkpoint).name if Path(checkpoint).exists() else checkpoint


def create_openai_app(vlm: VideoLLM, web: WebOptions, options: ApiOptions) -> Starlette:
    """Chat completions about videos as an ASGI application.

    Args:
        vlm: the model, which is served under :func:`served_name`.
        web: where it is served; its token is the key that clients have to show.
        options: what is taken in.

    Raises InvalidValueError for a host that others can reach, without a key, and for a recipe of the server
    that cannot be carried out.
    """
    if not web.loopback and web.token is None:
        raise InvalidValueError(
            f"api_key must be given where others can reach the host, which is {web.host!r}; "
            "WebOptions.secured() makes one"
        )
    Look.of(Overrides(), options)
    name = served_name(vlm.family.checkpoint.name)
    completions = ChatCompletions(vlm, name, options)
    model = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "streamprune"}

    async def health(request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    async def models(request: Request) -> JSONResponse:
        return JSONResponse({"object": "list", "data": [model]})

    async def one_model(request: Request) -> JSONResponse:
        if request.path_params["name"] != name:
            return ApiError(404, "there is no such model here", "model_not_found", "model").response
        return JSONResponse(model)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            completions.close()

    app = Starlette(
        routes=[
            Route(_HEALTH, health),
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", one_model),
            Route("/v1/chat/completions", completions, methods=["POST"]),
        ],
        middleware=[Middleware(ApiGuard, options=web, max_bytes=options.max_body_bytes)],
        exception_handlers={HTTPException: _http_error, Exception: _unforeseen},
        lifespan=lifespan,
    )
    app.state.completions, app.state.model = completions, name
    return app


class ApiGuard(Guard):
    """The same guard with keys in place of cookies, and refusals in the shape of the interface.

    Without a key only names of this machine are answered, so that no page of another site, whose name is
    made to point here, can ask.
    """

    def __init__(self, app: Any, options: WebOptions, max_bytes: int) -> None:
        super().__init__(app, options)
        self._max_bytes = max_bytes

    def refuse(self, status: int, *reasons: str) -> Response:
        """As other errors are told."""
        return ApiError(status, "".join(reasons), _CODES[status]).response

    def too_large(self, headers: Headers) -> Response | None:
        """What says how large it is need not be read first."""
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) <= self._max_bytes:
            return None
        return self.refuse(413, f"the body is larger than {self._max_bytes} bytes (--max-video-bytes)")

    def wrong_token(self, scope: Scope, headers: Headers) -> Response | None:
        """Programs that only look whether the server is there need no key."""
        key = self.options.token
        if key is None or scope["path"] == _HEALTH or equal(bearer(headers), key):
            return None
        return self.refuse(401, "a valid key is needed, in the header Authorization: Bearer KEY")


async def _http_error(request: Request, error: Exception) -> Response:
    """Paths and methods that are not there."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = {404: "there is no such path", 405: "this path is not for that method"}.get(status, "it failed")
    response = ApiError(status, detail, _CODES.get(status, "http_error")).response
    response.headers.update(getattr(error, "headers", None) or {})
    return response


async def _unforeseen(request: Request, error: Exception) -> Response:
    return ApiError.of(error).response
