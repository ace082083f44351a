"""Sizes of models: the published ones of well-known checkpoints, and one small one of every family.

Numbers as in the checkpoints' own ``config.json``. A shape has no weights; ``made_shape`` makes random ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from streamprune.errors import InvalidValueError, UnknownNameError


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes of one model.

    Attributes:
        name: as users ask for it.
        model_type: its family.
        text: settings of the language model's configuration.
        vision: settings of the tower's.
        top: settings of the whole model's.
        settings: how pictures are prepared, as a checkpoint's folder says it.
        tower_step: blocks of the tower after which its pattern of windows repeats.
        least_layers: of a slice.
        taps: at how many depths the tower hands rows to the language model's first layers.
        num_frames, new_tokens: frames to look at and length of an answer when nobody says, few for large
            models.
        published: whether a checkpoint of these sizes exists.
    """

    name: str
    model_type: str
    text: Mapping[str, Any]
    vision: Mapping[str, Any]
    top: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    tower_step: int = 1
    least_layers: int = 1
    taps: int = 0
    num_frames: int = 8
    new_tokens: int = 9
    published: bool = True

    @property
    def layers(self) -> int:
        """Of the language model."""
        return int(self.text["num_hidden_layers"])

    @property
    def tower_layers(self) -> int:
        """Of the vision tower."""
        return int(self.vision[self._tower_key])

    @property
    def _tower_key(self) -> str:
        return "depth" if "depth" in self.vision else "num_hidden_layers"

    def sliced_tower(self, layers: int) -> int:
        """Blocks of the tower in a slice: as many, rounded up to whole repetitions of its windows."""
        return min(self.tower_layers, -(-layers // self.tower_step) * self.tower_step)

    def sliced(self, layers: int | None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Settings of language model and tower with the first ``layers`` layers of each; None is all.

        Raises InvalidValueError unless ``layers`` is in [least_layers, layers].
        """
        text, vision = dict(self.text), dict(self.vision)
        if layers is None:
            return text, vision
        if isinstance(layers, bool) or not self.least_layers <= layers <= self.layers:
            raise InvalidValueError(
                f"layers must be in [{self.least_layers}, {self.layers}] for the shape {self.name!r}, "
                f"got {layers!r}"
            )
        blocks = self.sliced_tower(layers)
        text["num_hidden_layers"], vision[self._tower_key] = layers, blocks
        if "layer_types" in text:
            text["layer_types"] = text["layer_types"][:layers]
        if "fullatt_block_indexes" in vision:
            vision["fullatt_block_indexes"] = [n for n in vision["fullatt_block_indexes"] if n < blocks]
        if self.taps:
            vision["deepstack_visual_indexes"] = [
                (tap + 1) * blocks // (self.taps + 1) for tap in range(self.taps)
            ]
        return text, vision


def _qwen2(
    layers: int, width: int, heads: int, kv_heads: int, inner: int, words: int, **more: Any
) -> dict[str, Any]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": inner,
        "vocab_size": words,
        "max_position_embeddings": 131072,
        **more,
    }


def _rope(theta: float, *sections: int) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta, "mrope_section": list(sections)}}


def _siglip(layers: int) -> dict[str, Any]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": 1152,
        "num_attention_heads": 16,
        "intermediate_size": 4304,
        "image_size": 384,
        "patch_size": 14,
        "vision_use_head": False,
    }


def _llava(name: str, text: dict[str, Any], tied: bool) -> Shape:
    return Shape(
        name=name,
        model_type="llava_onevision",
        text=text,
        # the published checkpoints leave out the last of SigLIP's 27 layers, whose output nobody reads
        vision=_siglip(26),
        top={
            "tie_word_embeddings": tied,
            "image_grid_pinpoints": [[384, 384]],
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "full",
        },
        settings={"size": {"height": 384, "width": 384}},
    )


def _qwen25(name: str, text: dict[str, Any], tied: bool) -> Shape:
    vision = {"depth": 32, "hidden_size": 1280, "num_heads": 16, "intermediate_size": 3420}
    vision |= {"out_hidden_size": text["hidden_size"], "patch_size": 14, "spatial_merge_size": 2}
    vision |= {"temporal_patch_size": 2, "tokens_per_second": 2, "window_size": 112}
    return Shape(
        name=name,
        model_type="qwen2_5_vl",
        text={**text, **_rope(1e6, 16, 24, 24)},
        vision={**vision, "fullatt_block_indexes": [7, 15, 23, 31]},
        top={"tie_word_embeddings": tied},
        tower_step=8,
    )


def _qwen3(
    name: str, text: dict[str, Any], tower: tuple[int, int, int], taps: list[int], tied: bool
) -> Shape:
    depth, width, inner = tower
    vision = {"depth": depth, "hidden_size": width, "num_heads": 16, "intermediate_size": inner}
    vision |= {"out_hidden_size": text["hidden_size"], "patch_size": 16, "spatial_merge_size": 2}
    vision |= {"temporal_patch_size": 2, "num_position_embeddings": 2304}
    return Shape(
        name=name,
        model_type="qwen3_vl",
        text={**text, "head_dim": 128, **_rope(5e6, 24, 20, 20)},
        vision={**vision, "deepstack_visual_indexes": taps},
        top={"tie_word_embeddings": tied},
        # rows go to as many first layers of the language model
        least_layers=len(taps),
        taps=len(taps),
    )


def _internvl(name: str, text: dict[str, Any], tied: bool) -> Shape:
    vision: dict[str, Any] = {"num_hidden_layers": 24, "hidden_size": 1024, "num_attention_heads": 16}
    vision |= {"intermediate_size": 4096, "image_size": 448, "patch_size": 14}
    vision |= {"use_qk_norm": False, "attention_bias": True, "layer_scale_init_value": 0.1}
    return Shape(
        name=name,
        model_type="internvl",
        text={**text, "model_type": "qwen2"},
        vision=vision,
        top={"tie_word_embeddings": tied, "image_seq_length": 256},
        settings={"size": {"height": 448, "width": 448}},
    )


_SHAPES = (
    _llava("llava-onevision-0.5b", _qwen2(24, 896, 14, 2, 4864, 152000), tied=True),
    _llava("llava-onevision-7b", _qwen2(28, 3584, 28, 4, 18944, 152000), tied=False),
    _qwen25("qwen2.5-vl-3b", _qwen2(36, 2048, 16, 2, 11008, 151936), tied=True),
    _qwen25("qwen2.5-vl-7b", _qwen2(28, 3584, 28, 4, 18944, 152064), tied=False),
    _qwen3("qwen3-vl-4b", _qwen2(36, 2560, 32, 8, 9728, 151936), (24, 1024, 4096), [5, 11, 17], tied=True),
    _qwen3("qwen3-vl-8b", _qwen2(36, 4096, 32, 8, 12288, 151936), (27, 1152, 4304), [8, 16, 24], tied=False),
    _internvl("internvl3-1b", _qwen2(24, 896, 14, 2, 4864, 151674), tied=False),
    _internvl("internvl3-8b", _qwen2(28, 3584, 28, 4, 18944, 151674), tied=False),
)
SHAPES: Mapping[str, Shape] = MappingProxyType({shape.name: shape for shape in _SHAPES})


def find_shape(name: str) -> Shape:
    """The shape called ``name``; UnknownNameError says which there are."""
    if name not in SHAPES:
        raise UnknownNameError.among("shape", name, list(SHAPES))
    return SHAPES[name]
