"""``streamprune bench --stage tower-cache``: a tower that remembers frames, beside the plain one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

Report = Callable[[str, int, int], None]

# settings of the encoder method stc: as released, and by what changed in the picture
SETTINGS: dict[str, dict[str, Any]] = {"keys": {}, "pixels": {"choose": "pixels"}}


def tower_cache(
    names: Sequence[str] | None, *, size: str, frames: int, questions: int
) -> tuple[Callable[[Report], Iterator[dict[str, Any]]], dict[str, Any]]:
    """What times the settings and asks the embedded model with them, and what its record says besides.

    Args:
        names: of SETTINGS; None = all.
        size: of the tower that is timed, see TOWER_SIZES.
        frames: of the static scene.
        questions: about each kind of stream; 0 = none are asked.
    """
    from streamprune.checks import check_count
    from streamprune.encoder.stc import STCCacher
    from streamprune.errors import UnknownNameError
    from streamprune.models.made import made_family

    check_count("frames", frames, least=3)
    check_count("questions", questions, least=0)
    for name in names or ():
        if name not in SETTINGS:
            raise UnknownNameError.among("setting of stc to time", name, list(SETTINGS))
    chosen = {name: SETTINGS[name] for name in names or SETTINGS}
    family = made_family("tiny", tower=size, device="cpu")

    def run(report: Report) -> Iterator[dict[str, Any]]:
        from streamprune.metrics.tower_speed import tower_speeds

        methods = {name: STCCacher(**options) for name, options in chosen.items()}
        for speed in tower_speeds(family, methods, frames=frames, progress=report):
            yield speed.to_dict()
        if questions:
            from streamprune.embedded.evaluate.tower_reuse import reuse_losses
            from streamprune.pipelines.offline import load

            yield from reuse_losses(load("embedded"), chosen, questions, report)

    vision = family.model.config.vision_config
    tower = {
        "layers": vision.num_hidden_layers,
        "width": vision.hidden_size,
        "patches": (vision.image_size // vision.patch_size) ** 2,
    }
    return run, {"size": size, "tower": tower, "dtype": "float32"}
