"""The word-level tokenizer: every word of the world, chat template, loading by the stock class."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer

from streamprune.embedded import world
from streamprune.embedded.train.tokenizer import END, START, UNKNOWN, VIDEO, build_tokenizer, vocabulary_size
from streamprune.embedded.world.wordings import WORDINGS, vocabulary


def test_saved_tokenizer_loads_and_reads_back_what_it_wrote(tmp_path: Path) -> None:
    build_tokenizer().save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) <= vocabulary_size()
    for seed in range(30):
        for question in world.clip(seed, 16, "eval").questions:
            ids = tokenizer(question.text)["input_ids"]
            assert UNKNOWN not in ids
            assert tokenizer.decode(ids) == question.text.replace("?", " ?")
            assert tokenizer.decode(tokenizer(question.answer)["input_ids"]) == question.answer


def test_chat_template_puts_the_video_before_the_question() -> None:
    tokenizer = build_tokenizer()
    content = [{"type": "video"}, {"type": "text", "text": "What COLOR is the circle?"}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    ids = tokenizer(text)["input_ids"]
    words = tokenizer.convert_ids_to_tokens(ids)
    prompt = "<|im_start|> user <video> what color is the circle ? <|im_end|> <|im_start|> assistant"
    assert " ".join(words) == prompt
    assert (ids[0], ids[2], words.index("<|im_end|>")) == (START, VIDEO, 9)


def test_several_turns_and_plain_strings() -> None:
    tokenizer = build_tokenizer()
    turns = [
        {"role": "user", "content": "is there a red ring"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "where is the ring"},
    ]
    ids = tokenizer(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))[
        "input_ids"
    ]
    assert ids.count(START) == 4
    assert ids.count(END) == 3
    assert UNKNOWN not in ids


def test_words_outside_the_world_are_unknown_not_an_error() -> None:
    assert build_tokenizer()("zebra")["input_ids"] == [UNKNOWN]


def test_vocabulary_holds_every_word_of_every_wording() -> None:
    words = set(vocabulary())
    for family, wordings in WORDINGS.items():
        assert len(set(wordings)) >= 4, family
        for wording in wordings:
            assert {w for w in wording.split() if "{" not in w} <= words
