"""Large images are halved before the processor squashes them, and the answers stay the same."""

from types import SimpleNamespace

import numpy as np
import pytest

from vlm_perception.models import image_size
from vlm_perception.questions import Choice
from vlm_perception.simulation.truth import LABELS
from vlm_perception.training.prompts import LABEL_PROMPT


class Recorder:
    """An image processor that squashes to 160x160 and keeps what it was given."""

    def __init__(self, **size):
        self.size, self.do_resize = size, True

    def __call__(self, images, **_):
        self.images = images


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((720, 1280), {"height": 160, "width": 160}, (360, 640)),
        ((1080, 1920), {"height": 160, "width": 160}, (270, 480)),
        ((480, 640), {"height": 160, "width": 160}, (240, 320)),
        ((478, 640), {"height": 160, "width": 160}, (478, 640)),  # too little would be left
        ((721, 1280), {"height": 160, "width": 160}, (721, 1280)),  # the last row would be lost
        ((720, 1280), {"height": 448, "width": 448}, (720, 1280)),
        ((720, 1280), {"shortest_edge": 160}, (720, 1280)),
        ((720, 1280), {}, (720, 1280)),
    ],
)
def test_images_are_halved_while_enough_is_left(shape, size, expected):
    processor = SimpleNamespace(image_processor=Recorder(**size))
    image_size.inputs_of([np.zeros((*shape, 3), np.uint8)], processor)
    assert processor.image_processor.images[0].shape == (*expected, 3)


def test_each_pixel_is_the_mean_of_two_by_two():
    image = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), np.uint8)
    processor = SimpleNamespace(image_processor=Recorder(height=160, width=160))
    image_size.inputs_of([image], processor)
    mean = image.reshape(360, 2, 640, 2, 3).mean((1, 3))
    assert np.abs(processor.image_processor.images[0] - mean).max() <= 0.5


def test_labels_of_large_images_stay_the_same(monkeypatch):
    pytest.importorskip("vlm_perception.simulation.world", exc_type=ImportError)
    from vlm_perception.models.loader import load_model
    from vlm_perception.simulation.room import RobotPose, make_room
    from vlm_perception.simulation.world import World

    model, question = load_model("nano", "cpu"), Choice(LABEL_PROMPT, LABELS)
    room = make_room(905_000)
    with World(room, 1280, 720, 0) as world:
        frames = []
        for yaw in range(6):
            world.place(RobotPose(room.start.x, room.start.y, float(yaw)))
            frames.append(world.image())
    short = [model.answer(rendered, [question])[0] for rendered in frames]
    monkeypatch.setattr(image_size, "_halved", lambda image, *_: image)
    long = [model.answer(rendered.copy(), [question])[0] for rendered in frames]
    assert len({answer.value for answer in long}) > 1, "images of one label show nothing"
    assert [answer.value for answer in short] == [answer.value for answer in long]
    for one, other in zip(short, long, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=0.03)
        assert one.probabilities != other.probabilities, "nothing was halved"
