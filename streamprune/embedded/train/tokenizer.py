"""The word-level tokenizer of the embedded model and its chat template."""

from __future__ import annotations

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from streamprune.embedded.world.wordings import vocabulary

SPECIALS = ("<|pad|>", "<|unk|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")
PAD, UNKNOWN, START, END, IMAGE, VIDEO = range(len(SPECIALS))
VOCABULARY_MULTIPLE = 16

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|> {{ message['role'] }} "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}<video> {% elif part['type'] == 'image' %}<image> "
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %} <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer: lower case, split at white space and punctuation, one id per known word."""
    words = {word: index for index, word in enumerate((*SPECIALS, *vocabulary()))}
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
        additional_special_tokens=["<|im_start|>", "<image>", "<video>"],
        clean_up_tokenization_spaces=False,
        model_max_length=8192,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def vocabulary_size() -> int:
    """Number of embedding rows: all tokens, rounded up."""
    used = len(SPECIALS) + len(vocabulary())
    return -(-used // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
