"""Somebody's own transformers code, with a quarter of the visual tokens: python demos/accelerate_stock.py"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer

import streamprune as sp
from streamprune.models.checkpoint_files import embedded_folder

CLIP, QUESTION = Path(__file__).parent / "clips" / "square_parade.mp4", "which color is the square?"


def stock_inputs(folder: Path) -> dict[str, torch.Tensor]:
    """What ``AutoProcessor`` gives for this model; it needs torchvision, these lines do not."""
    with sp.readers.open_source(CLIP) as source:
        shown = torch.stack([torch.from_numpy(frame.image) for frame in source][::5]).permute(0, 3, 1, 2)
    pixels = torch.nn.functional.interpolate(shown, (96, 96), mode="bicubic", antialias=True) / 127.5 - 1
    tokenizer = AutoTokenizer.from_pretrained(folder)
    says = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": QUESTION}]}]
    text = tokenizer.apply_chat_template(says, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(text.replace("<video>", "<video>" * (36 * len(pixels) + 1)), return_tensors="pt")
    return {**inputs, "pixel_values_videos": pixels[None]}


def main() -> None:
    """The same call twice, the second time inside a block."""
    folder = embedded_folder()
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    tokenizer, inputs = AutoTokenizer.from_pretrained(folder), stock_inputs(folder)
    length = inputs["input_ids"].shape[1]

    full = model.generate(**inputs, max_new_tokens=8, return_dict_in_generate=True)
    with sp.accelerate(model, "streamprune", keep_ratio=0.25):
        kept = model.generate(**inputs, max_new_tokens=8, return_dict_in_generate=True)

    print(QUESTION)
    for out in (full, kept):
        answer = tokenizer.decode(out.sequences[0, length:], skip_special_tokens=True).strip()
        print(f"  {out.past_key_values.layers[0].keys.shape[2]} tokens in the cache: {answer}")


if __name__ == "__main__":
    main()
