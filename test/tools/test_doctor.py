"""Every finding of the doctor, provoked once: by what the checks are given, or by real nodes over real DDS."""

from __future__ import annotations

import argparse
import configparser
import dataclasses
import json
import os
import re
import socket
import sys
import time
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_models
from findings import GREEN, RED, YELLOW, says
from paths import ROOT
from safetensors.torch import save_file

from vlm_perception.models import memory, onnx_tower
from vlm_perception.models.loader import NANO_FOLDER
from vlm_perception.tools import doctor
from vlm_perception.tools.checks import machine, model
from vlm_perception.tools.checks.finding import Finding, green, red, yellow

GIB = 2**30


def test_a_finding_that_is_not_green_needs_a_remedy():
    with pytest.raises(ValueError, match="expected one but for green"):
        yellow("it", "is so", "")
    with pytest.raises(ValueError, match="expected one but for green"):
        Finding(GREEN, "it", "is so", "do something")


# The machine


def test_packages_are_named_with_their_versions():
    assert says(machine.packages(), (GREEN, r"Python 3\..*torch \d.*transformers 5.*numpy"))


def test_old_missing_and_broken_packages_come_with_the_command_that_helps(monkeypatch, tmp_path):
    old = {"torch": "2.4.1+cu121"}
    found = machine.packages(lambda package: old.get(package, "99"))
    assert says(found, (RED, r"torch is 2.4.1\+cu121, expected 2.9 or newer -> pip install 'torch>=2.9'"))
    monkeypatch.setattr(machine, "LEAST", {"nowhere_to_be_found": "1", "broken_when_imported": "2"})
    (tmp_path / "broken_when_imported.py").write_text("raise ImportError('libcudart.so.13 is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    assert says(
        machine.packages(),
        (RED, "nowhere_to_be_found is not installed -> pip install 'nowhere_to_be_found>=1'"),
        (RED, "cannot be imported: libcudart.so.13 is missing -> pip install --force-reinstall"),
    )


def test_a_package_that_another_packager_installed_is_not_missing():
    def version(package):
        raise PackageNotFoundError(package)

    assert says(machine.packages(version), (GREEN, "Python"))


def test_the_doctor_expects_what_the_package_depends_on():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    least = dict(re.findall(r"^([\w-]+)>=([\d.]+)$", config["options"]["install_requires"], re.MULTILINE))
    assert least == {package: version for package, version in machine.LEAST.items() if version != "0"}


def test_torch_that_does_not_take_numpy_arrays(monkeypatch):
    import torch

    assert machine.torch_and_numpy() == []

    def refuse(array):
        raise RuntimeError("Numpy is not available")

    monkeypatch.setattr(torch, "from_numpy", refuse)
    assert says(machine.torch_and_numpy(), (RED, "Numpy is not available.*numpy<2"))


ORIN = SimpleNamespace(name="Orin", total_memory=16 * GIB, major=8, minor=7)
BLACKWELL = SimpleNamespace(name="B200", total_memory=180 * GIB, major=10, minor=0)


@pytest.mark.parametrize(
    ("cuda", "gpus", "kernels", "driver", "level", "words"),
    [
        (None, [], [], False, GREEN, "none: models run on the CPU"),
        ("12.8", [], [], False, YELLOW, "CUDA build and there is no NVIDIA driver.*whl/cpu"),
        (None, [], [], True, YELLOW, "built without CUDA -> .*JetPack"),
        ("12.8", [], [], True, YELLOW, "sees no GPU -> update the driver for CUDA 12.8"),
        ("12.8", [ORIN], ["sm_80", "sm_90"], True, GREEN, "Orin, 16 GiB, CUDA 12.8"),
        ("12.8", [BLACKWELL], ["sm_80", "sm_90"], True, RED, "no kernels for its compute capability 10.0"),
        ("12.8", [BLACKWELL], ["sm_80", "compute_90"], True, GREEN, "B200"),
        ("12.8", [BLACKWELL], ["sm_90", "sm_100a"], True, GREEN, "B200"),
    ],
)
def test_gpu_and_torch_have_to_agree(cuda, gpus, kernels, driver, level, words):
    assert says(machine.judge_gpu("2.9", cuda, gpus, kernels, driver), (level, words))


def test_this_machine_has_some_answer_about_its_gpu():
    assert {finding.about for finding in machine.gpu()} == {"GPU"}


@pytest.mark.parametrize(
    ("cv_bridge", "works", "rosbags", "level", "words"),
    [
        (True, True, False, GREEN, "cv_bridge converts"),
        (True, False, True, YELLOW, "built for NumPy 1.*rosbags-image takes its place"),
        (True, False, False, RED, "built for NumPy 1.*pip install rosbags-image"),
        (False, False, True, GREEN, "rosbags-image converts"),
        (False, False, False, RED, "neither"),
    ],
)
def test_something_has_to_convert_images(cv_bridge, works, rosbags, level, words):
    assert says(machine.judge_images(cv_bridge, works, rosbags), (level, words))


def test_little_memory_and_a_full_disk(monkeypatch, tmp_path):
    assert says(machine.free(tmp_path), (GREEN, "memory: .* GiB"), (GREEN, "disk: .* GiB"))
    monkeypatch.setattr(memory, "free_memory", lambda device: GIB // 2)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda folder: SimpleNamespace(free=GIB // 4))
    assert says(machine.free(tmp_path), (YELLOW, "memory: 0.5 GiB are free"), (YELLOW, "disk: 0.2 GiB are free at"))


def test_a_clock_that_was_never_set():
    assert says(machine.clock(86400.0), (RED, "1970-01-02.*timedatectl"))
    assert says(machine.clock(), (GREEN, "UTC"))


def test_a_simulator_that_cannot_draw(monkeypatch):
    from vlm_perception.simulation import world

    def fail(*_):
        raise RuntimeError("Cannot initialize\na EGL device display")

    monkeypatch.setattr(world, "World", fail)
    assert says(machine.renderer(), (YELLOW, "Cannot initialize a EGL device display -> apt install libegl1"))


# The model


def test_the_shipped_model_is_known_and_fits():
    takes = r"paligemma by PaliGemma, 2\.9 M parameters: takes \d+ MiB of \d+ on"
    assert says(model.models("nano"), (YELLOW, f"{takes}.*; nano knows this package's simulator only -> .*real weigh"))


def test_no_model_and_one_that_is_not_there():
    assert says(model.models(" , "), (RED, "model is empty"))
    assert says(model.models("/nowhere"), (RED, "'/nowhere' does not exist"))
    assert says(model.models("/nowhere,nano"), (YELLOW, "'/nowhere'.*the next one is tried"), (YELLOW, "nano"))


def test_a_model_that_lacks_its_processor(tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(NANO_FOLDER / name)
    assert says(model.models(str(tmp_path)), (RED, f"{tmp_path} cannot be loaded"))


def test_a_model_that_is_cut_off(tmp_path):
    (tmp_path / "config.json").write_bytes((NANO_FOLDER / "config.json").read_bytes())
    save_file({}, tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").write_bytes(b"\x10\x00\x00")
    assert says(model.models(str(tmp_path)), (RED, "cut off"))


def test_an_exported_model_needs_its_runtime(monkeypatch, tmp_path):
    for file in NANO_FOLDER.iterdir():
        (tmp_path / file.name).symlink_to(file)
    facts = {"precision": "int8", "pixels": [3, 160, 160], "image_size": 0, "opset": 18, "tower_bytes": 2**20}
    (tmp_path / onnx_tower.FACTS_FILE).write_text(json.dumps(facts))
    assert says(model.models(str(tmp_path)), (RED, f"no {onnx_tower.TOWER_FILE}: copy the whole exported folder"))
    (tmp_path / onnx_tower.TOWER_FILE).touch()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert says(model.models(str(tmp_path)), (RED, "onnxruntime"))
    monkeypatch.undo()
    pytest.importorskip("onnxruntime")
    assert says(model.models(str(tmp_path)), (YELLOW, "PaliGemma with its vision tower in ONNX, int8, 2.9 M param"))


def seven_billion(folder: Path) -> Path:
    """A LLaVA's folder whose file holds 7 billion weights in bfloat16, none of which takes room on the disk."""
    tiny_models.save("llava-1.5", folder)
    count, shape = 70, (10_000, 10_000)
    size = 2 * shape[0] * shape[1]
    header = json.dumps(
        {
            f"{n}.weight": {"dtype": "BF16", "shape": shape, "data_offsets": [n * size, (n + 1) * size]}
            for n in range(count)
        }
    ).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + count * size)
    return folder


def test_a_model_that_does_not_fit_comes_with_the_precision_that_does(monkeypatch, tmp_path):
    monkeypatch.setattr(model, "settle", usual)
    folder = str(seven_billion(tmp_path))
    for free, level, words in (
        (40, GREEN, r"llava by ChatModel, 7000.0 M parameters: takes 2\d{4} MiB of 40960 on cpu in float32"),
        (20, RED, "float32: too big -> dtype: bfloat16 makes it fit"),
        (10, RED, "-> quantization: int8.* makes it fit"),
        (5, RED, "-> quantization: int4.* makes it fit"),
        (2, RED, "too big in any precision -> a smaller model"),
    ):
        monkeypatch.setattr(memory, "free_memory", lambda device, free=free: free * GIB)
        assert says(model.models(folder), (level, words))


def usual(options):
    """As `settle` on a machine without a GPU."""
    return dataclasses.replace(options, device="cpu", dtype="float32" if options.dtype == "auto" else options.dtype)


def test_a_server_is_reached_or_not():
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert says(model.models(f"{url}/v1#some"), (GREEN, "takes connections"))
    assert says(model.models(url), (RED, "cannot be reached: .*refused -> start the server"))
    assert says(model.models("http://user:secret@host"), (RED, "holds a user"))


# The command


def arguments(**changes):
    parser = argparse.ArgumentParser()
    doctor.add_arguments(parser)
    return argparse.Namespace(**{**vars(parser.parse_args([])), **changes})


def test_red_is_exit_status_1_and_json_holds_every_finding(monkeypatch, capsys):
    found = [green("it", "is well"), yellow("that", "is slow", "be patient")]
    monkeypatch.setattr(doctor, "examine", lambda model, topics, seconds: iter(found))
    assert doctor.main(arguments()) == 0
    assert capsys.readouterr().out == "green   it: is well\nyellow  that: is slow\n        -> be patient\n"
    found.append(red("the rest", "is broken", "mend it"))
    assert doctor.main(arguments(json=True)) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["healthy"] is False
    assert report["findings"][2] == {"level": "red", "about": "the rest", "words": "is broken", "remedy": "mend it"}


def test_wrong_arguments_are_refused(capsys):
    assert doctor.main(arguments(seconds=0.0)) == 2
    assert "--seconds is 0, expected 0.5 to 60" in capsys.readouterr().err


def test_a_check_that_fails_is_a_finding_and_the_others_go_on():
    def one_of_ours():
        raise ZeroDivisionError("a mistake")

    findings: list[Finding] = []
    assert not doctor.report(findings.append, one_of_ours)
    assert says(findings, (RED, "one of ours: cannot be examined: a mistake"))


def crash(send, *_):
    os._exit(3)


def test_a_room_that_crashes_is_a_finding_and_the_others_go_on(monkeypatch):
    monkeypatch.setattr(doctor, "look_at_ros", crash)
    monkeypatch.setattr(doctor, "look_at_machine", crash)
    findings = list(doctor.examine("", [], 1.0))
    assert says(
        findings,
        (RED, "ROS: the rest was not examined: it ended with exit status 3"),
        (RED, "machine: the rest was not examined"),
        (RED, "model: model is empty"),
    )


def hang(send, *_):
    time.sleep(1000)


def test_whatever_hangs_the_doctor_ends(monkeypatch):
    monkeypatch.setattr(doctor, "TIME_LIMIT", 0.1)
    for room in ("look_at_ros", "look_at_machine", "look_at_model"):
        monkeypatch.setattr(doctor, room, hang)
    findings = list(doctor.examine("nano", [], 1.0))
    assert says(findings, *[(RED, f"{room}: .* has not ended in time") for room in ("ROS", "machine", "model")])
