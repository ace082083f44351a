"""What a vision tower remembers of a reference frame: rows of every layer, and the picture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from streamprune.cache.ledger import Ledger
from streamprune.errors import SnapshotError


@dataclass(frozen=True)
class TowerRows:
    """What is remembered.

    Attributes:
        names: of the rows of each layer, for example ("keys", "values").
        layers: of the tower.
        tokens: of one frame, a summary among them.
        width: of the tower.
        picture: (patches, values) of the picture that rows were computed from; (0, 0) = it is not kept.
    """

    names: tuple[str, ...]
    layers: int
    tokens: int
    width: int
    picture: tuple[int, int] = (0, 0)

    def nbytes(self, dtype: torch.dtype) -> int:
        """Bytes of it, the picture in float32."""
        rows = len(self.names) * self.layers * self.tokens * self.width
        return rows * dtype.itemsize + 4 * math.prod(self.picture)


class TowerCache:
    """Buffers of one size that stay in place from frame to frame; counted as the ledger's tier ``tower``.

    Attributes:
        shape: of what the buffers are for; None = there are none.
        age: how many frames after its reference the next frame comes; None = what is held is not usable.
        picture: (patches, values) float32, see :class:`TowerRows`.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.shape: TowerRows | None = None
        self._rows: dict[str, torch.Tensor] = {}
        self.picture = torch.empty(0, 0)
        self.age: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(tensor.untyped_storage().nbytes() for tensor in self.tensors())

    def tensors(self) -> Iterator[torch.Tensor]:
        """Everything it holds."""
        if self.shape is not None:
            yield from self._rows.values()
            yield self.picture

    def layer(self, number: int) -> Sequence[torch.Tensor]:
        """(tokens, width) buffers of one layer, in the order of the names."""
        return [rows[number] for rows in self._rows.values()]

    def fits(self, shape: TowerRows, like: torch.Tensor) -> bool:
        """Whether the buffers are those of ``shape``, in the dtype and on the device of ``like``."""
        held = next(iter(self._rows.values()), like)
        return self.shape == shape and (held.dtype, held.device) == (like.dtype, like.device)

    def allocate(self, shape: TowerRows, like: torch.Tensor) -> None:
        """Make buffers of ``shape`` in place of any others; MemoryBudgetError when the ledger has no room."""
        if self.fits(shape, like):
            return
        self.clear()
        self._ledger.take("tower", shape.nbytes(like.dtype))
        size = (shape.layers, shape.tokens, shape.width)
        self._rows = {name: like.new_empty(size) for name in shape.names}
        self.picture = torch.empty(shape.picture, device=like.device)
        self.shape = shape

    def clear(self) -> None:
        """Forget everything and free the buffers; may be called twice."""
        if self.shape is not None:
            self._ledger.give("tower", self.nbytes)
        self.shape, self.age = None, None
        self._rows, self.picture = {}, torch.empty(0, 0)

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The buffers themselves by name, and what JSON can hold; ({}, {}) when nothing is remembered."""
        if self.shape is None or self.age is None:
            return {}, {}
        return {**self._rows, "picture": self.picture}, {"age": self.age, **asdict(self.shape)}

    def restore(
        self, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any], like: torch.Tensor
    ) -> None:
        """Take over what :meth:`state` gave, as copies in the dtype and on the device of ``like``.

        Raises SnapshotError when it does not belong together, MemoryBudgetError when there is no room.
        """
        self.clear()
        if not about:
            return
        try:
            numbers = {name: int(about[name]) for name in ("layers", "tokens", "width")}
            patches, values = about["picture"]
            shape = TowerRows(tuple(about["names"]), **numbers, picture=(int(patches), int(values)))
            held = {name: tensors[name] for name in shape.names}
            picture, age = tensors["picture"], int(about["age"])
        except (KeyError, TypeError, ValueError) as error:
            raise SnapshotError(f"what was remembered of the vision tower is incomplete: {error!r}") from None
        size = (shape.layers, shape.tokens, shape.width)
        if any(rows.shape != size for rows in held.values()) or picture.shape != shape.picture:
            raise SnapshotError(f"what was remembered of the vision tower does not have the sizes {shape}")
        self.allocate(shape, like)
        for name, rows in held.items():
            self._rows[name].copy_(rows)
        self.picture.copy_(picture)
        self.age = age
