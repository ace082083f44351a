"""Requests for chat completions, as a client writes them, and what comes back."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

CLIPS = Path(__file__).resolve().parents[2] / "demos" / "clips"
CLIP = CLIPS / "square_parade.mp4"
QUESTION = "which color is the square?"


def data_url(data: bytes, kind: str = "video/mp4") -> str:
    """``data`` as part of an address."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def user(text: str, *urls: str, kind: str = "video_url", **fields: Any) -> dict[str, Any]:
    """A message of the user about the videos at ``urls``; ``fields`` stand beside each URL."""
    parts: list[dict[str, Any]] = [{"type": kind, kind: {"url": url, **fields}} for url in urls]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def request(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """The body of a request to the embedded model."""
    return {"model": "embedded", "messages": list(messages), **fields}


def events(text: str) -> list[dict[str, Any]]:
    """What a stream of server-sent events said; it must have ended as such streams do."""
    lines = text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""], text[-200:]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def said(chunks: list[dict[str, Any]]) -> str:
    """The answer of a stream, put together."""
    return "".join(
        choice["delta"].get("content", "") for chunk in chunks for choice in chunk.get("choices", [])
    )
