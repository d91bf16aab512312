"""Whatever is wrong with one model of a list is a ModelError with the remedy, at load, and the next one is tried."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import tempfile
from pathlib import Path

import pytest
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from vlm_perception.models import memory
from vlm_perception.models.base import ModelError
from vlm_perception.models.explained import explained
from vlm_perception.models.folder import NANO_FOLDER, check_folder
from vlm_perception.models.loader import load_first, load_model, model_names
from vlm_perception.models.options import LoadOptions

pytestmark = pytest.mark.slow

INDEX = "model.safetensors.index.json"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
IMAGES = ("preprocessor_config.json", "processor_config.json")


@pytest.fixture
def tiny(tiny, tmp_path_factory):
    """A copy of the folder of a family's tiny model, which may be broken."""
    return lambda family: shutil.copytree(tiny(family), tmp_path_factory.mktemp("copy"), dirs_exist_ok=True)


def write(file, content):
    file.write_text(content if isinstance(content, str) else json.dumps(content))


def edit(file, **changes):
    write(file, json.loads(file.read_text()) | changes)


def passed_over(models):
    """Load nano behind `models` in a list; return why they were not taken."""
    reasons = []
    assert load_first(f"{models}, nano", LoadOptions("cpu"), reasons.append).name == "nano"
    return " ".join(reasons)


# The list


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("~nobody-of-that-name/model", "home of a user who is not known: write the whole path"),
        ("x" * 5000, "longer than any file's name"),
        ("/data/" + "/x" * 4000, "longer than any file's name"),
        ("a\0b", "does not exist"),
        ("\udcff", "does not exist"),
        ("/proc/self/environ/x", "does not exist"),
        ("/dev/null", "is a file"),
        ('"/data/model', "begins with a quote that does not end"),
    ],
)
def test_a_name_that_is_no_path_does_not_end_the_list(name, words):
    if name.startswith('"'):
        with pytest.raises(ModelError, match=words):
            load_model(f"nano, {name}")
        return
    reason = passed_over(name)
    assert words in reason and len(reason) < 800


def deep(folder, name):
    write(folder / name, '{"a":' * 100_000)


def unwanted_index(folder, names):
    (folder / "model.safetensors").unlink()
    write(folder / INDEX, {"weight_map": names})


def no_tensor(folder, shape, end):
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))


def huge_header(folder):
    with open(folder / "model.safetensors", "wb") as file:
        file.write((1 << 35).to_bytes(8, "little"))
        file.truncate(1 << 36)  # sparse


def of_type(folder, kind):
    edit(folder / "config.json", model_type=kind, architectures=[])


def other_size(folder, part, **sizes):
    config = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", **{part: config[part] | sizes})


def large_images(folder):
    config = json.loads((folder / "processor_config.json").read_text())
    size = {"size": {"height": 100_000, "width": 100_000}}
    edit(folder / "processor_config.json", image_processor=config.get("image_processor", {}) | size)


def without_numbers(folder):
    file = folder / "model.safetensors"
    save_file(
        {name: tensor * float("nan") for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"}
    )


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: unwanted_index(f, {"a": 5}), "expected weight_map with a file for every weight"),
        (lambda f: unwanted_index(f, {"a": "../x"}), "'../x', which lies outside the folder"),
        (lambda f: unwanted_index(f, {"a": "/etc/passwd"}), "lies outside the folder"),
        (lambda f: deep(f, "config.json"), "nested too deeply"),
        (lambda f: deep(f, "tokenizer.json"), "cannot be loaded"),
        (lambda f: deep(f, "processor_config.json"), "nested too deeply"),
        (lambda f: deep(f, "decision.json"), "nested too deeply"),
        (lambda f: write(f / "config.json", {"model_type": ["clip"]}), "names no model_type"),
        (lambda f: edit(f / "config.json", architectures=[{}]), "cannot be loaded"),
        (lambda f: edit(f / "config.json", text_config=5), "cannot be loaded"),
        (lambda f: other_size(f, "text_config", num_hidden_layers=10**9), "num_hidden_layers 1000000000, and no model"),
        (lambda f: other_size(f, "vision_config", num_channels=10_000), "are they of the same model"),
        (lambda f: other_size(f, "vision_config", intermediate_size=760), "in the sizes that config.json tells"),
        (lambda f: other_size(f, "text_config", vocab_size=10**9), "are they of the same model"),
        (lambda f: edit(f / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
         "bitsandbytes has quantised it, but its weights are not"),
        (lambda f: no_tensor(f, [10**18], 4), "is no safetensors file"),
        (lambda f: no_tensor(f, [-1], -4), "is no safetensors file"),
        (huge_header, "is cut off or no safetensors file"),
        (large_images, "above 8192 pixels"),
        (without_numbers, "dtype float32"),
        (lambda f: of_type(f, "florence2"), "made for tasks such as <CAPTION>"),
        (lambda f: of_type(f, "kosmos-2"), "it was not trained to answer"),
        (lambda f: of_type(f, "got_ocr2"), "made for reading printed text"),
        (lambda f: of_type(f, "blip"), "BLIP-2 and InstructBLIP answer"),
        (lambda f: of_type(f, "llava_llama"), "llava-hf/llava-1.5-7b-hf"),
    ],
)  # fmt: skip
def test_a_broken_folder_is_passed_over_with_the_reason(folder, damage, words):
    damage(folder)
    assert words in passed_over(folder)


def take(tiny, folder, other, names):
    """Put the files `names` of another family's folder in place of those in `folder`."""
    source = tiny(other)
    for name in names:
        (folder / name).unlink(missing_ok=True)
        if (source / name).exists():
            shutil.copy(source / name, folder / name)


@pytest.mark.parametrize(
    ("family", "other", "names"),
    [
        ("llava-1.5", "qwen3-vl", IMAGES),
        ("llava-1.5", "qwen3-vl", TOKENIZER),
        ("qwen3-vl", "llava-1.5", IMAGES),
        ("smolvlm", "llava-1.5", TOKENIZER),
    ],
)
def test_files_of_another_model_are_noticed_at_load(tiny, family, other, names):
    folder = tiny(family)
    assert load_model(str(folder), "cpu")
    take(tiny, folder, other, names)
    with pytest.raises(ModelError, match="to the same model|cannot be loaded"):
        load_model(str(folder), "cpu")


@pytest.mark.parametrize("template", ["{{ 1 / 0 }}", "{% for", "{{ raise_exception('one system message') }}", "hello"])
def test_a_faulty_chat_template_is_noticed_at_load(tiny, template):
    folder = tiny("llava-1.5")
    write(folder / "chat_template.jinja", template)
    with pytest.raises(ModelError, match="copy.* (cannot answer|cannot be loaded|template)"):
        load_model(str(folder), "cpu")


def reasons_as_nobody(models):
    """What another user is told of `models`, none of which can be loaded; to be called in a process of its own."""
    os.setgid(65534)
    os.setuid(65534)
    reasons = []
    with pytest.raises(ModelError, match="none of"):
        load_first(models, LoadOptions("cpu"), reasons.append)
    return reasons


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_what_may_not_be_read_does_not_end_the_list(folder):
    parent = Path(tempfile.mkdtemp())  # pytest's own may not be entered by others
    parent.chmod(0o755)
    cases = {name: parent / name for name in ("above", "folder", "model.safetensors", "config.json", "tokenizer.json")}
    for name, path in cases.items():
        shutil.copytree(folder, path)
        (path / name if "." in name else path).chmod(0o600 if "." in name else 0o711 if name == "folder" else 0o700)
    load_model("nano", "cpu")  # what Python imports for it may be root's alone
    models = ",".join(map(str, [cases.pop("above") / "model", *cases.values()]))
    with multiprocessing.get_context("fork").Pool(1) as pool:
        reasons = pool.apply(reasons_as_nobody, (models,))
    shutil.rmtree(parent)
    assert len(reasons) == 5
    assert all("may not be read by user 65534" in reason and "chmod" in reason for reason in reasons), reasons


class PanicException(BaseException):
    """As Rust's, which is no Exception."""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PanicException("called `Option::unwrap()` on a `None` value"), "/m cannot be loaded: called"),
        (SystemExit(3), "/m cannot be loaded: 3"),
        (ModuleNotFoundError("No module named 'httpx2'", name="httpx2"), "/m needs httpx2: pip install httpx2"),
        (ModuleNotFoundError("No module named 'sentencepiece'", name="sentencepiece"), r"with its extra \\[siglip\\]"),
        (ModuleNotFoundError("No module named 'google'", name="google"), r"install protobuf.*extra \\[siglip\\]"),
        (ImportError("T requires the protobuf library but it was not found"), r"pip install protobuf, .* \\[siglip\\]"),
        (ImportError("Install it with `pip install num2words`."), r"extra \\[smolvlm\\]"),
        (OSError(5, "Input/output error", "/m/x"), "/m/x cannot be read: Input/output error"),
        (MemoryError(), "/m does not fit into memory"),
        (ValueError(), "/m cannot be loaded: ValueError"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_is_raised_becomes_one_error_of_ours(error, words):
    with pytest.raises(ModelError, match=words.replace("\\\\", "\\")), explained("/m"):
        raise error


def test_an_interrupt_ends_the_list():
    with pytest.raises(KeyboardInterrupt), explained("/m"):
        raise KeyboardInterrupt


# Names and places


def test_names_in_quotes_are_taken_as_they_are(tmp_path):
    assert model_names("""/a#b, "/c,d ",'/e"f' , nano,, /it's/g """) == ["/a#b", "/c,d ", '/e"f', "nano", "/it's/g"]
    strange = shutil.copytree(NANO_FOLDER, tmp_path / "a, #b ")
    assert load_model(f"'{strange}'", "cpu").describe_self()["folder"] == str(strange)
    with pytest.raises(ModelError, match="is one folder with a comma in its name: write it in quotes"):
        load_model(str(strange), "cpu")


def test_the_top_folder_of_a_hub_cache_leads_to_its_snapshot(tmp_path):
    top = tmp_path / "hub/models--robot--nano"
    first = shutil.copytree(NANO_FOLDER, top / "snapshots/aaa")
    assert check_folder(str(top))[0] == first
    second = shutil.copytree(NANO_FOLDER, top / "snapshots/bbb")
    with pytest.raises(ModelError, match="2 snapshots.*name one, e.g. .*snapshots/aaa"):
        check_folder(str(top))
    write_main = top / "refs/main"
    write_main.parent.mkdir()
    write_main.write_text("bbb\n")
    assert load_model(str(top), "cpu").describe_self()["folder"] == str(second)
    with pytest.raises(ModelError, match="whole hub's cache: name a model in it, e.g. .*models--robot--nano"):
        check_folder(str(tmp_path / "hub"))


def test_a_byte_order_mark_is_read(folder):
    plain = load_model("nano", "cpu")
    for file in [*folder.glob("*.json"), *folder.glob("*.jinja")]:
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    model = load_model(str(folder), "cpu")
    assert model.describe_self() | {"model": "", "folder": ""} == plain.describe_self() | {"model": "", "folder": ""}
    assert model.describe_self()["folder"] == str(folder)
    assert model._calibration == plain._calibration
    (folder / "tokenizer.json").write_bytes(b"\xef\xbb\xbf{")
    with pytest.raises(ModelError, match=f"{folder} cannot be loaded"):
        load_model(str(folder), "cpu")


# The estimate of memory


def test_a_model_whose_layers_differ_is_estimated_by_its_largest(monkeypatch):
    config = transformers.Gemma4TextConfig()
    alike = transformers.Gemma3TextConfig(**{
        name: getattr(config, name)
        for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                     "num_key_value_heads")
    }, head_dim=512)  # fmt: skip
    assert memory._working(config, 2) == memory._working(alike, 2)


def test_an_estimate_that_fails_refuses_nobody(monkeypatch, caplog):
    def fail(*_):
        raise AttributeError("no such thing")

    monkeypatch.setattr(memory, "estimate", fail)
    assert load_model("nano", "cpu")
    assert "cannot be estimated: no such thing" in caplog.text


# Random damage

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from([10**6, 10**9, 2**63, -(10**9), 1e300, "", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "size", "type"]), inner, max_size=3)
    ),
    max_leaves=4,
)
FILES = ("config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json",
         "decision.json", "scope.json", "model.safetensors", INDEX, "chat_template.jinja")  # fmt: skip


def paths_of(value, path=()):
    """The way to every value of a JSON document, but for those of long lists and dictionaries."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, what in list(inner)[:40]:
        yield from paths_of(what, (*path, key))


def damage(data, folder):
    name = data.draw(st.sampled_from(FILES))
    file = folder / name
    before = file.read_bytes() if file.exists() else b""
    how = data.draw(st.sampled_from(["cut", "bytes", "value", "value", "value", "whole"]))
    try:
        content = json.loads(before)
    except ValueError:  # no JSON, or damaged already
        content = None
    if how == "cut":
        file.write_bytes(before[: data.draw(st.integers(0, len(before)))])
    elif how == "bytes":
        place, new = data.draw(st.integers(0, max(len(before) - 1, 0))), data.draw(st.binary(min_size=1, max_size=9))
        file.write_bytes(before[:place] + new + before[place + len(new) :])
    elif how == "whole" or content is None:
        write(file, data.draw(JSON))
    else:
        path = data.draw(st.sampled_from(list(paths_of(content))))
        value = data.draw(JSON)
        if not path:
            content = value
        else:
            inner = content
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = value
        write(file, content)


@pytest.fixture
def little_memory():
    """No more than a gigabyte on top of what is taken already."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.usefixtures("little_memory")
@settings(max_examples=int(os.environ.get("EXAMPLES", "15")), deadline=None, derandomize="EXAMPLES" not in os.environ,
          suppress_health_check=list(HealthCheck))  # fmt: skip
@given(data=st.data())
def test_random_damage_is_told_or_harmless(tiny, tmp_path_factory, data):
    family = data.draw(st.sampled_from([None, "llava-1.5", "qwen3-vl"]))
    folder = (
        tiny(family) if family else shutil.copytree(NANO_FOLDER, tmp_path_factory.mktemp("nano"), dirs_exist_ok=True)
    )
    for _ in range(data.draw(st.integers(1, 2))):
        damage(data, folder)
    try:
        reasons = []
        model = load_first(f"{folder}, nano", LoadOptions("cpu", check_memory=data.draw(st.booleans())), reasons.append)
        assert reasons or model.name == str(folder)
        assert not any("does not fit into memory" in reason for reason in reasons)
    finally:
        shutil.rmtree(folder)
