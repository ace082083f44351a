"""The word-level tokenizer of the embedded model and its chat template."""

from __future__ import annotations

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from streamprune.embedded.world.wordings import vocabulary

SPECIALS = ("<|pad|>", "<|unk|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")
PAD, UNKNOWN, START, END, IMAGE, VIDEO = range(len(SPECIALS))
VOCABULARY_MULTIPLE = 16

# words of families that mark where a video begins and ends; they come last, so that all models share ids
VISION_START_WORD, VISION_END_WORD = "<|vision_start|>", "<|vision_end|>"
VISION_START, VISION_END = (len(SPECIALS) + len(vocabulary()) + n for n in range(2))

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|> {{ message['role'] }} "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}<video> {% elif part['type'] == 'image' %}<image> "
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %} <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)


def build_tokenizer(vision_words: bool = False) -> PreTrainedTokenizerFast:
    """Build the tokenizer: lower case, split at white space and punctuation, one id per known word.

    With ``vision_words`` two special tokens more stand around every video and image of a chat.
    """
    marks = (VISION_START_WORD, VISION_END_WORD) if vision_words else ()
    words = {word: index for index, word in enumerate((*SPECIALS, *vocabulary(), *marks))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=SPECIALS[UNKNOWN]))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=SPECIALS[UNKNOWN],
        pad_token=SPECIALS[PAD],
        eos_token=SPECIALS[END],
        additional_special_tokens=["<|im_start|>", "<image>", "<video>", *marks],
        clean_up_tokenization_spaces=False,
        model_max_length=8192,
    )
    fast.chat_template = _marked(CHAT_TEMPLATE) if vision_words else CHAT_TEMPLATE
    return fast


def _marked(template: str) -> str:
    for word in ("<video>", "<image>"):
        template = template.replace(word, f"{VISION_START_WORD} {word} {VISION_END_WORD}")
    return template


def vocabulary_size(vision_words: bool = False) -> int:
    """Number of embedding rows: all tokens, rounded up."""
    used = len(SPECIALS) + len(vocabulary()) + 2 * vision_words
    return -(-used // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
