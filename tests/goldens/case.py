"""One recorded case: what went into released code, what came out, and how exactly it can be compared."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

# floats of an exact case may differ by this share of the largest recorded value
TOLERANCE = 2e-4

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Case:
    """A file ``FOLDER/NAME.npz`` of recorded inputs (``in_*``) and outputs (``out_*``)."""

    path: Path

    @property
    def folder(self) -> str:
        """The method (and variant) that was recorded."""
        return self.path.parent.name

    @property
    def id(self) -> str:
        """The name pytest shows."""
        return f"{self.folder}-{self.path.stem}"

    @cached_property
    def arrays(self) -> dict[str, Array]:
        """Everything in the file."""
        with np.load(self.path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}

    @cached_property
    def hp(self) -> dict[str, Any]:
        """The hyper-parameters it was recorded with."""
        return dict(json.loads(str(self.arrays["hp"])))

    @cached_property
    def meta(self) -> dict[str, Any]:
        """Where it comes from and how it may be compared."""
        return dict(json.loads(str(self.arrays["meta"])))

    @property
    def exact(self) -> bool:
        """Whether indices must be equal; otherwise ties decided and only ``meta["compare"]`` counts."""
        return bool(self.meta["exact"])

    @property
    def compared(self) -> str:
        """What of a case that is not exact can be compared, in words."""
        return str(self.meta.get("compare", ""))

    @property
    def density_ties(self) -> bool:
        """Whether only points of one density tie; where frames are cut is certain."""
        return "density ties" in self.compared

    @property
    def settled(self) -> bool:
        """Whether rounding changes no recorded index, so that only true ties leave anything open."""
        return bool(self.meta.get("f64_stable") and self.meta.get("jitter_stable"))

    def given(self, name: str) -> torch.Tensor:
        """Input ``name`` as recorded, half precision widened to float32 without loss."""
        return torch.from_numpy(self.arrays[f"in_{name}"]).float()

    def recorded(self, name: str) -> Array | None:
        """Output ``name``, None where this case does not have it."""
        return self.arrays.get(f"out_{name}")

    def same(self, name: str, actual: torch.Tensor | list[int]) -> None:
        """Integers equal output ``name`` exactly."""
        np.testing.assert_array_equal(
            np.asarray(actual), self.arrays[f"out_{name}"], err_msg=f"{self.id} {name}"
        )

    def close(self, name: str, actual: torch.Tensor) -> None:
        """Floats equal output ``name`` within the tolerance of recorded cases."""
        expected = self.arrays[f"out_{name}"]
        assert actual.shape == expected.shape, f"{self.id} {name}"
        # one frame has no neighbours: nothing was recorded, and nothing has no largest value
        limit = TOLERANCE * float(np.abs(expected).max(initial=0))
        np.testing.assert_allclose(actual.numpy(), expected, atol=limit, rtol=0, err_msg=f"{self.id} {name}")


def cases_in(folder: Path) -> list[Case]:
    """Every ``FOLDER/NAME.npz`` below ``folder``, in order."""
    return [Case(path) for path in sorted(folder.glob("*/*.npz"))]
