"""One small shape of every family: large enough to be measured, small enough for any machine."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from streamprune.errors import UnknownNameError
from streamprune.models.shapes import Shape

_WIDTH, _SIDE, _PATCH, _WORDS = 256, 112, 14, 512
_FRAMES, _NEW_TOKENS = 64, 33
# of families that count the pixels of a whole clip
_CLIP = {"size": {"shortest_edge": _SIDE**2, "longest_edge": _FRAMES * _SIDE**2}}
# of families that count those of a frame
_FRAME = {"size": {"shortest_edge": _SIDE**2, "longest_edge": (_SIDE + _PATCH) ** 2}}
_SQUARE = {"size": {"height": _SIDE, "width": _SIDE}}


def _text(**more: Any) -> dict[str, Any]:
    return {
        "num_hidden_layers": 4,
        "hidden_size": _WIDTH,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": _WIDTH // 8,
        "intermediate_size": 704,
        "vocab_size": _WORDS,
        "max_position_embeddings": 131072,
        **more,
    }


def _axes(*sections: int, **more: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": list(sections), **more}
    return _text(rope_parameters=rope)


def _tower(**more: Any) -> dict[str, Any]:
    """A tower of the SigLIP or CLIP kind."""
    return {
        "num_hidden_layers": 4,
        "hidden_size": 128,
        "num_attention_heads": 4,
        "intermediate_size": 384,
        "patch_size": _PATCH,
        **more,
    }


def _blocks(**more: Any) -> dict[str, Any]:
    """A tower of the Qwen kind."""
    return {
        "depth": 4,
        "num_heads": 4,
        "patch_size": _PATCH,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        **more,
    }


_GATED = {"hidden_size": 128, "intermediate_size": 384, "out_hidden_size": _WIDTH}
_RECURRENT = {
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 8,
}


def _small(
    model_type: str,
    text: dict[str, Any],
    vision: dict[str, Any],
    settings: Mapping[str, Any],
    top: Mapping[str, Any] = MappingProxyType({}),
    **more: Any,
) -> Shape:
    return Shape(
        name=f"small {model_type}",
        model_type=model_type,
        text=text,
        vision=vision,
        top={"tie_word_embeddings": False, **top},
        settings=settings,
        num_frames=_FRAMES,
        new_tokens=_NEW_TOKENS,
        published=False,
        **more,
    )


_WINDOWS = _blocks(**_GATED, window_size=4 * _PATCH, fullatt_block_indexes=[1, 3])
# as little as can be: nobody listens
_HEARING = {
    "d_model": 16,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "num_mel_bins": 8,
    "max_source_positions": 20,
    "n_window": 4,
    "output_dim": _WIDTH,
}
_ALL = (
    _small(
        "internvl",
        _text(model_type="qwen2"),
        _tower(image_size=_SIDE, use_qk_norm=True, layer_scale_init_value=0.1),
        _SQUARE,
        {"image_seq_length": 16},
    ),
    _small(
        "llava_next_video",
        _text(),
        _tower(image_size=_SIDE, projection_dim=64),
        {"size": {"shortest_edge": _SIDE}, "crop_size": {"height": _SIDE, "width": _SIDE}},
    ),
    _small(
        "llava_onevision",
        _text(model_type="qwen2"),
        _tower(image_size=_SIDE, vision_use_head=False),
        _SQUARE,
        {"image_grid_pinpoints": [[_SIDE, _SIDE]]},
    ),
    _small(
        "minicpmv4_6",
        {**_axes(4, 2, 2, partial_rotary_factor=0.5), **_RECURRENT, "model_type": "qwen3_5_text"},
        _tower(image_size=_SIDE),
        {"scale_resolution": _SIDE, "slice_mode": False},
        {"insert_layer_id": 1},
        least_layers=4,
    ),
    _small(
        "qwen2_5_omni",
        _axes(4, 6, 6),
        # whatever is asked for, pictures are shown large: large patches make few of them
        {**_WINDOWS, "patch_size": 2 * _PATCH, "window_size": 8 * _PATCH},
        _FRAME,
        {"audio_config": _HEARING, "position_id_per_seconds": 4},
        tower_step=2,
    ),
    _small(
        "qwen2_5_vl",
        _axes(4, 6, 6),
        {**_WINDOWS, "tokens_per_second": 2},
        _FRAME,
        tower_step=2,
    ),
    _small("qwen2_vl", _axes(4, 6, 6), _blocks(embed_dim=128, hidden_size=_WIDTH, mlp_ratio=3), _FRAME),
    _small(
        "qwen3_5",
        {**_axes(4, 2, 2, partial_rotary_factor=0.5), **_RECURRENT},
        _blocks(**_GATED, num_position_embeddings=256),
        _CLIP,
        least_layers=4,
    ),
    _small(
        "qwen3_vl",
        _axes(8, 4, 4),
        _blocks(**_GATED, num_position_embeddings=256, deepstack_visual_indexes=[0, 1, 2]),
        _CLIP,
        least_layers=3,
        taps=3,
    ),
    _small(
        "smolvlm",
        _text(model_type="llama"),
        _tower(image_size=_SIDE),
        {"size": {"longest_edge": 2 * _SIDE}, "max_image_size": {"longest_edge": _SIDE}},
        {"scale_factor": 2},
    ),
    _small("video_llama_3", _text(model_type="qwen2"), _tower(), _CLIP),
)
SMALL_SHAPES: Mapping[str, Shape] = MappingProxyType({shape.model_type: shape for shape in _ALL})


def find_small_shape(model_type: str) -> Shape:
    """The small shape of a family; UnknownNameError says of which there is one."""
    if model_type not in SMALL_SHAPES:
        raise UnknownNameError.among("family", model_type, list(SMALL_SHAPES))
    return SMALL_SHAPES[model_type]
