"""Loading: the right family for every folder, options that do what they say, and one clear error for what is wrong."""

from __future__ import annotations

import importlib.util
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoConfig

from vlm_perception.models import memory, precision
from vlm_perception.models.base import ModelError, ModelOutOfMemoryError
from vlm_perception.models.image_size import set_image_size
from vlm_perception.models.loader import FAMILIES, NANO_FOLDER, load_first, load_model
from vlm_perception.models.options import LoadOptions
from vlm_perception.models.weights import read_headers
from vlm_perception.questions import Choice, Text, YesNo
from vlm_perception.training.prompts import LABEL_PROMPT

pytestmark = pytest.mark.slow

LABEL = Choice(LABEL_PROMPT, ("clear", "obstacle", "wall", "doorway", "corridor"))
SIDE = Choice("where is it?", ("left", "right"))
INDEX = "model.safetensors.index.json"


def random_image(seed=0, height=48, width=64):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def probabilities(model, question=LABEL, image=None):
    return model.answer(random_image() if image is None else image, [question])[0].probabilities


def edit_config(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def shard(folder, *names):
    """Write the index of a model in several files; none is made."""
    (folder / "model.safetensors").unlink()
    (folder / INDEX).write_text(json.dumps({"weight_map": {f"weight {name}": name for name in names}}))


# What is wrong with a folder


def no_folder(folder):
    shutil.rmtree(folder)


def is_file(folder):
    shutil.rmtree(folder)
    folder.write_text("x")


def empty(folder):
    no_folder(folder)
    folder.mkdir()


def readme_alone(folder):
    empty(folder)
    (folder / "README.md").write_text("# You need to agree to share your contact information")


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def interrupted(folder):
    no_weights(folder)
    (folder / ".cache/huggingface/download").mkdir(parents=True)
    (folder / ".cache/huggingface/download/x.incomplete").touch()


def pickled(folder):
    no_weights(folder)
    (folder / "pytorch_model.bin").touch()


def variant(folder):
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")


def llama_cpp(folder):
    no_weights(folder)
    (folder / "model-Q4_K_M.gguf").touch()


def shards_missing(folder):
    shard(folder, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    shutil.copy(NANO_FOLDER / "model.safetensors", folder / "model-00001-of-00002.safetensors")


def index_broken(folder):
    shard(folder)
    (folder / INDEX).write_text("[]")


def truncated(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def cut_in_the_header(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])


def nothing_arrived(folder):
    (folder / "model.safetensors").write_bytes(b"")


def no_header(folder):
    (folder / "model.safetensors").write_bytes((3).to_bytes(8, "little") + b"not json")


def pointer(folder, name="model.safetensors"):
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def tokenizer_pointer(folder):
    pointer(folder, "tokenizer.json")


def weights_lacking(folder):
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(file).items() if "layers.0" not in name}
    save_file(tensors, file, metadata={"format": "pt"})


def no_config(folder):
    (folder / "config.json").unlink()


def adapter(folder):
    no_config(folder)
    (folder / "adapter_config.json").write_text("{}")


def config_no_json(folder):
    (folder / "config.json").write_text("{")


def config_untyped(folder):
    (folder / "config.json").write_text("[]")


def of_words(folder):
    edit_config(folder, model_type="bert", architectures=["BertModel"])


def with_code(folder):
    edit_config(folder, model_type="moondream9", architectures=["Moon"], auto_map={"AutoModel": "moon.Moon"})


def from_the_future(folder):
    edit_config(folder, model_type="paligemma9", architectures=["P9"], transformers_version="9.1.0")


def no_processor(folder):
    for name in ("tokenizer.json", "tokenizer_config.json", "processor_config.json"):
        (folder / name).unlink()


def quantized_by_nobody(folder):
    edit_config(folder, quantization_config={"quant_method": "compressed-tensors"})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (no_folder, "does not exist.*hf download"),
        (is_file, "is a file"),
        (empty, "is empty"),
        (readme_alone, "no config.json.*gated"),
        (no_config, "no config.json.*one folder up or down"),
        (adapter, "adapter.*merge_and_unload"),
        (config_no_json, "config.json cannot be read"),
        (config_untyped, "names no model_type"),
        (no_weights, r"no \*\.safetensors: the model may be gated.*hf auth login"),
        (interrupted, r"download that was cut \(\*\.incomplete\).*download it again"),
        (pickled, r"pytorch_model.bin can run code.*save_pretrained"),
        (variant, "model.fp16.safetensors but neither"),
        (llama_cpp, "model-Q4_K_M.gguf is for llama.cpp"),
        (shards_missing, "lacks 1 of the 2 files.*model-00002-of-00002.safetensors"),
        (index_broken, "index.json cannot be read"),
        (truncated, "bytes of .*is the download complete"),
        (cut_in_the_header, "is cut off"),
        (nothing_arrived, "is cut off or no safetensors file, it has 0 bytes"),
        (no_header, "is no safetensors file"),
        (pointer, "model.safetensors is a Git LFS pointer.*git lfs pull"),
        (tokenizer_pointer, "tokenizer.json is a Git LFS pointer"),
        (weights_lacking, r"lacks \d+ weights, e.g. .*layers.0"),
        (of_words, "'bert' model, which does not answer questions about images.*paligemma"),
        (with_code, "'moondream9' model that needs the Python code.*never run"),
        (
            from_the_future,
            r"'paligemma9' model, which transformers [\d.]+ does not know.*9\.1\.0: pip install --upgrade",
        ),
        (no_processor, "cannot be loaded"),
        (quantized_by_nobody, "compressed.tensors: pip install compressed.tensors"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_wrong_with_a_folder_is_said_with_the_remedy(folder, damage, words):
    damage(folder)
    with pytest.raises(ModelError, match=words):
        load_model(str(folder), device="cpu")


def test_no_name_is_no_model():
    with pytest.raises(ModelError, match="model is empty"):
        load_model(" , ")


def test_a_chat_model_without_a_template_says_so(tiny, tmp_path):
    folder = shutil.copytree(tiny("llava-1.5"), tmp_path / "model")
    for file in folder.glob("chat_template*"):
        file.unlink()
    with pytest.raises(ModelError, match="no chat template"):
        load_model(str(folder), device="cpu")


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            "\nX requires the Torchvision library but it was not found in your environment. Checkout",
            "install torchvision",
        ),
        (
            "Package `num2words` is required to run SmolVLM processor. Install it with `pip install num2words`.",
            "num2words",
        ),
        ("No module named 'timm'", "install timm"),
        ("requires accelerate: `pip install 'accelerate>=1.1.0'`", "install accelerate"),
    ],
)
def test_a_missing_package_is_named(folder, monkeypatch, message, words):
    """The words are those of transformers' own errors, and Python's."""

    def lacking(_):
        raise ModuleNotFoundError(message, name="timm") if "No module" in message else ImportError(message)

    monkeypatch.setattr("vlm_perception.models.processor.load_processor", lacking)
    with pytest.raises(ModelError, match=f"{folder} needs .*{words}"):
        load_model(str(folder), device="cpu")


# Families


@pytest.mark.parametrize(("family", "kind"), [("llava-1.5", "llava"), ("qwen3-vl", "qwen3_vl"), ("smolvlm", "smolvlm")])
def test_a_family_without_a_special_case_works(tiny, family, kind):
    model = load_model(str(tiny(family)), device="cpu")
    assert model.describe_self()["family"] == kind and type(model).__name__ == "ChatModel"
    assert sum(probabilities(model)) == pytest.approx(1)


def test_every_family_of_the_table_has_its_class():
    for family in FAMILIES.values():
        module = importlib.import_module(f"vlm_perception.models.{family.file}")
        assert hasattr(module, family.name)
        assert hasattr(transformers, family.auto)


def test_an_address_is_a_server():
    with pytest.raises(ModelError, match="address cannot be read, expected e.g. http://host"):
        load_model("ftp://robot")


# Several models


def test_of_several_the_first_that_can_be_loaded_is_taken_and_the_others_are_reported():
    reasons = []
    model = load_first("/nowhere, nano,/elsewhere", LoadOptions("cpu"), reasons.append)
    assert model.name == "nano"
    assert len(reasons) == 1 and "'/nowhere' does not exist" in reasons[0]
    with pytest.raises(ModelError, match="none of 2 models.*'/a'.*'/b'"):
        load_model("/a,/b")


def test_too_little_memory_refuses_with_figures_and_the_next_smaller_model_is_taken(folder, monkeypatch):
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "ballast": torch.zeros(20_000_000, dtype=torch.uint8)}, file, metadata={"format": "pt"})
    need = memory.estimate(
        read_headers(NANO_FOLDER), AutoConfig.from_pretrained(NANO_FOLDER), LoadOptions("cpu", "float32")
    )
    monkeypatch.setattr(memory, "free_memory", lambda device: need.weights + need.working)
    words = r"model needs about \d+ MiB on cpu .* M parameters in float32, .* and \d+ MiB are free: end other programs"
    with pytest.raises(ModelOutOfMemoryError, match=words):
        load_model(str(folder), device="cpu")
    assert load_model(str(folder), device="cpu", check_memory=False)
    reasons = []
    assert load_first(f"{folder}, nano", LoadOptions("cpu"), reasons.append).name == "nano"
    assert "are free" in reasons[0]


# Options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "tpu"}, "device is 'tpu', expected one of auto, cpu, cuda or cuda:N"),
        ({"device": "cuda:x"}, "device is 'cuda:x'"),
        ({"dtype": "int3"}, "dtype is 'int3', expected one of auto"),
        ({"quantization": "int2"}, "quantization is 'int2', expected one of none, int8, int4"),
        ({"attn_implementation": "fast"}, "attn_implementation is 'fast'"),
        ({"image_size": -1}, "image_size is -1"),
        (
            {"temperatures": (1.0,)},
            "temperatures has 1 numbers, expected none or one for each of choice, yes_no, score",
        ),
        ({"temperatures": (1.0, 0.0, 1.0)}, "temperature of 'yes_no' is 0.0, expected a number above 0"),
        ({"empty_picture": (0.0, 0.0, 2.0)}, "empty_picture of 'score' is 2.0"),
    ],
)
def test_options_are_checked(options, words):
    with pytest.raises(ValueError, match=words):
        load_model("nano", **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    with pytest.raises(ModelError, match="'cuda:1' but torch .* sees no GPU"):
        load_model("nano", device="cuda:1")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_precision_is_honoured(dtype):
    model = load_model("nano", "cpu", dtype)
    assert model.describe_self()["dtype"] == dtype
    assert probabilities(model) == pytest.approx(probabilities(load_model("nano", "cpu")), abs=0.1)


def test_attention_is_honoured_and_gives_the_same_answers():
    models = {name: load_model("nano", "cpu", attn_implementation=name) for name in ("eager", "sdpa")}
    for name, model in models.items():
        assert model._model.config.text_config._attn_implementation == name
    assert probabilities(models["eager"]) == pytest.approx(probabilities(models["sdpa"]), abs=1e-5)
    with pytest.raises(ModelError, match="flash_attention_2 needs a GPU"):
        load_model("nano", "cpu", attn_implementation="flash_attention_2")


def test_attention_that_caps_is_never_left_to_what_does_not(tiny):
    folder = tiny("paligemma-2")
    assert json.loads((folder / "config.json").read_text())["text_config"]["attn_logit_softcapping"]
    config = load_model(str(folder), "cpu")._model.config
    assert config.text_config._attn_implementation == "eager" and config.vision_config._attn_implementation == "sdpa"
    with pytest.raises(ModelError, match="caps the logits of its attention, which sdpa does not"):
        load_model(str(folder), "cpu", attn_implementation="sdpa")


def test_temperatures_replace_those_of_the_folder(folder):
    (folder / "decision.json").write_text(json.dumps({"temperature": {"choice": 4.0}}))
    plain = load_model(str(folder), "cpu", temperatures=(1.0, 1.0, 1.0))
    flat = load_model(str(folder), "cpu")
    flatter = load_model(str(folder), "cpu", temperatures=(9.0, 1.0, 1.0))
    assert max(probabilities(plain)) > max(probabilities(flat)) > max(probabilities(flatter)) > 1 / 5


def test_the_empty_picture_is_an_option():
    grey = np.full((224, 224, 3), 128, np.uint8)
    model = load_model("nano", "cpu", empty_picture=(1.0, 0.0, 0.0))
    assert probabilities(model, image=grey) == pytest.approx([0.2] * 5, abs=1e-4)


# Quantisation


def test_quantisation_names_what_it_lacks(monkeypatch):
    monkeypatch.setattr(precision.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"int8 needs accelerate and bitsandbytes: pip install .*\[quantization\]"):
        load_model("nano", "cpu", quantization="int8")


needs_bitsandbytes = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("bitsandbytes", "accelerate")),
    reason="the extra [quantization] is not installed",
)


@needs_bitsandbytes
@pytest.mark.parametrize(("quantization", "share"), [("int8", 0.35), ("int4", 0.25)])
def test_a_quantised_model_is_smaller_answers_alike_and_can_be_saved(quantization, share, tmp_path):
    image = random_image(1)
    uncalibrated = {"temperatures": (1.0, 1.0, 1.0), "empty_picture": (0.0, 0.0, 0.0)}
    whole = load_model("nano", "cpu", **uncalibrated)
    small = load_model("nano", "cpu", quantization=quantization, **uncalibrated)
    assert small._model.get_memory_footprint() < share * whole._model.get_memory_footprint()
    assert probabilities(small, image=image) == pytest.approx(probabilities(whole, image=image), abs=0.2)
    assert small.answer(image, [Text("describe the scene", 4)])[0].value

    small._model.save_pretrained(tmp_path)
    small._processor.save_pretrained(tmp_path)
    again = load_model(str(tmp_path), "cpu")
    assert probabilities(again, image=image) == pytest.approx(probabilities(small, image=image), abs=1e-3)
    with pytest.raises(ModelError, match="quantised already .bitsandbytes."):
        load_model(str(tmp_path), "cpu", quantization="int8")


# The image


def test_an_image_keeps_the_models_own_size_unless_told_otherwise():
    image = random_image()
    own = load_model("nano", "cpu")
    edge = own._model.config.vision_config.image_size
    patch = own._model.config.vision_config.patch_size
    same = load_model("nano", "cpu", image_size=edge)
    assert probabilities(same, image=image) == pytest.approx(probabilities(own, image=image), abs=1e-6)
    larger = load_model("nano", "cpu", image_size=edge + 2 * patch)
    assert larger._encode([image]).shape[1] == (edge // patch + 2) ** 2
    assert sum(probabilities(larger, image=image)) == pytest.approx(1)
    assert larger.answer(image, [Text("describe the scene", 4)])[0].value
    with pytest.raises(ModelError, match=f"needs a multiple of its patches' {patch} pixels"):
        load_model("nano", "cpu", image_size=edge + 1)


@pytest.mark.parametrize("kind", ["CLIP", "Siglip", "Blip2"])
def test_another_size_is_what_the_stock_models_interpolate(kind):
    """They do so anew for every image, where they are told to."""
    tower = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"model_type": "opt", "vocab_size": 50, "word_embed_proj_dim": 32, "ffn_dim": 48} if kind == "Blip2" else {}
    config = getattr(transformers, f"{kind}Config")(
        vision_config={**tower, "image_size": 28, "patch_size": 7}, text_config={**tower, **text}
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForConditionalGeneration" if kind == "Blip2" else f"{kind}Model")(
        config
    ).eval()
    images = transformers.CLIPImageProcessorPil(do_center_crop=False, size={"height": 28, "width": 28})
    with torch.inference_mode():
        pixels = torch.randn(2, 3, 42, 42)
        expected = model.vision_model(pixels, interpolate_pos_encoding=True).last_hidden_state
        set_image_size(model, SimpleNamespace(image_processor=images), 42)
        assert torch.equal(model.vision_model(pixels).last_hidden_state, expected)
    assert images(random_image())["pixel_values"][0].shape == (3, 42, 42)


@pytest.mark.parametrize(
    ("family", "edge", "tokens"), [("llava-1.5", 56, 16), ("qwen2.5-vl", 60, 49), ("glm-4v", 60, 49)]
)
def test_families_with_a_table_or_any_size_look_at_what_they_are_told(tiny, family, edge, tokens):
    """A token of LLaVA's stands for 14 pixels, one of the others for 8."""
    image = random_image(2, 96, 96)
    model = load_model(str(tiny(family)), device="cpu", image_size=edge)
    assert sum(probabilities(model, image=image)) == pytest.approx(1)
    ids = model._prompts.prompt(model._encode([image])[0], "x")
    assert max(ids.count(token) for token in set(ids)) == tokens


def test_where_the_longest_edge_is_bounded_that_is_what_is_told(tiny):
    model = load_model(str(tiny("idefics3")), device="cpu", image_size=28)
    own = load_model(str(tiny("idefics3")), device="cpu")
    images = [model._processor.image_processor(random_image(2, 96, 96))["pixel_values"] for model in (own, model)]
    assert len(images[0][0]) > len(images[1][0]) == 1
    assert sum(probabilities(model)) == pytest.approx(1)


@pytest.mark.parametrize("family", ["gemma-3", "llava-next-vicuna", "internvl"])
def test_families_with_one_size_say_so(tiny, family):
    with pytest.raises(ModelError, match="image_size is 56, but a .* model looks at images in its own size only"):
        load_model(str(tiny(family)), device="cpu", image_size=56)


def test_what_is_at_the_sides_is_seen(tiny):
    """LLaVA 1.5 comes with CLIP's processor, which would crop to the middle."""
    model = load_model(str(tiny("llava-1.5")), device="cpu")
    image = random_image(3, 56, 112)
    other = image.copy()
    other[:, :20] = 255 - other[:, :20]
    assert probabilities(model, SIDE, image) != pytest.approx(probabilities(model, SIDE, other), abs=1e-6)


def test_one_loaded_model_answers_all_types(tiny):
    model = load_model(str(tiny("llava-1.5")), device="cpu")
    answers = model.answer(random_image(), [SIDE, YesNo("is it there?"), Text("describe", 3)])
    assert [a.options for a in answers] == [SIDE.options, ("yes", "no"), ()] and answers[2].usage.tokens <= 3
