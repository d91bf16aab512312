"""How the nano model is made: frames with their truth, mirrored as they should be, and a training that can go on."""

import json

import numpy as np
import pytest
import torch

from vlm_perception.models.loader import load_model
from vlm_perception.questions import Choice
from vlm_perception.simulation import truth
from vlm_perception.simulation.room import NAMES, make_room
from vlm_perception.training import dataset
from vlm_perception.training.batches import make_batch
from vlm_perception.training.loop import train
from vlm_perception.training.prompts import LABEL_PROMPT, THERE_PROMPT, WHERE_PROMPT
from vlm_perception.training.training_questions import draw_questions

SEEDS = range(300, 302)  # not among those of training or testing


@pytest.fixture(scope="module")
def shard():
    return dataset.render_rooms(SEEDS)


def columns(shard):
    return {name: getattr(shard, name) for name in dataset.Shard.__dataclass_fields__}


def test_seeds_of_training_testing_and_judging_never_mix():
    assert dataset.TRAIN_SEEDS[-1] < dataset.TEST_SEEDS[0]
    assert dataset.TEST_SEEDS[-1] < dataset.RESERVED_FROM == 1_000_000


def test_frames_carry_their_truth(shard):
    count = len(SEEDS) * dataset.POSES_PER_ROOM
    assert shard.images.shape == (count, 160, 160, 3) and shard.images.dtype == np.uint8
    assert set(shard.seed) == set(SEEDS)
    for frame in range(count):
        there = {thing.name for thing in make_room(int(shard.seed[frame])).things}
        seen = {NAMES[i] for i in np.flatnonzero(shard.share[frame])}
        assert seen <= there
        assert all(shard.where[frame, NAMES.index(name)] > 0 for name in seen)
        patches = {NAMES[i - 1] for i in np.unique(shard.patch_thing[frame]) if i}
        assert patches <= seen
    assert dataset.render_rooms(SEEDS).images.tobytes() == shard.images.tobytes()


def test_a_mirrored_frame_has_its_sides_swapped(shard):
    class Always:
        """A generator whose draws mirror every frame and change nothing else."""

        def random(self, size):
            return np.zeros(size)

        def uniform(self, low, high, size):
            return np.ones(size) if low > 0 else np.zeros(size)

        def integers(self, high, size):
            return np.zeros(size, int)

    plain = make_batch(columns(shard), None)
    mirrored = make_batch(columns(shard), Always())
    assert torch.equal(mirrored.pixels, plain.pixels.flip(-1))
    swap = {"left": "right", "right": "left"}
    for frame in range(len(plain.label)):
        assert mirrored.label[frame] == plain.label[frame]
        way = truth.WAYS[plain.way[frame]]
        assert truth.WAYS[mirrored.way[frame]] == swap.get(way, way)
        for name in np.flatnonzero(plain.share[frame]):
            side, range_ = truth.WHERE[plain.where[frame, name]].split()
            assert truth.WHERE[mirrored.where[frame, name]] == f"{swap.get(side, side)} {range_}"
            assert mirrored.column[frame, name] == pytest.approx(1 - plain.column[frame, name], abs=1e-3)
        thing = plain.patch_thing[frame].view(dataset.PATCHES, -1)
        assert torch.equal(mirrored.patch_thing[frame].view(dataset.PATCHES, -1), thing.flip(-1))
    assert any(truth.WHERE[w].startswith("left") for w in plain.where[plain.share > 0])


def test_questions_ask_for_what_is_there_and_what_is_not(shard):
    batch = make_batch(columns(shard), None)
    rows = draw_questions(batch, np.random.default_rng(0), targets=4)
    targets = [row for row in rows if row.name >= 0]
    for row in targets:
        share = batch.share[row.frame, row.name]
        there = row.prompt == THERE_PROMPT.format(target=NAMES[row.name])
        assert there or row.prompt == WHERE_PROMPT.format(target=NAMES[row.name])
        if row.answer == "no":
            assert share == 0
        else:
            assert share >= truth.VISIBLE
            assert row.answer == ("yes" if there else truth.WHERE[batch.where[row.frame, row.name]])
    assert 0.1 < sum(row.prompt.startswith("is there") for row in targets) / len(targets) < 0.4
    absent = sum(row.answer == "no" for row in targets) / len(targets)
    assert 0.3 < absent < 0.8
    for row in rows:
        if row.prompt == LABEL_PROMPT:
            assert row.answer == truth.LABELS[batch.label[row.frame]]


def test_training_goes_on_from_its_checkpoint_and_the_folder_loads(shard, tmp_path):
    path = tmp_path / "rooms.npz"
    np.savez(path, **columns(shard))
    settings = {"eyes_steps": 1, "batch_size": 4, "learning_rate": 1e-3, "seed": 5, "report": lambda _: None}
    output, checkpoint = tmp_path / "model", tmp_path / "checkpoint"
    train([path], output, steps=2, checkpoint=checkpoint, **settings)
    first = torch.load(checkpoint, weights_only=True)
    train([path], output, steps=3, checkpoint=checkpoint, **settings)
    second = torch.load(checkpoint, weights_only=True)
    assert (first["step"], second["step"]) == (2, 3)
    name = "model.vision_tower.encoder.layers.0.mlp.fc1.weight"
    name = next(key for key in first["model"] if key.endswith(name.removeprefix("model.vision_tower.")))
    assert not torch.equal(first["model"][name], second["model"][name])
    assert json.loads((output / "training.json").read_text())["steps"] == 3
    model = load_model(str(output), device="cpu")
    (answer,) = model.answer(shard.images[0], [Choice(LABEL_PROMPT, truth.LABELS)])
    assert answer.value in truth.LABELS
