"""Figures of the model card: the answers of a model in rooms that it was not trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vlm_perception.models.base import Model
from vlm_perception.questions import Choice, Question, Text
from vlm_perception.simulation import truth
from vlm_perception.simulation.room import NAMES, make_room
from vlm_perception.simulation.world import World
from vlm_perception.training.dataset import POSES_PER_ROOM, random_pose
from vlm_perception.training.prompts import DESCRIPTION_PROMPT, LABEL_PROMPT, WAY_PROMPT, WHERE_PROMPT

AIMS = {
    "label": 0.95,
    "presence (balanced)": 0.93,
    "absent: same colour, other shape": 0.88,
    "absent: same shape, other colour": 0.88,
    "side, where found": 0.95,
    "range, where found": 0.95,
    "description: precision": 0.85,
    "description: recall": 0.85,
}


@dataclass
class Tally:
    """Numbers of right answers and of all answers, by kind of question."""

    right: dict[str, int] = field(default_factory=dict)
    all: dict[str, int] = field(default_factory=dict)
    confusion: np.ndarray = field(default_factory=lambda: np.zeros((len(truth.LABELS),) * 2, int))

    def count(self, what: str, right: bool) -> None:
        self.right[what] = self.right.get(what, 0) + right
        self.all[what] = self.all.get(what, 0) + 1

    def share(self, what: str) -> float:
        return self.right.get(what, 0) / self.all[what] if self.all.get(what) else float("nan")

    def metrics(self) -> dict[str, float]:
        """Return every figure as a share from 0 to 1, in the order of the table."""
        absent = sum(self.right.get(k, 0) for k in self.all if k.startswith("absent"))
        absent_share = absent / max(1, sum(n for k, n in self.all.items() if k.startswith("absent")))
        figures = {"label": self.share("label"), "presence (balanced)": (self.share("visible") + absent_share) / 2}
        return figures | {what: self.share(what) for what in self.all if what not in figures}


def measure(model: Model, seeds: range) -> Tally:
    """Ask `model` about `POSES_PER_ROOM` full-size images of every room in `seeds`."""
    tally = Tally()
    for seed in tqdm(seeds, "rooms", unit="room", disable=None):
        for frame in frames(seed):
            _measure_frame(model, tally, frame, seed)
    return tally


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """An image and the truth about it. `image` is RGB uint8 (480, 640, 3); `seen` has all objects that it shows."""

    image: np.ndarray
    label: str
    way: str
    seen: list[truth.VisibleObject]


def frames(seed: int) -> Iterator[LabelledImage]:
    """Yield `POSES_PER_ROOM` full-size images of the room of `seed`, always the same ones."""
    room, rng = make_room(seed), np.random.default_rng((seed, 1))
    with World(room) as world:
        for _ in range(POSES_PER_ROOM):
            pose = random_pose(room, rng)
            world.place(pose)
            seen = truth.sightings(room, pose, world.segmentation())
            yield LabelledImage(world.image(), truth.label(room, pose), truth.way(room, pose), seen)


def targets(frame: LabelledImage, seed: int) -> dict[str, str]:
    """Return the objects to ask for, with their kind: all visible ones, and by `seed` one absent one of each kind."""
    rng = np.random.default_rng((seed, 2))
    visible = [item.name for item in frame.seen if item.visible]
    any_pixel = {item.name for item in frame.seen}
    kinds: dict[str, list[str]] = {
        "absent: same colour, other shape": [],
        "absent: same shape, other colour": [],
        "absent: other": [],
    }
    for name in NAMES:
        if name in any_pixel:
            continue
        colours, shapes = ({other.split()[part] for other in visible} for part in (0, 1))
        kind = "same colour, other shape" if name.split()[0] in colours else None
        kind = kind or ("same shape, other colour" if name.split()[1] in shapes else "other")
        kinds[f"absent: {kind}"].append(name)
    asked = dict.fromkeys(visible, "visible")
    return asked | {str(rng.choice(names)): kind for kind, names in kinds.items() if names}


def _measure_frame(model: Model, tally: Tally, frame: LabelledImage, seed: int) -> None:
    visible = {item.name: item for item in frame.seen if item.visible}
    glimpsed = {item.name for item in frame.seen if not item.visible}
    asked = targets(frame, seed)
    questions: dict[str, Question] = {
        "label": Choice(LABEL_PROMPT, truth.LABELS),
        "way": Choice(WAY_PROMPT, truth.WAYS),
        "description": Text(DESCRIPTION_PROMPT, max_new_tokens=60),
    }
    questions |= {name: Choice(WHERE_PROMPT.format(target=name), truth.WHERE) for name in asked}
    answers = dict(zip(questions, model.answer(frame.image, list(questions.values())), strict=True))

    said = answers["label"].value
    tally.confusion[truth.LABELS.index(frame.label), truth.LABELS.index(said)] += 1
    tally.count("label", said == frame.label)
    tally.count("way", answers["way"].value == frame.way)
    for name, kind in asked.items():
        answer = answers[name].value
        found = answer != "no"
        tally.count(kind, found == (kind == "visible"))
        if found and kind == "visible":
            tally.count("side, where found", answer.split()[0] == visible[name].direction)
            tally.count("range, where found", answer.split()[1] == visible[name].range)
    named = {name for name in NAMES if name in answers["description"].value}
    for name in named - glimpsed:  # a glimpse may be named or not
        tally.count("description: precision", name in visible)
    for name in visible:
        tally.count("description: recall", name in named)


def table(tally: Tally) -> str:
    """Return the figures as a Markdown table."""
    lines = ["| what | reached | aim | of |", "| --- | --- | --- | --- |"]
    for what, share in tally.metrics().items():
        aim = f"{AIMS[what]:.0%}" if what in AIMS else ""
        lines.append(f"| {what} | {share:.1%} | {aim} | {tally.all.get(what, '')} |")
    return "\n".join(lines)


def draw_confusion(tally: Tally, path: Path) -> None:
    """Write the confusion matrix of the label as an image."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    counts = tally.confusion
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    figure, axes = pyplot.subplots(figsize=(5.2, 4.6), layout="constrained")
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(truth.LABELS))
    axes.set(xticks=ticks, yticks=ticks, xlabel="said", ylabel="true", title="Scene label on rooms never trained on")
    axes.set_xticklabels(truth.LABELS)
    axes.set_yticklabels(truth.LABELS)
    for row in ticks:
        for column in ticks:
            if counts[row, column]:
                colour = "white" if shares[row, column] > 0.5 else "black"
                text = f"{shares[row, column]:.1%}\n{counts[row, column]}"
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
