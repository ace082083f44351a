"""A request for a chat completion, read strictly: what would be ignored in silence is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from streamprune.checks import check_count, check_flag, check_number
from streamprune.errors import UsageError
from streamprune.models.sampling import Sampling, read_stop
from streamprune.web.openai_errors import invalid
from streamprune.web.openai_messages import Conversation
from streamprune.web.openai_options import ApiOptions

# what may be there as long as it asks for nothing that is not done
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
# whose request it is and where it is kept; says nothing about the answer
_LABELS = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
_READ = (
    "model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature",
    "top_p", "seed", "stop", "streamprune",
)  # fmt: skip
_STOPS = 4


@contextmanager
def _at(param: str) -> Iterator[None]:
    """Turn what is refused inside the block into an error about the field ``param``."""
    try:
        yield
    except UsageError as error:
        raise invalid(str(error), param) from error


@dataclass(frozen=True)
class Overrides:
    """What a request chooses of the method; None is the server's own."""

    recipe: str | None = None
    keep_ratio: float | None = None
    num_frames: int | None = None
    fps: float | None = None

    @classmethod
    def read(cls, given: object, options: ApiOptions) -> Overrides:
        """Check the field ``streamprune`` of a request."""
        if given is None or given == {}:
            return cls()
        if not isinstance(given, Mapping):
            raise invalid(f"streamprune must be an object, got {type(given).__name__}", "streamprune")
        known = tuple(cls.__dataclass_fields__)
        for name in given:
            if name not in known:
                raise invalid(
                    f"unknown field streamprune.{name}; known: {', '.join(known)}",
                    f"streamprune.{name}",
                    "unknown_parameter",
                )
        if not options.allow_overrides:
            raise invalid("this server does not let requests choose (--no-overrides)", "streamprune")
        chosen = cls(**given)
        with _at("streamprune"):
            chosen._check(options)
        return chosen

    def _check(self, options: ApiOptions) -> None:
        if self.recipe is not None:
            if not isinstance(self.recipe, str):
                raise invalid("streamprune.recipe must be a name", "streamprune.recipe")
            if self.recipe.endswith(".toml"):
                # a path: files of this machine are not read for others
                raise invalid(
                    "streamprune.recipe must be the name of a method or recipe, or names joined by +",
                    "streamprune.recipe",
                )
        if self.keep_ratio is not None:
            check_number("streamprune.keep_ratio", self.keep_ratio, 0, 1)
        if self.num_frames is not None:
            check_count("streamprune.num_frames", self.num_frames)
            if self.num_frames > options.max_frames:
                raise invalid(
                    f"streamprune.num_frames must be at most {options.max_frames}, got {self.num_frames}",
                    "streamprune.num_frames",
                )
        if self.fps is not None:
            check_number("streamprune.fps", self.fps, 0.001, 1000)


@dataclass(frozen=True)
class ChatRequest:
    """What to answer, and how.

    Attributes:
        model: as the client named it.
        said: the conversation, with the videos it is about.
        sampling: how words are chosen; without a temperature the likeliest every time.
        max_new_tokens: longest answer.
        stream: send pieces as they come.
        include_usage: send the counts at the end of a stream.
        overrides: of the server's own method.
    """

    model: str
    said: Conversation
    sampling: Sampling
    max_new_tokens: int
    stream: bool = False
    include_usage: bool = False
    overrides: Overrides = field(default_factory=Overrides)

    @classmethod
    def read(cls, body: object, options: ApiOptions) -> ChatRequest:
        """Check all of a request's fields; ApiError names the one that is wrong."""
        if not isinstance(body, dict):
            raise invalid(f"the body must be a JSON object, got {type(body).__name__}")
        given = {name: value for name, value in body.items() if value is not None}
        _refuse_unknown(given)
        model = given.get("model")
        if not isinstance(model, str) or not model:
            raise invalid("model must be the name of the model; GET /v1/models lists it", "model")
        stream = _flag(given, "stream")
        stream_options = given.get("stream_options", {})
        if not isinstance(stream_options, dict) or (stream_options and not stream):
            raise invalid("stream_options must be an object, and goes with stream: true", "stream_options")
        return cls(
            model=model,
            said=Conversation.read(given.get("messages")),
            sampling=_sampling(given),
            max_new_tokens=_max_new_tokens(given, options),
            stream=stream,
            include_usage=_flag(stream_options, "include_usage"),
            overrides=Overrides.read(given.get("streamprune"), options),
        )


def _refuse_unknown(given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if name in _NEUTRAL:
            if value not in _NEUTRAL[name]:
                can = " or ".join(map(repr, _NEUTRAL[name]))
                raise invalid(f"{name} can only be {can} here", name, "unsupported_parameter")
        elif name not in _READ and name not in _LABELS:
            raise invalid(f"unknown field {name[:100]!r}", name[:100], "unknown_parameter")


def _flag(given: Mapping[str, Any], name: str) -> bool:
    value = given.get(name)
    if value is None:
        return False
    with _at(name):
        check_flag(name, value)
    return bool(value)


def _max_new_tokens(given: Mapping[str, Any], options: ApiOptions) -> int:
    """The newer name goes before the older."""
    for name in ("max_completion_tokens", "max_tokens"):
        if name in given:
            with _at(name):
                check_count(name, given[name])
            if given[name] > options.max_new_tokens:
                raise invalid(
                    f"{name} must be at most {options.max_new_tokens} on this server, got {given[name]}", name
                )
            return int(given[name])
    return options.max_new_tokens


def _sampling(given: Mapping[str, Any]) -> Sampling:
    """Drawn words only where a temperature, or a top_p below 1, asks for them."""
    temperature, top_p = given.get("temperature"), given.get("top_p")
    if temperature is not None:
        with _at("temperature"):
            check_number("temperature", temperature, 0, 2)
    if top_p is not None:
        with _at("top_p"):
            check_number("top_p", top_p, 0, 1)
    if temperature is None:
        temperature = 0.0 if top_p in (None, 1) else 1.0
    with _at("stop"):
        stop = read_stop(given.get("stop"))
    if len(stop) > _STOPS:
        raise invalid(f"stop holds at most {_STOPS} texts, got {len(stop)}", "stop")
    # at temperature 0 there is nothing to narrow, and a share of 1 narrows nothing
    narrowed = top_p if temperature and top_p != 1 else None
    with _at("seed" if "seed" in given else "temperature"):
        return Sampling(temperature, top_p=narrowed, seed=given.get("seed"), stop=stop)
