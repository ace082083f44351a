"""A stream as a snapshot, and back: what it remembers, how it was opened, and which model it belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

from streamprune.errors import SnapshotError, StreampruneError
from streamprune.models.base import VideoFamily
from streamprune.models.fingerprint import fingerprint
from streamprune.pipelines.live_options import StreamOptions, memory_settings
from streamprune.pipelines.live_snapshot import Snapshot
from streamprune.pipelines.live_states import State
from streamprune.readers.base import check_fps
from streamprune.recipe import Recipe
from streamprune.registry import build_method

# options that JSON holds as they are
_PLAIN = (
    "memory_bytes", "spill_bytes", "answer_tokens", "answers_at_once", "bucket", "dialogue_bytes",
    "frame_bytes", "context_tokens", "clip_frames",
)  # fmt: skip


def options_state(options: StreamOptions) -> dict[str, Any]:
    """What JSON can hold of ``options``. Raises RecipeError for a memory that has no name."""
    name, settings = memory_settings(options.memory)
    return {
        **{name: getattr(options, name) for name in _PLAIN},
        "recipe": options.recipe.to_toml(),
        "memory": {"name": name, "options": settings},
        "fps": None if options.fps is None else str(options.fps),
        "gate": None if options.gate is None else dict(options.gate),
        "spill_folder": None if options.spill_folder is None else str(options.spill_folder),
        "options": dict(options.options),
    }


def read_options(
    state: Mapping[str, Any], frame_size: tuple[int, int], spill_folder: str | Path | None
) -> StreamOptions:
    """The options of :func:`options_state`."""
    memory, fps, folder = state["memory"], state["fps"], spill_folder or state["spill_folder"]
    return StreamOptions(
        **{name: state[name] for name in _PLAIN},
        recipe=Recipe.from_toml(state["recipe"]),
        memory=build_method("memory", memory["name"], memory["options"]),
        fps=None if fps is None else check_fps("fps", Fraction(fps)),
        gate=state["gate"],
        spill_folder=None if folder is None else Path(folder),
        options=state["options"],
        frame_size=frame_size,
    )


def snapshot_of(family: VideoFamily, options: StreamOptions, state: State) -> Snapshot:
    """What a stream is made again from."""
    tensors, about = state
    model = {"name": family.checkpoint.name, "fingerprint": fingerprint(family)}
    return Snapshot(tensors, {"model": model, "options": options_state(options), "state": about})


def check_model(snapshot: Snapshot, family: VideoFamily, path: object) -> None:
    """Raise SnapshotError unless ``snapshot`` is of this very model."""
    saved = snapshot.about["model"]
    if saved["fingerprint"] != fingerprint(family):
        raise SnapshotError(
            f"{str(path)!r} was saved with the model {saved['name']!r}, whose weights or settings are not "
            f"those of {family.checkpoint.name!r} as it is loaded; load that model, in the same dtype"
        )


@contextmanager
def misfits_explained(path: object) -> Iterator[None]:
    """Turn what goes wrong while a snapshot is taken over into a SnapshotError."""
    try:
        yield
    except SnapshotError:
        raise
    except (StreampruneError, LookupError, TypeError, ValueError) as error:
        raise SnapshotError(
            f"{str(path)!r} does not fit this version of streamprune, or a method that was registered when "
            f"it was saved is not there ({type(error).__name__}: {error})"
        ) from error
