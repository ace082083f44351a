"""Every way a model can fail to load is one clear error; nothing loads from pickles or runs foreign code."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from streamprune import errors
from streamprune.models import loading, placement
from streamprune.models.base import VideoFamily
from streamprune.models.loading import load_model

HEAD_SIGNALS = {"saliency", "frame_features"}


@pytest.fixture
def folder(small_folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(small_folder, tmp_path / "modèle"))


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{not json")


def list_config(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def foreign_family(folder: Path) -> None:
    edit_config(folder, model_type="bert")


def no_family(folder: Path) -> None:
    edit_config(folder, model_type=None)


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def only_pickles(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    no_weights(folder)


def truncated(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def no_safetensors_inside(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"PK\x03\x04 something else altogether")


def empty_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def missing_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors[next(name for name in tensors if "q_proj" in name)]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def other_shape(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if "q_proj.weight" in name)
    tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def missing_shard(folder: Path) -> None:
    no_weights(folder)
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


def no_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def broken_head(folder: Path) -> None:
    (folder / "pooling_head.safetensors").write_bytes(b"no")


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (no_config, errors.ModelNotFoundError, "holds no config.json"),
        (broken_config, errors.UnsupportedModelError, "cannot read .*config.json"),
        (list_config, errors.UnsupportedModelError, "must hold a JSON object"),
        (foreign_family, errors.UnsupportedModelError, "'bert'.*Supported: .*llava_onevision.*To add one"),
        (no_family, errors.UnsupportedModelError, "None, which is not supported"),
        (no_weights, errors.ModelWeightsError, "holds no weights"),
        (only_pickles, errors.ModelWeightsError, r"only pickled weights \(pytorch_model.bin\)"),
        (truncated, errors.ModelWeightsError, "not a whole safetensors file"),
        (no_safetensors_inside, errors.ModelWeightsError, "not a whole safetensors file"),
        (empty_weights, errors.ModelWeightsError, "not a whole safetensors file"),
        (missing_tensor, errors.ModelWeightsError, "lack 1 tensors, e.g. .*q_proj"),
        (other_shape, errors.ModelWeightsError, "1 tensors have another shape, e.g. .*q_proj"),
        (missing_shard, errors.ModelWeightsError, "missing: model-00001-of-00002.safetensors"),
        (no_tokenizer, errors.ModelError, "tokenizer|chat template"),
        (no_template, errors.UnsupportedModelError, "no chat template"),
        (broken_head, errors.ModelWeightsError, "pooling_head.safetensors is not a whole"),
    ],
)
def test_damaged_folders(
    folder: Path, damage: Callable[[Path], None], error: type[Exception], message: str
) -> None:
    damage(folder)
    with pytest.raises(error, match=message):
        load_model(folder)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dtype": "float33"}, errors.UnknownNameError, "Did you mean 'float32'"),
        ({"dtype": torch.int8}, errors.InvalidValueError, "dtype must be one of"),
        ({"dtype": 16}, errors.InvalidTypeError, "dtype must be"),
        ({"device": "gpu"}, errors.InvalidValueError, "device must be 'auto'"),
        ({"device": "meta"}, errors.InvalidValueError, "device must be 'auto'"),
        ({"device": 1.5}, errors.InvalidValueError, "device must be 'auto'"),
        ({"device": "cuda:99"}, errors.DeviceError, "torch finds"),
        ({"device": "cpu", "device_map": "auto"}, errors.InvalidValueError, "device or device_map, not both"),
        ({"device_map": "auto"}, errors.MissingDependencyError, "pip install accelerate"),
        ({"attn_implementation": "spda"}, errors.UnknownNameError, "Did you mean 'sdpa'"),
        ({"attn_implementation": "kernels-community/x"}, errors.UnknownNameError, "Known: eager"),
    ],
)
def test_options_that_cannot_be_meant(
    small_folder: Path,
    options: dict[str, Any],
    error: type[Exception],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(placement, "find_spec", lambda name: None)  # as if accelerate were not installed
    with pytest.raises(error, match=message):
        load_model(small_folder, **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"device_map": {"": "disk"}}, errors.InvalidValueError, "device_map puts a part .* on 'disk'"),
        ({"device_map": "meta"}, errors.InvalidValueError, "on 'meta', where it cannot be read"),
        ({"device_map": "banana"}, errors.InvalidValueError, "device must be 'auto', 'cpu'"),
        ({"device_map": {"": 99}}, errors.DeviceError, "'cuda:99' .* torch finds"),
        ({"device_map": 1.5}, errors.InvalidTypeError, "device_map must be one of auto, .*, got 1.5"),
        ({"device_map": {"lm_head": True}}, errors.InvalidTypeError, "device_map must be one of auto"),
        ({"quantization_config": "5bit"}, errors.UnknownNameError, "Known: 4bit, 8bit"),
        ({"quantization_config": 4}, errors.InvalidTypeError, "quantization_config must be '4bit', '8bit'"),
    ],
)
def test_places_and_bits_that_cannot_be_meant(
    small_folder: Path,
    options: dict[str, Any],
    error: type[Exception],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(placement, "find_spec", lambda name: object())  # as if accelerate were installed
    with pytest.raises(error, match=message):
        load_model(small_folder, **options)


@pytest.mark.parametrize("device_map", ["auto", "cpu", {"": "cpu"}, torch.device("cpu")])
def test_placing_and_bits_are_handed_on(
    small_folder: Path, device_map: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Any = loading._load_weights
    given: list[dict[str, Any]] = []

    def remember(*args: Any) -> Any:
        given.append(args[-1])
        return real(*args[:-1], {**args[-1], "device_map": None, "quantization_config": None})

    monkeypatch.setattr(placement, "find_spec", lambda name: object())
    monkeypatch.setattr(loading, "_load_weights", remember)
    load_model(small_folder, device_map=device_map, quantization_config="4bit", dtype="bfloat16")
    assert given[0]["device_map"] == device_map
    assert given[0]["quantization_config"]["load_in_4bit"] is True
    assert given[0]["dtype"] == torch.bfloat16


def test_bits_without_their_package(small_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.quantizers.quantizer_bnb_4bit.is_bitsandbytes_available", lambda: False)
    monkeypatch.setattr("transformers.quantizers.quantizer_bnb_4bit.is_accelerate_available", lambda: True)
    with pytest.raises(errors.MissingDependencyError, match=r"pip install -U bitsandbytes"):
        load_model(small_folder, quantization_config="4bit")


def test_parts_left_outside_the_devices_are_refused(
    small_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Any = loading._load_weights

    def half_outside(*args: Any) -> Any:
        model = real(*args[:-1], {**args[-1], "device_map": None})
        model.lm_head.to("meta")
        return model

    monkeypatch.setattr(placement, "find_spec", lambda name: object())
    monkeypatch.setattr(loading, "_load_weights", half_outside)
    with pytest.raises(errors.UnsupportedModelError, match=r"leaves 1 tensors .* 'lm_head.weight'.*4bit"):
        load_model(small_folder, device_map="auto")


def test_cuda_without_a_gpu(small_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(errors.DeviceError, match="0 CUDA GPUs; use device='cpu'"):
        load_model(small_folder, device="cuda")
    assert load_model(small_folder, device="auto").device.type == "cpu"


@pytest.mark.parametrize("name", ["no-such-model", "./no/such", "/nowhere/at/all", "a/b/c", "owner/", ""])
def test_names_that_are_no_model(name: str) -> None:
    with pytest.raises(errors.ModelNotFoundError, match="there is no model"):
        load_model(name)


def test_a_name_must_be_text_or_a_path(small_folder: Path) -> None:
    with pytest.raises(errors.InvalidTypeError, match="name must be"):
        load_model(3)  # type: ignore[arg-type]
    with pytest.raises(errors.ModelNotFoundError, match="is a file"):
        load_model(small_folder / "config.json")


def test_a_hub_name_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("the hub cannot be reached")

    monkeypatch.setattr("transformers.utils.cached_file", offline)
    with pytest.raises(errors.ModelNotFoundError, match="no model 'owner/name' was found on the hub"):
        load_model("owner/name")


def test_a_hub_name_goes_through_the_same_files(small_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the hub's cache gives back is read as a folder is; the weights come through from_pretrained."""
    asked: list[str] = []

    def cached(name: str, file_name: str, **options: object) -> str:
        asked.append(f"{name}/{file_name}")
        path = small_folder / file_name
        if not path.is_file():
            raise OSError("no such entry")
        return str(path)

    import transformers  # here, because it swaps itself for a lazy module when first used

    monkeypatch.setattr("transformers.utils.cached_file", cached)
    real_model, real_tokenizer = transformers.AutoModelForImageTextToText, transformers.AutoTokenizer
    seen: dict[str, Any] = {}

    class Model:
        @staticmethod
        def from_pretrained(name: str, **options: Any) -> Any:
            seen.update(options, name=name)
            return real_model.from_pretrained(small_folder, **options)

    class Words:
        @staticmethod
        def from_pretrained(name: str, **options: Any) -> Any:
            return real_tokenizer.from_pretrained(small_folder, **options)

    monkeypatch.setattr(transformers, "AutoModelForImageTextToText", Model)
    monkeypatch.setattr(transformers, "AutoTokenizer", Words)
    family = load_model("owner/name", attn_implementation="eager")
    assert set(family.available_signals()) >= HEAD_SIGNALS
    assert {"owner/name/config.json", "owner/name/video_preprocessor_config.json"} <= set(asked)
    assert (seen["name"], seen["use_safetensors"], seen["trust_remote_code"]) == ("owner/name", True, False)


def test_a_folder_loads_as_it_was_saved(family: VideoFamily, small_folder: Path) -> None:
    stored = load_file(small_folder / "model.safetensors")
    state = family.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in stored.items() if name in state)
    assert family.model.training is False
    assert (family.context_tokens, family.transform.size) == (512, (28, 28))


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16])
def test_dtype_and_attention_reach_the_model(small_folder: Path, dtype: Any) -> None:
    family = load_model(small_folder, dtype=dtype, attn_implementation="eager")
    assert family.model.dtype in (torch.bfloat16, torch.float16)
    assert family.text_config._attn_implementation == "eager"


def test_video_settings_nested_in_the_processor_file_come_first(folder: Path) -> None:
    nested = {"video_processor": {"size": {"height": 28, "width": 28}, "image_mean": [0.1, 0.2, 0.3]}}
    (folder / "processor_config.json").write_text(json.dumps(nested))
    assert load_model(folder).transform.mean == (0.1, 0.2, 0.3)


def test_without_video_settings_the_image_settings_or_the_tower_decide(folder: Path) -> None:
    settings = json.loads((folder / "video_preprocessor_config.json").read_text())
    (folder / "video_preprocessor_config.json").unlink()
    assert load_model(folder).transform.size == (28, 28)
    (folder / "preprocessor_config.json").write_text(json.dumps({**settings, "image_mean": [0.25] * 3}))
    assert load_model(folder).transform.mean == (0.25, 0.25, 0.25)


def test_a_chat_template_of_an_older_folder_is_found(folder: Path) -> None:
    template = (folder / "chat_template.jinja").read_text()
    no_template(folder)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    assert load_model(folder).tokenizer.chat_template == template


def test_a_damaged_chat_template_is_named(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages")
    with pytest.raises(errors.UnsupportedModelError, match=r"chat template of .* cannot write a prompt"):
        load_model(folder).fixed_tokens("why?")


def test_pooling_head_from_elsewhere(folder: Path, tmp_path: Path) -> None:
    head = load_file(folder / "pooling_head.safetensors")
    (folder / "pooling_head.safetensors").unlink()
    assert not HEAD_SIGNALS & set(load_model(folder).available_signals())
    siglip = tmp_path / "siglip"
    siglip.mkdir()
    save_file({f"vision_model.{name}": value for name, value in head.items()}, siglip / "model.safetensors")
    for where in (siglip, siglip / "model.safetensors"):
        assert set(load_model(folder, pooling_head=where).available_signals()) >= HEAD_SIGNALS


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        ("nowhere/at/all", errors.ModelNotFoundError, "there is no model"),
        ("model.safetensors", errors.ModelWeightsError, "holds no SigLIP pooling head"),
        ("config.json", errors.ModelWeightsError, "must be a .safetensors file"),
    ],
)
def test_pooling_heads_that_are_none(
    small_folder: Path, where: str, error: type[Exception], message: str
) -> None:
    path = small_folder / where
    with pytest.raises(error, match=message):
        load_model(small_folder, pooling_head=path if path.exists() else where)


def test_works_where_torchvision_does_not(small_folder: Path, tmp_path: Path) -> None:
    """A torchvision that is there and does not import must not matter: no processor class is used."""
    broken = tmp_path / "torchvision"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from streamprune.models.loading import load_model\n"
        f"print(load_model({str(small_folder)!r}).model_type)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "llava_onevision"), done.stderr
