"""The shipped model: small, stock, and right about rooms that it was never trained on."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlm_perception.models.loader import NANO_FOLDER, load_model
from vlm_perception.questions import Choice, Text, YesNo
from vlm_perception.simulation import truth
from vlm_perception.simulation.room import NAMES, RobotPose, Room, Thing, make_room
from vlm_perception.simulation.world import World
from vlm_perception.training import figures
from vlm_perception.training.dataset import random_pose
from vlm_perception.training.prompts import DESCRIPTION_PROMPT, LABEL_PROMPT, THERE_PROMPT, WAY_PROMPT, WHERE_PROMPT

pytestmark = pytest.mark.slow

SEEDS = range(400, 410)  # neither of training nor of testing


@pytest.fixture(scope="module")
def nano():
    return load_model("nano", device="cpu")


def test_it_is_small_and_loads_with_the_stock_classes(monkeypatch):
    from transformers import AutoModelForImageTextToText, AutoProcessor, PaliGemmaForConditionalGeneration

    assert sum(file.stat().st_size for file in NANO_FOLDER.iterdir()) < 20e6
    assert {file.suffix for file in NANO_FOLDER.iterdir()} <= {".json", ".safetensors", ".md", ".jinja"}
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = AutoModelForImageTextToText.from_pretrained(NANO_FOLDER, local_files_only=True)
    processor = AutoProcessor.from_pretrained(NANO_FOLDER, local_files_only=True)
    assert type(model) is PaliGemmaForConditionalGeneration
    inputs = processor(text="<image>" + LABEL_PROMPT, images=Image.new("RGB", (64, 48)), return_tensors="pt")
    inputs.pop("labels", None)
    said = model.generate(**inputs, max_new_tokens=4, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert processor.decode(said, skip_special_tokens=True).strip() in truth.LABELS


def test_it_is_right_about_rooms_it_has_not_seen(nano):
    tally = figures.measure(nano, SEEDS)
    reached = tally.metrics()
    assert tally.all["label"] == len(SEEDS) * 12
    # Far below what the model card says, so that ten rooms suffice to tell a broken model from a good one.
    assert reached["label"] > 0.8
    assert reached["presence (balanced)"] > 0.8
    assert reached["side, where found"] > 0.85
    assert reached["range, where found"] > 0.85
    assert figures.table(tally).count("\n") == len(reached) + 1


def test_bfloat16_answers_as_float32_does(nano):
    """The fastest setting of big models on a CPU that multiplies in it, see benchmarks/scoring.py."""
    fast = load_model("nano", device="cpu", dtype="bfloat16")
    questions = [Choice(LABEL_PROMPT, truth.LABELS), Choice(WAY_PROMPT, truth.WAYS)]
    room, rng = make_room(400), np.random.default_rng(0)
    with World(room) as world:
        for thing in (*room.things, *room.things):
            world.place(random_pose(room, rng))
            asked = [*questions, YesNo(THERE_PROMPT.format(target=thing.name))]
            answers = (model.answer(world.image(), asked) for model in (nano, fast))
            for exact, same in zip(*answers, strict=True):
                assert same.probabilities == pytest.approx(exact.probabilities, abs=0.05)
                assert same.value == exact.value or sorted(exact.probabilities)[-2] > 0.45


def view(pose: RobotPose, *things: Thing) -> np.ndarray:
    room = make_room(2)
    with World(Room(**{**vars(room), "things": things})) as world:
        world.place(pose)
        return world.image()


def ball(colour: str, rgb: tuple[float, float, float], y: float) -> Thing:
    return Thing(colour, "ball", 0.0, y, 0.0, 0.25, 0.5, rgb)


def where(nano, image: np.ndarray, target: str) -> str:
    return nano.answer(image, [Choice(WHERE_PROMPT.format(target=target), truth.WHERE)])[0].value


@pytest.mark.parametrize(("y", "side"), [(0.7, "left"), (0.0, "center"), (-0.7, "right")])
def test_it_knows_left_from_right_and_what_is_not_there(nano, y, side):
    image = view(RobotPose(-1.6, 0, 0), ball("red", (0.85, 0.08, 0.08), y))
    assert where(nano, image, "red ball") == f"{side} far"
    mirrored = np.ascontiguousarray(image[:, ::-1])
    swapped = {"left": "right", "right": "left"}.get(side, side)
    assert where(nano, mirrored, "red ball") == f"{swapped} far"
    assert where(nano, image, "blue ball") == "no"
    (text,) = nano.answer(image, [Text(DESCRIPTION_PROMPT)])
    assert "red ball" in text.value
    assert not any(name in text.value for name in NAMES if name.split()[0] != "red")


def test_an_empty_picture_holds_nothing(nano):
    assert {where(nano, np.full((480, 640, 3), 128, np.uint8), name) for name in NAMES} == {"no"}


def test_the_confusion_matrix_is_drawn(tmp_path: Path):
    tally = figures.Tally()
    tally.confusion[0, 0] = 3
    figures.draw_confusion(tally, tmp_path / "images" / "confusion.png")
    assert Image.open(tmp_path / "images" / "confusion.png").size[0] > 300


def test_figures_count_as_they_say():
    tally = figures.Tally()
    for what, right in (("visible", True), ("visible", False), ("absent: other", True), ("label", True)):
        tally.count(what, right)
    reached = tally.metrics()
    assert reached["presence (balanced)"] == pytest.approx((0.5 + 1.0) / 2)
    assert reached["label"] == 1.0
