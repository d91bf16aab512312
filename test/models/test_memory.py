"""What a model will need is told from its files' headers; what is free from the system, containers' limits included."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, LlamaConfig, LlavaConfig

from vlm_perception.models import memory
from vlm_perception.models.base import ModelOutOfMemoryError
from vlm_perception.models.loader import NANO_FOLDER, load_model
from vlm_perception.models.memory import Need, check, estimate, free_memory
from vlm_perception.models.options import LoadOptions
from vlm_perception.models.weights import Header, read_headers

GIB = 2**30


def options(dtype="float32", quantization="none", device="cpu"):
    return LoadOptions(device, dtype, quantization)


# Headers


def test_headers_tell_of_every_tensor_in_every_file_of_the_index(tmp_path):
    save_file({"a": torch.zeros(3, 5), "b": torch.zeros(7, dtype=torch.bfloat16)}, tmp_path / "one.safetensors")
    save_file({"c": torch.zeros(2, 2, dtype=torch.int8)}, tmp_path / "two.safetensors")
    save_file({"stray": torch.zeros(1)}, tmp_path / "consolidated.safetensors")
    names = {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert read_headers(tmp_path) == {
        "a": Header("F32", (3, 5), 60),
        "b": Header("BF16", (7,), 14),
        "c": Header("I8", (2, 2), 4),
    }


# What a model needs


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_weights_of_a_model_are_known_to_the_byte(dtype):
    model = load_model("nano", "cpu", dtype)._model
    need = estimate(read_headers(NANO_FOLDER), AutoConfig.from_pretrained(NANO_FOLDER), options(dtype))
    assert need.parameters == sum(p.numel() for p in model.parameters())
    assert need.weights == sum(p.numel() * p.element_size() for p in model.parameters())


def llava(size=2):
    """LLaVA-1.5-7B's true sizes: Vicuna-7B and CLIP ViT-L."""
    layer = {"q": (4096, 4096), "k": (4096, 4096), "v": (4096, 4096), "o": (4096, 4096),
             "gate": (11008, 4096), "up": (11008, 4096), "down": (4096, 11008)}  # fmt: skip
    shapes = {f"model.layers.{n}.{name}_proj.weight": shape for n in range(32) for name, shape in layer.items()}
    shapes |= {"model.embed_tokens.weight": (32064, 4096), "lm_head.weight": (32064, 4096)}
    shapes |= {f"vision.{n}.weight": (1024, 12288) for n in range(24)}
    headers = {name: Header("F16", shape, size * shape[0] * shape[1]) for name, shape in shapes.items()}
    return headers, LlavaConfig(text_config=LlamaConfig(vocab_size=32064))


@pytest.mark.parametrize(
    ("dtype", "quantization", "least", "most"),
    [("float16", "none", 13.0, 13.3), ("float32", "none", 26.0, 26.6), ("float16", "int8", 6.7, 7.0),
     ("float16", "int4", 4.0, 4.2)],
)  # fmt: skip
def test_a_7b_model_needs_what_it_is_known_to_need(dtype, quantization, least, most):
    """13.2 GiB of float16 is what is loaded; bitsandbytes reports about 7 and 4 GiB for such a model."""
    need = estimate(*llava(), options(dtype, quantization))
    assert least * GIB < need.weights < most * GIB
    assert 1 * GIB < need.working * 2 / memory.BYTES[dtype] < 2 * GIB  # a cache of 2048 tokens alone is 1 GiB


def test_what_is_quantised_already_counts_as_it_is():
    headers, config = llava()
    headers["model.layers.0.q_proj.weight"] = Header("U8", (4096 * 2048, 1), 4096 * 2048)
    saved = 4096 * 4096 * 2 - 4096 * 2048
    assert (
        estimate(*llava(), options("float16")).weights - estimate(headers, config, options("float16")).weights == saved
    )


# What is free


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A made-up /proc and /sys/fs/cgroup: 8 GiB available, no limits."""
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    groups.mkdir()
    (proc / "meminfo").write_text("MemTotal: 16777216 kB\nMemFree: 1024 kB\nMemAvailable:  8388608 kB\n")
    (proc / "self/cgroup").write_text("0::/\n")
    monkeypatch.setattr(memory, "PROC", proc)
    monkeypatch.setattr(memory, "CGROUPS", groups)
    return SimpleNamespace(proc=proc, groups=groups)


def limit(folder, most, used, cached, version=2):
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current", "inactive_file")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    (folder / names[0]).write_text(f"{most}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {cached}\n")


def test_without_limits_what_the_kernel_calls_available_is_free(system):
    assert free_memory("cpu") == 8 * GIB
    limit(system.groups, "max", 7 * GIB, 0)
    assert free_memory("cpu") == 8 * GIB


def test_a_containers_limit_counts_less_what_it_can_give_back(system):
    limit(system.groups, 4 * GIB, 3 * GIB, 2 * GIB)
    assert free_memory("cpu") == 3 * GIB


def test_the_narrowest_of_nested_groups_counts(system):
    (system.proc / "self/cgroup").write_text("0::/robot.slice/vlm.service\n")
    limit(system.groups / "robot.slice", 2 * GIB, GIB, 0)
    limit(system.groups / "robot.slice/vlm.service", "max", GIB, 0)
    assert free_memory("cpu") == GIB


def test_the_older_groups_count_too(system):
    (system.proc / "self/cgroup").write_text("5:devices:/x\n4:cpu,memory:/docker/1\n0::/\n")
    limit(system.groups / "memory/docker/1", 6 * GIB, 5 * GIB, 0, version=1)
    assert free_memory("cpu") == GIB


def test_this_machine_has_some_memory():
    assert 0 < free_memory("cpu") < 2**50


# The refusal


def test_what_fits_is_let_through_and_what_does_not_is_refused_with_figures(monkeypatch):
    free = {"cuda:0": 8 * GIB, "cpu": 64 * GIB}
    monkeypatch.setattr(memory, "free_memory", free.__getitem__)
    need = Need(7_000_000_000, 13 * GIB, GIB)
    words = (
        r"/m needs about 14\.0 GiB on cuda:0 \(13\.0 GiB for 7000 M parameters in float16, 1\.0 GiB to work\) and "
        r"8\.0 GiB are free: .*smaller model, dtype or quantization"
    )
    with pytest.raises(ModelOutOfMemoryError, match=words):
        check("/m", need, options("float16", device="cuda:0"))
    check("/m", Need(1, 7 * GIB, GIB), options("float16", device="cuda:0"))
    check("/m", need, options("float16"))


def test_weights_must_pass_through_the_hosts_memory(monkeypatch):
    free = {"cuda:0": 24 * GIB, "cpu": 6 * GIB}
    monkeypatch.setattr(memory, "free_memory", free.__getitem__)
    with pytest.raises(
        ModelOutOfMemoryError, match=r"by way of the host's memory, where 13\.0 GiB .* 6\.0 GiB are free"
    ):
        check("/m", Need(7_000_000_000, 13 * GIB, GIB), options("float16", device="cuda:0"))
