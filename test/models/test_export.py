"""An exported model answers as its original does, or is not kept; what is lacking is said with its remedy."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import blip2_models
import cv2
import dual_encoders
import numpy as np
import pytest
import tiny_models
import torch
from safetensors import safe_open

from vlm_perception.models import onnx_tower
from vlm_perception.models.base import ModelError
from vlm_perception.models.loader import NANO_FOLDER, load_model
from vlm_perception.models.onnx_tower import FACTS_FILE, TOWER_FILE
from vlm_perception.models.options import LoadOptions
from vlm_perception.perception.source import SourceError, sample
from vlm_perception.questions import Choice, Score, Text, YesNo
from vlm_perception.tools import cli

pytest.importorskip("onnxscript", reason="needs the extra [onnx]")
from vlm_perception.models.onnx_export import export

pytestmark = pytest.mark.slow

NANO, CLIP, SIGLIP, CHINESE = "nano", "clip", "siglip", "chinese_clip"
DUAL = (CLIP, SIGLIP, CHINESE)
CHAT = ("llava-1.5", "gemma-3")
FAMILIES = (NANO, *DUAL, "blip2-opt", "instructblip-vicuna", *CHAT)


def image(seed: int) -> np.ndarray:
    """Coarse colours with some noise: images of one kind that differ much."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8), (64, 48), interpolation=cv2.INTER_LINEAR)
    return np.clip(coarse + rng.normal(0, 10, coarse.shape), 0, 255).astype(np.uint8)


IMAGES = [image(seed) for seed in range(6)]


def label(family):
    return Choice("what is ahead?", dual_encoders.LABELS.get(family, ("wall", "clear", "corridor")))


def check(family):
    return [(image, [label(family)]) for image in IMAGES]


def questions(family):
    """One of every type; what a dual encoder looks for stands in the descriptions."""
    first, second, third = label(family).options
    return [
        Choice("which?", (third, first)),
        YesNo("is it there?", descriptions=(first, second)),
        Score("how near?", ("far", "near"), descriptions=(second, third)),
        Text("describe the scene", max_new_tokens=4, phrases=(first, second)),
    ]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    made = {NANO: NANO_FOLDER}

    def folder(family):
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family)
            if family in DUAL:
                for part in dual_encoders.build(family, made[family]):
                    part.save_pretrained(made[family])
            elif family in CHAT:
                tiny_models.save(family, made[family])
            else:
                blip2_models.save(made[family], *blip2_models.KINDS[family])
        return made[family]

    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory, original):
    made = {}

    def folder(family):
        if family not in made:
            made[family] = tmp_path_factory.mktemp("exported") / family
            export(str(original(family)), made[family], check(family))
        return made[family]

    return folder


def load(folder, **options):
    return load_model(str(folder), "cpu", "float32", **{"execution_provider": "cpu"} | options)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_exported_model_answers_every_question_as_the_original(family, original, exported):
    before, after = load(original(family)), load(exported(family))
    assert after.describe_self()["vision tower"].startswith("float32, ")
    assert after.describe_self()["vision tower"].endswith("on CPU")
    rows = zip(
        before.answer_batch(IMAGES[:3], questions(family)),
        after.answer_batch(IMAGES[:3], questions(family)),
        strict=True,
    )
    for expected, found in rows:
        for one, other in zip(expected, found, strict=True):
            assert other.value == one.value
            assert other.probabilities == pytest.approx(one.probabilities, abs=1e-4)


def test_the_torch_tower_is_gone_and_everything_else_is_there(original, exported):
    folder = exported(SIGLIP)
    with (
        safe_open(folder / "model.safetensors", "pt") as kept,
        safe_open(original(SIGLIP) / "model.safetensors", "pt") as all_,
    ):
        gone = set(all_.keys()) - set(kept.keys())
        assert gone and all("vision_model." in name for name in gone)
        left = [name for name in set(kept.keys()) if "vision_model" in name]
        assert not [name for name in left if ".layers." in name or ".head." in name]
    facts = json.loads((folder / FACTS_FILE).read_text())
    assert facts["precision"] == "float32" and facts["agreement"] == 1 and facts["asked"] == len(IMAGES)
    assert facts["largest_difference"] < 1e-4 and facts["pixels"] == [3, 32, 32]


def test_another_size_of_images_is_exported_and_then_fixed(tmp_path, original):
    export(str(original(CLIP)), tmp_path / "large", check(CLIP), image_size=64)
    expected = load(original(CLIP), image_size=64).answer(IMAGES[0], [label(CLIP)])[0]
    found = load(tmp_path / "large").answer(IMAGES[0], [label(CLIP)])[0]
    assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-4)
    with pytest.raises(ModelError, match="image_size is 32, but this model was exported for 64"):
        load(tmp_path / "large", image_size=32)


def test_int8_of_the_shipped_model_answers_alike_and_is_a_third_of_the_size(tmp_path):
    report = export("nano", tmp_path / "nano", check(NANO), IMAGES)
    assert report.precision == "int8" and report.agreement == 1
    assert 0 < report.largest_difference < 0.1, "it is quantised, and it is the same model"
    assert report.tower_bytes < 0.4 * report.tower_bytes_before
    assert load(tmp_path / "nano").describe_self()["vision tower"].startswith("int8, 2 MiB")


@pytest.mark.parametrize(
    ("calibration", "words"),
    [
        ([], "the export is not the same model, and is not kept"),
        (IMAGES[:1], r"disagrees with the original, and is not kept: \d+\.\d+% of 6 answers"),
    ],
)
def test_an_export_that_says_something_else_is_not_kept(calibration, words, tmp_path, original, monkeypatch):
    forward = onnx_tower.OnnxTower.forward

    def wrong(self, pixel_values, **more):
        output = forward(self, pixel_values, **more)
        output.pooler_output = -output.pooler_output  # the most probable label becomes the least
        return output

    monkeypatch.setattr(onnx_tower.OnnxTower, "forward", wrong)
    with pytest.raises(ModelError, match=words):
        export(str(original(CLIP)), tmp_path / "clip", check(CLIP), calibration)
    assert not list(tmp_path.iterdir())


# What cannot be


def test_what_has_no_tower_to_take_out_is_refused(tmp_path, exported):
    tiny_models.save("qwen3-vl", tmp_path / "qwen")
    with pytest.raises(ModelError, match="'qwen3_vl' model, whose vision tower cannot be taken out, expected one of"):
        export(str(tmp_path / "qwen"), tmp_path / "out", check("qwen"))
    with pytest.raises(ModelError, match="is exported already"):
        export(str(exported(CLIP)), tmp_path / "out", check(CLIP))
    with pytest.raises(FileExistsError, match="give a new folder"):
        export("nano", tmp_path, check(NANO))


def test_the_extra_is_named_when_a_package_is_missing(tmp_path, exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelError, match=r"needs ONNX Runtime: pip install onnxruntime .*extra \[onnx\]"):
        load(exported(CLIP))
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ModelError, match=r"pip install onnx onnxscript, or this package with its extra \[onnx\]"):
        export("nano", tmp_path / "out", check(NANO))


def test_a_provider_that_is_not_there_is_refused_in_words(exported):
    with pytest.raises(ValueError, match="execution_provider is 'npu', expected one of auto, cpu, openvino, cuda"):
        load(exported(CLIP), execution_provider="npu")
    with pytest.raises(
        ModelError, match="'tensorrt', but ONNX Runtime has only .*cpu.* here: pip install onnxruntime-gpu"
    ):
        load(exported(CLIP), execution_provider="tensorrt")


@pytest.mark.parametrize(
    ("there", "device", "asked", "chosen"),
    [
        (["cpu"], "cpu", "auto", ["cpu"]),
        (["openvino", "cpu"], "cpu", "auto", ["openvino", "cpu"]),
        (["openvino", "cpu"], "cpu", "cpu", ["cpu"]),
        (["tensorrt", "cuda", "cpu"], "cpu", "auto", ["cpu"]),
        (["tensorrt", "cuda", "cpu"], "cuda", "auto", ["cuda", "cpu"]),
        (["tensorrt", "cuda", "cpu"], "cuda:1", "tensorrt", ["tensorrt"]),
        (["cpu"], "cuda", "auto", ["cpu"]),
    ],
)
def test_auto_takes_the_best_that_is_there_and_never_waits_for_an_engine(there, device, asked, chosen):
    options = LoadOptions(device, execution_provider=asked)
    assert onnx_tower.choose(options, [onnx_tower.PROVIDERS[name] for name in there]) == chosen


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_does_not_start_is_passed_over_or_named(exported, monkeypatch):
    """As with a GPU build of ONNX Runtime where the driver or a library is lacking."""
    monkeypatch.setattr(onnx_tower, "choose", lambda options, there: ["cuda", "cpu"])
    assert load(exported(CLIP)).describe_self()["vision tower"].endswith("on CPU")
    monkeypatch.setattr(onnx_tower, "choose", lambda options, there: ["cuda"])
    with pytest.raises(ModelError, match="cuda does not start: is onnxruntime-gpu installed, with all its libraries"):
        load(exported(CLIP))


def test_tensorrt_keeps_one_engine_for_all_batches_where_the_user_keeps_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = tmp_path / TOWER_FILE
    file.write_text("a graph")
    settings = onnx_tower.provider_settings("tensorrt", file, LoadOptions("cuda:1", "float16"), (3, 224, 224))
    assert settings["trt_profile_min_shapes"] == "pixel_values:1x3x224x224"
    assert settings["trt_profile_max_shapes"] == "pixel_values:16x3x224x224"
    assert Path(settings["trt_engine_cache_path"]).is_relative_to(tmp_path / "vlm_perception")
    assert (settings["device_id"], settings["trt_fp16_enable"]) == ("1", "True")


@pytest.mark.parametrize(("provider", "setting"), [("tensorrt", "trt_engine_cache_path"), ("openvino", "cache_dir")])
def test_what_was_built_for_a_tower_is_not_used_for_one_with_other_weights(provider, setting, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def cache(folder, graph, weights):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / TOWER_FILE).write_text(graph)
        (tmp_path / folder / f"{TOWER_FILE}.data").write_text(weights)
        options = LoadOptions("cpu")
        return onnx_tower.provider_settings(provider, tmp_path / folder / TOWER_FILE, options, (3, 224, 224))[setting]

    first = cache("first", "graph", "weights")
    assert Path(first).is_dir()
    assert cache("copy", "graph", "weights") == first
    assert len({first, cache("tuned", "graph", "others"), cache("larger", "more graph", "weights")}) == 3


def test_more_images_than_an_engine_takes_go_through_it_in_portions():
    portions = []

    class Session:
        def run(self, names, inputs):
            pixels = inputs[onnx_tower.INPUT]
            portions.append(len(pixels))
            return [pixels.mean((1, 2, 3))[:, None]]

    pixels = torch.arange(2.0 * onnx_tower.MAX_BATCH + 1).reshape(-1, 1, 1, 1).expand(-1, 3, 4, 4)
    features = onnx_tower.OnnxTower(Session(), onnx_tower.Read("pooler_output"), "float32", 0)(pixels).pooler_output
    assert portions == [onnx_tower.MAX_BATCH, onnx_tower.MAX_BATCH, 1]
    assert torch.equal(features, pixels[:, 0, 0, :1])


def test_a_broken_export_says_so(tmp_path, exported):
    def copy(name):
        folder = tmp_path / name
        folder.mkdir()
        for file in exported(CLIP).iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        return folder

    (copy("lacking") / TOWER_FILE).unlink()
    with pytest.raises(ModelError, match=f"no {TOWER_FILE}: copy the whole exported folder"):
        load(tmp_path / "lacking")
    (copy("cut") / TOWER_FILE).write_bytes(b"\x08\x0a")
    with pytest.raises(
        ModelError, match=f"{TOWER_FILE} cannot be used .*: choose another execution_provider, or export"
    ):
        load(tmp_path / "cut")
    (copy("facts") / FACTS_FILE).write_text('{"precision": "int8"}')
    with pytest.raises(ModelError, match=f"{FACTS_FILE} cannot be read .*: export the model again"):
        load(tmp_path / "facts")


# The command


def test_the_command_exports_on_the_users_own_images(tmp_path, original, capsys):
    frames = tmp_path / "frames"
    frames.mkdir()
    for number, image in enumerate(IMAGES):
        cv2.imwrite(str(frames / f"{number}.png"), image[..., ::-1])
    arguments = ["export", str(original(CLIP)), str(tmp_path / "out"), "--frames", str(frames)]
    assert cli.main([*arguments, "--labels", "wall", "corridor"]) == 0
    said = capsys.readouterr().out
    assert "vision tower" in said and "100.00% of 3 answers about 3 images are the original's" in said
    assert load(tmp_path / "out").answer(IMAGES[0], [label(CLIP)])
    assert cli.main(arguments) == 1
    assert "vlm_perception export: " in (said := capsys.readouterr().out) and "exists: give a new folder" in said


def test_the_command_asks_for_images(tmp_path, original, capsys):
    assert cli.main(["export", str(original(CLIP)), str(tmp_path / "out")]) == 1
    assert "--frames is not given: a folder of images or a video" in capsys.readouterr().out
    assert cli.main(["export", "nano", str(tmp_path / "out"), "--frames", str(tmp_path)]) == 1
    assert f"{tmp_path} has no images" in capsys.readouterr().out


def test_images_come_evenly_from_a_folder_or_a_video(tmp_path):
    video = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for number in range(11):
        grey = np.full((48, 64, 3), 20 * number, np.uint8)
        grey[..., 0] = 0  # no blue, which is the last one in RGB
        video.write(grey)
        cv2.imwrite(str(tmp_path / f"{number:02}.png"), grey)
    video.release()
    for source in (tmp_path, tmp_path / "film.avi"):
        found = sample(source, 3)
        assert [round(image[..., 0].mean() / 20) for image in found] == [0, 5, 10]
        assert found[-1].shape == (48, 64, 3) and found[-1][..., 2].mean() < 10
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(SourceError, match=r"broken\.png cannot be decoded"):
        sample(tmp_path, 100)
