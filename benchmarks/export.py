"""Speed and answers of exported vision towers: ONNX Runtime beside torch, on the CPU.

    make bench-export

- Speed: the tower of a SigLIP of the base size (12 layers of 768, patches of 16 pixels, images of 224 pixels). Its
  weights are random, since they cost the same time. Torch and ONNX Runtime have the same number of threads. They take
  turns, round by round, so that other work of the machine slows both. A ratio is the median over the rounds. Each call
  gets one image.
- Answers: the shipped nano model with its tower in INT8, calibrated on rendered rooms and compared with the original in
  other rooms. The model was trained on none of them. The questions are the scene's label, the clear way and the places
  of objects.
- Time of nano's label and one search answer about a new image, with each tower. With a C++ compiler, torch.compile of
  the torch tower is timed too.

The result is written beside this file. Its last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from random_models import save_siglip
from report import Report
from timing import race

from vlm_perception.models.loader import load_model
from vlm_perception.models.onnx_export import OPSET, Asked, export
from vlm_perception.models.onnx_tower import Export
from vlm_perception.questions import Choice, ClosedQuestion
from vlm_perception.simulation import truth
from vlm_perception.tools.export import rendered
from vlm_perception.tools.machine import describe
from vlm_perception.training.dataset import CALIBRATION_SEEDS, TEST_SEEDS
from vlm_perception.training.prompts import LABEL_PROMPT, WHERE_PROMPT

RESULT = Path(__file__).with_suffix(".md")
FLOAT32, INT8 = "ONNX Runtime float32", "ONNX Runtime INT8"
INT8_CPU = f"{INT8} (--opset 23)"
CALIBRATION = 48
"""Number of images, from four rooms."""
WARM_UP = 2
"""Rounds that do not count."""


def bench_siglip(report: Report, scratch: Path, calibration: list[np.ndarray], rounds: int) -> dict[str, Any]:
    """Report the speed and size of each tower of a SigLIP of the base size."""
    folder = save_siglip(scratch / "siglip")
    some: Asked = [(image, [Choice(LABEL_PROMPT, truth.LABELS)]) for image in calibration[:4]]
    # With random weights all labels are about equally probable, so the agreement of answers means nothing here.
    ways = {FLOAT32: ([], OPSET), INT8: (calibration[:16], OPSET), INT8_CPU: (calibration[:16], 23)}
    made = {
        name: export(str(folder), scratch / name, some, images, opset=opset, least_agreement=0.0)
        for name, (images, opset) in ways.items()
    }
    towers = {"torch float32": folder, **{name: scratch / name for name in ways}}
    models = {name: load_model(str(path), "cpu", "float32") for name, path in towers.items()}
    models["torch bfloat16"] = load_model(str(folder), "cpu", "bfloat16")
    pixels = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32))

    def side(model: Any) -> Callable[[], Any]:
        tower, given = model._model.vision_model, pixels.to(model._model.dtype)
        return lambda: tower(given)

    report.say("\n## The tower of a SigLIP of the base size")
    with torch.inference_mode():
        seconds = race(rounds, {name: side(model) for name, model in models.items()}, WARM_UP)
    size = {"torch float32": made[INT8].tower_bytes_before, **{name: facts.tower_bytes for name, facts in made.items()}}
    ratios = report.table("one image", seconds, {name: f"{bytes_ / 2**20:.0f} MiB" for name, bytes_ in size.items()})
    return {
        "siglip_int8_ratio": ratios[INT8],
        "siglip_int8_cpu_ratio": ratios[INT8_CPU],
        "siglip_float32_ratio": ratios[FLOAT32],
        "siglip_bfloat16_torch_ratio": ratios["torch bfloat16"],
        "siglip_size_share": round(size[INT8] / size["torch float32"], 3),
    }


def bench_nano(report: Report, scratch: Path, calibration: list[np.ndarray], rooms: int, rounds: int) -> dict[str, Any]:
    """Report the answers and the speed of nano with each tower."""
    check = list(rendered(TEST_SEEDS[:rooms]))
    made: dict[str, Export] = {}
    for name, images in (("float32", []), ("int8", calibration)):
        made[name] = export("nano", scratch / f"nano-{name}", check, images, least_agreement=0.0)
    report.say(f"\n## The nano model\n\nOn {len(check)} images of {rooms} rooms, {made['int8'].asked} answers:\n")
    report.say("| tower | answers that are the original's | largest difference of a probability | |")
    report.say("| --- | --- | --- | --- |")
    for name, facts in made.items():
        size = f"{facts.tower_bytes / 2**20:.1f} MiB of {facts.tower_bytes_before / 2**20:.1f}"
        report.say(f"| {name} | {facts.agreement:.2%} | {facts.largest_difference:.2g} | {size} |")

    models: dict[str, Any] = {"torch": load_model("nano", "cpu", "float32")}
    models |= {f"ONNX Runtime {name}": load_model(str(scratch / f"nano-{name}"), "cpu", "float32") for name in made}
    found: dict[str, Any] = {}
    if shutil.which("c++"):
        compiled: Any = load_model("nano", "cpu", "float32")
        start = time.perf_counter()
        compiled._model.model.vision_tower.compile()
        compiled.answer(check[0][0], moment())
        found["compile_seconds"] = round(time.perf_counter() - start, 1)
        models["torch.compile"] = compiled
    stream = iter(image for image, _ in check * (1 + (rounds + WARM_UP) * len(models) // len(check)))

    def ask(model: Any) -> None:
        model.answer(next(stream).copy(), moment())

    sides = {name: partial(ask, model) for name, model in models.items()}
    notes = {"torch.compile": f"{found.get('compile_seconds')} s for the first answer"}
    ratios = report.table("a moment: label and search answer", race(rounds, sides, WARM_UP), notes)
    found |= {
        f"nano_{name.split()[-1].replace('torch.', '')}_ratio": r for name, r in ratios.items() if name != "torch"
    }
    return {"nano_int8_agreement": round(made["int8"].agreement, 4), "nano_answers": made["int8"].asked, **found}


def moment() -> list[ClosedQuestion]:
    """Return the questions of one moment of a search."""
    return [
        Choice(LABEL_PROMPT, truth.LABELS),
        Choice(WHERE_PROMPT.format(target="red ball"), truth.WHERE),
    ]


def calibration_images() -> Iterator[np.ndarray]:
    return (image for image, _ in rendered(CALIBRATION_SEEDS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--rooms", type=int, default=25, help="rooms of 12 images each on which answers are compared")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.utils.logging.set_verbosity_error()

    report = Report()
    report.say("# Exported towers\n\nWritten by `make bench-export`, see `export.py`.\n")
    for line in [*describe(options.threads), f"ONNX Runtime {version('onnxruntime')}, onnx {version('onnx')}"]:
        report.say(f"- {line}")
    calibration = list(islice(calibration_images(), CALIBRATION))
    with tempfile.TemporaryDirectory() as folder:
        found = bench_siglip(report, Path(folder), calibration, options.rounds)
        found |= bench_nano(report, Path(folder), calibration, options.rooms, 3 * options.rounds)
    report.say("\n" + json.dumps(found))
    RESULT.write_text("\n".join(report.lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
