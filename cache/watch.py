"""What a cache of fewer entries has to be told around each attention, and masks that fit what it holds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from streamprune.cache.reread import reread
from streamprune.cache.rotation import Rotation
from streamprune.errors import InvalidValueError, UnsupportedModelError
from streamprune.kv.kvzip import KVzip
from streamprune.ops.projections import heads_of
from streamprune.ops.rotary import rotate

if TYPE_CHECKING:
    from streamprune.cache.kept import KeptCache
    from streamprune.cache.kept_layer import KeptLayer


@dataclass(frozen=True, eq=False)
class Looked:
    """What a layer is told about the call that is about to reach it.

    Attributes:
        scaling: factor of the inner products.
        queries: (rows, heads, some, dim) rotated queries of the last tokens, None when not asked for.
        visible: (rows, tokens) bool, False = padding; None = no padding.
        frequencies: (dim / 2,) of the rotation, when the layer or its policy has to rotate.
        turn: (rows or 1, dim) cosines and sines of the newest token's position, likewise.
        places: (axes, rows or 1, tokens) positions, when keys are stored before rotation.
    """

    scaling: float
    queries: torch.Tensor | None
    visible: torch.Tensor | None
    frequencies: torch.Tensor | None = None
    turn: tuple[torch.Tensor, torch.Tensor] | None = None
    places: torch.Tensor | None = None


@contextmanager
def watch(model: Any, cache: KeptCache) -> Iterator[None]:
    """Tell ``cache`` about every call of ``model`` that is given it; other calls pass unchanged."""

    decoder, policy = model.get_decoder(), cache.policy
    rotary = _movable(decoder) if cache.compact else None
    if policy.unrotated:
        _check_whole_heads(decoder, type(policy).__name__)
    positions = _Positions(decoder.rotary_emb) if cache.unrotated else None
    if positions is not None:
        cache.rotation = Rotation(decoder.rotary_emb)

    def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if kwargs.get("past_key_values") is not cache:
            return None
        layer = cache.layers[module.layer_idx]
        states = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        if (policy.keeps_all and not cache.stores) or not hasattr(layer, "looked"):
            return None
        mask = kwargs.get("attention_mask")
        visible = _visible(mask, states.shape[1])
        places = None if positions is None else positions.of(states.shape[1])
        if policy.keeps_all:
            layer.looked = Looked(float(module.scaling), None, visible, places=places)
            return None
        tables, turn = kwargs["position_embeddings"], None
        frequencies = decoder.rotary_emb.inv_freq.to(states.device) if rotary or policy.unrotated else None
        if rotary is not None:
            if visible is not None:
                raise InvalidValueError('positions="compact" takes no padded batches; one sequence at a time')
            moved = torch.arange(layer.held, layer.held + states.shape[1], device=states.device)
            tables = rotary(states, moved[None])
        if policy.unrotated:
            turn = tables[0][:, -1], tables[1][:, -1]
        if policy.rereads and visible is not None:
            raise InvalidValueError(
                f"{type(policy).__name__} reads prompts again and takes no padded batches; one sequence at a "
                "time"
            )
        wanted = states.shape[1] if layer.instead is not None else policy.query_rows(states.shape[1])
        rows = min(wanted, states.shape[1])
        queries = _queries(module, states, None if policy.unrotated else tables, rows) if rows else None
        layer.looked = Looked(float(module.scaling), queries, visible, frequencies, turn, places)
        mask = _fitting_mask(module, layer, mask, visible, states)
        return args, {**kwargs, "attention_mask": mask, "position_embeddings": tables}

    def forget() -> None:
        # a call that failed half-way has left some layers something
        for _, layer in cache.kept_layers():
            layer.looked = None

    with ExitStack() as hooks:
        hooks.callback(forget)
        if positions is not None:
            hooks.callback(positions.listen().remove)
        for layer in decoder.layers:
            attention = getattr(layer, "self_attn", None)
            if attention is not None:
                hooks.callback(attention.register_forward_pre_hook(before, with_kwargs=True).remove)
        if isinstance(policy, KVzip):
            hooks.enter_context(reread(decoder, cache, policy))
        yield


class _Positions:
    """The positions that each thread's last call of a model turned its keys by."""

    def __init__(self, rotary: Any) -> None:
        self._rotary = rotary
        self._last = threading.local()

    def listen(self) -> Any:
        """The handle of a hook that hears of every call."""

        def heard(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._last.ids = kwargs["position_ids"] if "position_ids" in kwargs else args[1]

        return self._rotary.register_forward_pre_hook(heard, with_kwargs=True)

    def of(self, new: int) -> torch.Tensor:
        """(axes, rows or 1, new)."""
        ids: torch.Tensor = self._last.ids
        if ids.shape[-1] != new:
            raise InvalidValueError(
                f"the positions of {new} tokens are not known where others were dropped in a layer below; "
                "keys that are stored before rotation need them: give the store unrotated=False"
            )
        return ids if ids.ndim == 3 else ids[None]


def _movable(decoder: Any) -> Any:
    """The rotary module of ``decoder``; UnsupportedModelError unless its rule can move rotated keys."""
    rotary = decoder.rotary_emb
    kind = getattr(rotary, "rope_type", "default")
    if hasattr(rotary, "mrope_section") or "dynamic" in kind or kind == "longrope":
        raise UnsupportedModelError(
            'positions="compact" needs one axis of positions and frequencies that stay; '
            f'{type(rotary).__name__} of type {kind!r} has others: use positions="keep"'
        )
    _check_whole_heads(decoder, 'positions="compact"')
    return rotary


def _check_whole_heads(decoder: Any, what: str) -> None:
    width = 2 * len(decoder.rotary_emb.inv_freq)
    # layers without attention of their own may come first
    heads = next(layer.self_attn.head_dim for layer in decoder.layers if hasattr(layer, "self_attn"))
    if width != heads:
        raise UnsupportedModelError(
            f"{what} needs rotations of whole heads of {heads} channels; this model turns {width} of them"
        )


def _visible(mask: torch.Tensor | None, new: int) -> torch.Tensor | None:
    """(rows, new) which of the new tokens are no padding, from the mask's last row; None when all are."""
    # one new token is one of an answer; what a sequence that has ended goes on with does no harm
    if mask is None or new == 1:
        return None
    if mask.ndim == 2:
        visible = mask[:, -new:].bool()
    else:
        last = mask[:, 0, -1, -new:]
        visible = last if last.dtype == torch.bool else last == 0
    return None if bool(visible.all()) else visible


def _fitting_mask(
    module: Any,
    layer: KeptLayer,
    mask: torch.Tensor | None,
    visible: torch.Tensor | None,
    states: torch.Tensor,
) -> torch.Tensor | None:
    """``mask`` itself while it fits what ``layer`` holds and is given; else one that does.

    The model makes one mask for all layers, by the length of the first and by the padding of the tokens seen.
    """
    new, held, bias = states.shape[1], layer.held, layer.bias
    if held == layer.seen and (mask is None or mask.shape[-1] == held + new):
        return mask
    kind = str(module.config._attn_implementation)
    padded = layer.has_padding or visible is not None
    if not padded and bias is None and (new == 1 or "flash" in kind):
        return None
    if kind not in ("sdpa", "eager"):
        what = "padded batches" if padded else "several tokens at once"
        what = what if bias is None else "more attention to merged entries"
        raise UnsupportedModelError(
            f"a reduced cache cannot take {what} with attn_implementation={kind!r}; load the model with "
            "'sdpa' or 'eager'"
        )
    fresh = torch.ones(len(states), new, dtype=torch.bool, device=states.device)
    fresh = fresh if visible is None else visible
    own = torch.ones(new, new, dtype=torch.bool, device=states.device).tril() & fresh[:, None, None]
    seen = own if not held else _beside(layer.entries["tokens"] >= 0, own)
    fitting = seen if kind == "sdpa" and bias is None else _added(seen, bias, states.dtype)
    return fitting if fitting.shape[1] == 1 else fitting.repeat_interleave(module.num_key_value_groups, 1)


def _added(seen: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    """What to add to logits where only entries that are ``seen`` may be attended to, by key-value head.

    Args:
        bias: (rows, heads, held) for the entries of earlier calls.
    """
    added = torch.zeros_like(seen, dtype=dtype)
    if bias is not None:
        added[..., : bias.shape[-1]] += bias[:, :, None].to(dtype)
    return added.masked_fill_(~seen, torch.finfo(dtype).min)


def _beside(old: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """(rows, heads, new, held + new) from (rows, heads, held) and (rows, 1, new, new)."""
    new = own.shape[-1]
    return torch.cat([old[:, :, None].expand(-1, -1, new, -1), own.expand(-1, old.shape[1], -1, -1)], -1)


def _queries(
    attention: Any, states: torch.Tensor, tables: tuple[torch.Tensor, torch.Tensor] | None, count: int
) -> torch.Tensor:
    """(rows, heads, count, dim) float32: queries of the last ``count`` tokens as they enter the attention.

    Args:
        states: (rows, tokens, width) what goes into the attention.
        tables: cosines and sines of the tokens' positions, (rows or 1, tokens, dim or fewer); None = the
            queries before rotation.
    """
    if not hasattr(attention, "q_proj"):
        raise UnsupportedModelError(
            f"{type(attention).__name__} has no q_proj to compute queries with; use a policy that reads keys "
            "and values only"
        )
    queries = heads_of(attention, "q", states[:, -count:])
    if tables is not None:
        cos, sin = (table[:, -count:, None].float() for table in tables)
        queries = rotate(queries, cos, sin)
    rows: torch.Tensor = queries.transpose(1, 2)
    return rows
