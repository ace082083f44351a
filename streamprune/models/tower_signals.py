"""What methods want to know from inside the vision tower, computed while it runs.

Hooks read the input of a few attention modules and make queries, keys and values from it once more. The tower
keeps its own fast attention, and an attention map exists only a block of rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from streamprune.errors import SignalError
from streamprune.models.tower_layout import AttentionRows, LayerRows, TowerLayout
from streamprune.ops.attention import mean_attention
from streamprune.ops.sensitivity import sensitivity

# context tokens of VFlowOpt (arXiv 2508.05211, its release's setting for a quarter of the tokens): those that
# receive more than so many times the mean attention
CONTEXT_THRESHOLD = 34.76

_RECEIVED = {
    "received_attention": "feeding",
    "received_attention_middle": "middle",
    "received_attention_shallow": "shallow",
}
EVERY_LAYER = ("layer_saliency", "layer_value_similarity", "layer_value_norm")
_STATES = ("encoder_features", "early_features", "projector_sensitivity")

# pools (frames, patches, channels) to (frames, rows, cols, channels) as the model pools its features
Pool = Callable[[torch.Tensor], torch.Tensor]


class TowerSignals:
    """Computes named signals of one vision tower.

    * ``received_attention`` (frames, rows, cols): attention a token receives in the layer that feeds the
      projector, averaged over heads and queries; ``received_attention_middle`` and
      ``received_attention_shallow``: in the layer halfway and a quarter of the way there.
    * ``context_attention`` (frames, rows, cols): in that layer, attention from context tokens only, those
      that receive more than :data:`CONTEXT_THRESHOLD` times the mean, or the one that receives most.
    * ``keys`` (frames, rows, cols, head width): keys of that layer, averaged over heads.
    * ``layer_saliency``, ``layer_value_similarity``, ``layer_value_norm`` (frames, layers, rows, cols), up to
      that layer: attention of the summary query; softmax over tokens of the summary value's inner product
      with theirs, both averaged over heads; sum of the absolute entries of a token's value averaged over
      heads. A tower without a summary token takes the frame's mean query and mean value instead.
    * ``encoder_features``, ``early_features`` (frames, rows, cols, width): what the projector reads; what the
      first layer puts out.
    * ``projector_sensitivity`` (frames, rows, cols): how strongly the projector answers to small changes of a
      token's ``encoder_features``, see :func:`streamprune.ops.sensitivity.sensitivity`. The projector runs
      128 times for it, in float32.
    * ``saliency`` (frames, rows, cols): attention of the summary token in the layer that feeds the projector;
      of towers without one that of the frame's mean query, where nothing better gives the signal.

    Scores are float32, states and keys in the model's numbers. All are computed per patch and then pooled to
    the token grid as the features are; only ``projector_sensitivity`` is that of pooled states.
    """

    def __init__(self, layout: TowerLayout, projector: nn.Module, pool: Pool) -> None:
        self._layout = layout
        self._projector = projector
        self._pool = pool

    def names(self) -> tuple[str, ...]:
        """Signals this tower can give."""
        if not self._layout.layers:
            return ("encoder_features", "projector_sensitivity")
        own = ("saliency",) if self._layout.summary or self._layout.mean_query else ()
        return (*own, *_RECEIVED, "context_attention", "keys", *EVERY_LAYER, *_STATES)

    @contextmanager
    def watch(self, names: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
        """Yield a dict that holds every signal of ``names`` once the model has run inside the block."""
        found: dict[str, torch.Tensor] = {}
        layers: dict[str, list[torch.Tensor]] = {name: [] for name in names if name in EVERY_LAYER}
        with ExitStack() as hooks:
            for number, wanted in self._plan(names).items():
                reader = _LayerReader(self, wanted, found, layers)
                attention = self._layout.attention(number)
                handle = attention.register_forward_pre_hook(reader, with_kwargs=True)
                hooks.callback(handle.remove)
            for handle in self._watch_states(names, found):
                hooks.callback(handle.remove)
            yield found
        for name, rows in layers.items():
            found[name] = torch.stack(rows, 1)
        if "projector_sensitivity" in names:
            states = found["encoder_features"]
            scores = projector_sensitivity(self._projector, states.flatten(0, 2))
            found["projector_sensitivity"] = scores.reshape(states.shape[:3])

    def pool_scores(self, scores: torch.Tensor) -> torch.Tensor:
        """(frames, patches) to (frames, rows, cols)."""
        return self._pool(scores[..., None])[..., 0]

    def pool_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """(frames, patches, channels) to (frames, rows, cols, channels)."""
        return self._pool(rows)

    def check_patches(self, tokens: int) -> None:
        """Raise SignalError when a layer works on other tokens than the frame's patches."""
        expected = self._layout.patches + self._layout.summary
        if tokens != expected:
            raise SignalError(
                f"a signal from inside the tower needs all {expected} tokens of a frame in its layer, which "
                f"works on {tokens}; use a method without such signals, or no method inside the tower"
            )

    @property
    def summary(self) -> bool:
        """Whether frames start with a summary token."""
        return self._layout.summary

    def _plan(self, names: Sequence[str]) -> dict[int, list[str]]:
        """Which signals each layer has to give."""
        layout = self._layout
        plan: dict[int, list[str]] = {}
        for name in names:
            if name in EVERY_LAYER:
                numbers = range(layout.feeding + 1)
            elif name in _RECEIVED:
                numbers = range(getattr(layout, _RECEIVED[name]), getattr(layout, _RECEIVED[name]) + 1)
            elif name in _STATES:
                continue
            else:
                numbers = range(layout.feeding, layout.feeding + 1)
            for number in numbers:
                plan.setdefault(number, []).append(name)
        return plan

    def _watch_states(self, names: Sequence[str], found: dict[str, torch.Tensor]) -> Iterator[Any]:
        def before_projector(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            found["encoder_features"] = self._pool(args[0])

        def after_layer(module: nn.Module, args: Any, output: Any) -> None:
            states = output[0] if isinstance(output, tuple) else output
            self.check_patches(states.shape[1])
            found["early_features"] = self._pool(states[:, 1:] if self._layout.summary else states)

        if {"encoder_features", "projector_sensitivity"} & set(names):
            yield self._projector.register_forward_pre_hook(before_projector)
        if "early_features" in names:
            yield self._layout.layers[0].register_forward_hook(after_layer)


@torch.no_grad()
def projector_sensitivity(
    projector: nn.Module, states: torch.Tensor, rows_per_token: int = 1
) -> torch.Tensor:
    """(tokens,) how strongly ``projector`` answers to small changes of ``states`` (tokens, width).

    Args:
        rows_per_token: rows that the projector reads for one token, side by side in ``states``.
    """
    weights = {n: w.float() for n, w in projector.named_parameters() if w.is_floating_point()}

    def project(tokens: torch.Tensor) -> torch.Tensor:
        rows = tokens.reshape(len(tokens) * rows_per_token, -1)
        # steps are too small for half precision
        projected: torch.Tensor = torch.func.functional_call(projector, weights, (rows,))
        return projected

    return sensitivity(project, states)


class _LayerReader:
    """A hook on one attention module that computes the signals wanted of it."""

    def __init__(
        self,
        signals: TowerSignals,
        wanted: Sequence[str],
        found: dict[str, torch.Tensor],
        layers: dict[str, list[torch.Tensor]],
    ) -> None:
        self._signals = signals
        self._wanted = wanted
        self._found = found
        self._layers = layers

    @torch.no_grad()
    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        self._signals.check_patches(states.shape[1])
        rows = LayerRows(module, states, self._signals.summary)
        for name in self._wanted:
            value = self._pooled(name, rows)
            if name in self._layers:
                self._layers[name].append(value)
            else:
                self._found[name] = value

    def _pooled(self, name: str, rows: LayerRows) -> torch.Tensor:
        if name == "keys":
            return self._signals.pool_rows(rows.of_patches(rows.keys().mean(1)))
        return self._signals.pool_scores(rows.of_patches(LAYER_SCORES[name](rows)))


def _received(rows: AttentionRows) -> torch.Tensor:
    return mean_attention(rows.queries(), rows.keys(), rows.scaling)


def _summary_attention(rows: AttentionRows) -> torch.Tensor:
    return mean_attention(rows.summary_row(rows.queries()), rows.keys(), rows.scaling)


def _value_similarity(rows: AttentionRows) -> torch.Tensor:
    values = rows.values()
    similarity = mean_attention(rows.summary_row(values), values[:, :, int(rows.summary) :], 1.0)
    return nn.functional.pad(similarity, (int(rows.summary), 0))


def _value_norm(rows: AttentionRows) -> torch.Tensor:
    return rows.values().float().mean(1).abs().sum(-1)


def _context_attention(rows: AttentionRows) -> torch.Tensor:
    """(frames, tokens) mean attention row of each frame's context tokens."""
    queries, keys = rows.queries(), rows.keys()
    received = rows.of_patches(mean_attention(queries, keys, rows.scaling))
    context = received > CONTEXT_THRESHOLD * received.mean(1, keepdim=True)
    # changes something only where no token passed: the highest one passes first
    context.scatter_(1, received.argmax(1, keepdim=True), True)
    found = []
    for frame, chosen in enumerate(context):
        index = chosen.nonzero()[:, 0] + int(rows.summary)
        found.append(mean_attention(queries[frame, :, index][None], keys[frame][None], rows.scaling))
    return torch.cat(found)


# how each score of a layer comes from its rows, (frames, tokens)
LAYER_SCORES: dict[str, Callable[[AttentionRows], torch.Tensor]] = {
    **dict.fromkeys(_RECEIVED, _received),
    "context_attention": _context_attention,
    "saliency": _summary_attention,
    "layer_saliency": _summary_attention,
    "layer_value_similarity": _value_similarity,
    "layer_value_norm": _value_norm,
}
