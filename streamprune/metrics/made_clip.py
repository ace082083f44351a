"""Random features and signals of the size a 7B model gives, for measuring speed without a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch

from streamprune.errors import InvalidValueError, SignalError
from streamprune.tokens import VideoGrid

UNIT_SHAPE = (32, 14, 14, 3584)

_TOWER_WIDTH = 1152
_KEY_WIDTH = 72
_TEXT_WIDTH = 768
_TOWER_LAYERS = 26
_QUESTION_PIECES = 16

_Make = Callable[[VideoGrid, torch.Tensor, torch.Generator], torch.Tensor]


def _map(*extra: int) -> _Make:
    """One positive value, or row of ``extra`` normal values, for every token."""

    def make(grid: VideoGrid, scene: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        shape = (grid.frames, grid.rows, grid.cols)
        if extra:
            return torch.randn(*shape, *extra, generator=generator)
        return torch.rand(shape, generator=generator)

    return make


def _layers(grid: VideoGrid, scene: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(grid.frames, _TOWER_LAYERS, grid.rows, grid.cols, generator=generator)


def _frame_features(grid: VideoGrid, scene: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    looks = torch.randn(int(scene[-1]) + 1, _TOWER_WIDTH, generator=generator)[scene]
    return looks + 0.1 * torch.randn(grid.frames, _TOWER_WIDTH, generator=generator)


def _text(grid: VideoGrid, scene: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(_QUESTION_PIECES, _TEXT_WIDTH, generator=generator)


def _frames(grid: VideoGrid, scene: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(grid.frames, generator=generator)


_MAKERS: dict[str, _Make] = {
    "saliency": _map(),
    "frame_features": _frame_features,
    "received_attention": _map(),
    "received_attention_middle": _map(),
    "received_attention_shallow": _map(),
    "context_attention": _map(),
    "projector_sensitivity": _map(),
    "layer_saliency": _layers,
    "layer_value_similarity": _layers,
    "layer_value_norm": _layers,
    "encoder_features": _map(_TOWER_WIDTH),
    "early_features": _map(_TOWER_WIDTH),
    "keys": _map(_KEY_WIDTH),
    "image_embeds": _map(_TEXT_WIDTH),
    "text_embeds": _text,
    "query_frame_attention": _frames,
}


class MadeSignals(Mapping[str, torch.Tensor]):
    """Random signals of the right shapes, each made when first asked for."""

    def __init__(self, grid: VideoGrid, scene: torch.Tensor) -> None:
        self._grid = grid
        self._scene = scene
        self._made: dict[str, torch.Tensor] = {}

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in _MAKERS:
            raise SignalError(f"no made-up signal {name!r}; there are {', '.join(sorted(_MAKERS))}")
        if name not in self._made:
            generator = torch.Generator().manual_seed(list(_MAKERS).index(name))
            self._made[name] = _MAKERS[name](self._grid, self._scene, generator)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_MAKERS)

    def __len__(self) -> int:
        return len(_MAKERS)


def made_clip(
    scenes: int, *, shape: tuple[int, int, int, int] = UNIT_SHAPE
) -> tuple[torch.Tensor, MadeSignals]:
    """Features of ``shape`` like those of a video, and signals for the methods.

    Frames fall into ``scenes`` runs. Inside a run a token keeps its look but for noise that is weak at the
    first grid positions and as strong as the look itself at the last: still background and moving parts.
    """
    frames, rows, cols, channels = shape
    if not 1 <= scenes <= frames:
        raise InvalidValueError(f"scenes must be in [1, {frames}], got {scenes!r}")
    generator = torch.Generator().manual_seed(scenes)
    scene = torch.arange(frames) * scenes // frames
    strength = torch.linspace(0.05, 1, rows * cols).reshape(rows, cols, 1)
    features = torch.randn(shape, generator=generator).mul_(strength)
    look = torch.randn(scenes, rows, cols, channels, generator=generator)
    for frame, run in enumerate(scene.tolist()):
        features[frame] += look[run]
    return features, MadeSignals(VideoGrid(frames, rows, cols), scene)
