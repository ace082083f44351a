"""A tokenizer for models that never learnt a language: it knows their family's marks, and no word."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_SPECIALS = ("<pad>", "<unk>", "<|im_start|>", "<|im_end|>")
UNKNOWN, END = 1, 3
_TEMPLATE = (
    "{{% for m in messages %}}<|im_start|> {{{{ m['role'] }}}} {{% for p in m['content'] %}}"
    "{{% if p['type'] == 'video' %}}{video}{{% else %}}{{{{ p['text'] }}}}{{% endif %}}{{% endfor %}}"
    " <|im_end|> {{% endfor %}}{{% if add_generation_prompt %}}<|im_start|> assistant{{% endif %}}"
)


@dataclass(frozen=True)
class Marks:
    """How a family writes media into a prompt.

    Attributes:
        video: what the chat template writes for a video.
        words: marks of the family.
        ids: settings of the configuration -> the mark whose id they hold.
    """

    video: str
    words: tuple[str, ...]
    ids: Mapping[str, str] = field(default_factory=dict)

    def numbered(self) -> dict[str, int]:
        """The settings of the configuration, as ids."""
        places = {word: place for place, word in enumerate((*_SPECIALS, *self.words))}
        return {name: places[mark] for name, mark in self.ids.items()}

    @property
    def count(self) -> int:
        """Ids that are no words of an answer."""
        return len(_SPECIALS) + len(self.words)


_QWEN = Marks(
    "<|vision_start|><|video_pad|><|vision_end|>",
    ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
    {
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
    },
)
_OMNI = {
    "vision_start_token_id": "<|vision_start|>",
    "image_token_index": "<|image_pad|>",
    "video_token_index": "<|video_pad|>",
    "audio_start_token_id": "<|audio_start|>",
    "audio_token_index": "<|audio_pad|>",
}
_PADS = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
_INDEXES = {"image_token_index": "<image>", "video_token_index": "<video>"}
_MINICPM = ("<|video_pad|>", "<|image_pad|>", "<image>", "</image>", "<image_id>", "</image_id>")
_SMOL = ("<image>", "<video>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")

MARKS: dict[str, Marks] = {
    "internvl": Marks(
        "<video>\n", ("<IMG_CONTEXT>", "<img>", "</img>", "<video>"), {"image_token_id": "<IMG_CONTEXT>"}
    ),
    "llava_next_video": Marks("<video> ", ("<image>", "<video>"), _INDEXES),
    "llava_onevision": Marks("<video> ", ("<image>", "<video>"), _INDEXES),
    "minicpmv4_6": Marks("<|video_pad|>", _MINICPM, _PADS),
    "qwen2_5_omni": Marks(_QWEN.video, (*_QWEN.words, "<|audio_start|>", "<|audio_pad|>"), _OMNI),
    "qwen2_5_vl": _QWEN,
    "qwen2_vl": _QWEN,
    "qwen3_5": _QWEN,
    "qwen3_vl": _QWEN,
    "smolvlm": Marks("<image>", _SMOL, {"image_token_id": "<image>"}),
    "video_llama_3": Marks("<|video_pad|>", ("<|video_pad|>", "<|image_pad|>"), _PADS),
}


def made_tokenizer(model_type: str) -> Any:
    """The tokenizer for a model of this family: a prompt is about as long as with the real one."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    marks = MARKS[model_type]
    words = (*_SPECIALS, *marks.words)
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", eos_token="<|im_end|>"
    )
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", *marks.words]})
    made.chat_template = _TEMPLATE.format(video=marks.video)
    return made
