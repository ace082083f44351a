"""Weighted means of the frames of a stream, never more than so many, in the order of their times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from streamprune.ops.weighted_kmeans import group_means, weighted_kmeans


class FrameGroups:
    """Groups of like frames, found anew with every frame among the groups so far and the frame.

    Args:
        limit: most groups.
        shape: (tokens, width) of a frame.
        channels: how many of the width say what is alike.
        iterations: of the search.
        device: of the means.

    Attributes:
        buffer: (limit + 1, tokens, width) float32; the means are its first rows.
        weights: frames in each group.
        numbers: mean number of the frames of each group, ascending.
        seconds: their mean time.
    """

    def __init__(
        self, limit: int, shape: tuple[int, int], channels: int, iterations: int, device: torch.device
    ) -> None:
        self.limit, self.channels, self.iterations = limit, channels, iterations
        self.buffer = torch.zeros(limit + 1, *shape, device=device)
        self.weights: list[float] = []
        self.numbers: list[float] = []
        self.seconds: list[float] = []

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def means(self) -> torch.Tensor:
        """(groups, tokens, width) float32, a view."""
        return self.buffer[: len(self)]

    def add(self, frame: torch.Tensor, number: int, seconds: float) -> list[list[int]]:
        """Take in ``frame`` (tokens, width).

        Returns:
            For each group the groups before that it is made of; the frame itself has the last number.
        """
        count = len(self)
        self.buffer[count] = frame
        points = self.buffer[: count + 1]
        weights = points.new_tensor([*self.weights, 1.0])
        _, group = weighted_kmeans(
            points[..., : self.channels].flatten(1), weights, self.limit, iterations=self.iterations
        )
        means = group_means(points.flatten(1), weights, group).view(-1, *points.shape[1:])
        parts = [
            [place for place, at in enumerate(group.tolist()) if at == number] for number in range(len(means))
        ]
        mass = [sum([*self.weights, 1.0][place] for place in part) for part in parts]
        numbers = self._averaged([*self.numbers, float(number)], parts)
        times = self._averaged([*self.seconds, seconds], parts)
        order = sorted(range(len(parts)), key=lambda place: (numbers[place], place))
        self.buffer[: len(means)] = means[order]
        self.weights = [mass[place] for place in order]
        self.numbers = [numbers[place] for place in order]
        self.seconds = [times[place] for place in order]
        return [parts[place] for place in order]

    def _averaged(self, values: list[float], parts: list[list[int]]) -> list[float]:
        weights = [*self.weights, 1.0]
        return [
            sum(values[place] * weights[place] for place in part) / sum(weights[place] for place in part)
            for part in parts
        ]

    def heaviest(self, count: int) -> list[int]:
        """The groups of most frames, of equal ones the earlier."""
        return sorted(range(len(self)), key=lambda place: (-self.weights[place], place))[:count]

    def about(self) -> dict[str, Any]:
        """What :meth:`restore` needs beside the means."""
        return {"weights": self.weights, "numbers": self.numbers, "seconds": self.seconds}

    def restore(self, means: torch.Tensor, about: Mapping[str, Any]) -> None:
        """Take over saved groups."""
        self.buffer[: len(means)] = means
        self.weights, self.numbers = list(about["weights"]), list(about["numbers"])
        self.seconds = list(about["seconds"])
