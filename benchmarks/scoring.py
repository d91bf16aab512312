"""Cost of typed questions on the CPU, beside the stock `generate` and the stock decision pipeline.

    make bench-scoring

A robot asks three questions about each image: the scene's label (five options), where the target is (seven), and one
yes-or-no question. The stock path calls `generate` for each prompt, cleans the text and compares it with the options.
The weights are random, since they cost the same time: a PaliGemma of 225 M parameters (SigLIP-base tower at 224 pixels,
12 text layers of 768) and a LLaVA of that size. The answers of the fastest setting are compared with those of float32
on the shipped nano model and rendered rooms. With a GPU, closed answers of a PaliGemma of 3 B parameters are timed too.

The sides take turns, round by round, so that other work of the machine slows both. A ratio is the median over the
rounds. The last line is JSON.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from random_models import paligemma_3b, save_chat, save_paligemma
from report import Report
from timing import race, stopwatch
from torch.utils.flop_counter import FlopCounterMode
from unseen_rooms import moment, rooms

from vlm_perception.models.base import Model
from vlm_perception.models.loader import load_model
from vlm_perception.models.paligemma import PaliGemma
from vlm_perception.questions import Answer, ClosedQuestion, YesNo
from vlm_perception.tools.baseline import Baseline
from vlm_perception.tools.machine import describe
from vlm_perception.training.dataset import TEST_SEEDS

FASTEST = "bfloat16"
"""The `dtype` of the fastest setting. All other options keep their defaults."""
KEYS = (
    "headline_ratio", "headline_agreement", "one_question_ratio", "three_to_one_causal", "three_to_one_prefix",
    "decision_pipeline_ratio", "overhead_ms",
)  # fmt: skip
"""Keys of the last line. `overhead_ms` is the larger one of the PaliGemma's and the nano model's."""


# The stock decision pipeline


def decision_request(questions: Sequence[ClosedQuestion], image: np.ndarray) -> dict[str, Any]:
    """Return `questions` as a request to the decision pipeline of transformers."""
    asked = {
        str(number): {"type": "noul", "instructions": q.prompt}
        if isinstance(q, YesNo)
        else {"type": "choice", "instructions": q.prompt, "criteria": dict.fromkeys(q.options)}
        for number, q in enumerate(questions)
    }
    return {"state": "image-1", "questions": asked, "assets": {"image-1": Image.fromarray(image)}}


def largest_difference(answers: Sequence[Answer], stock: dict[str, Any]) -> float:
    """Return the largest difference between our probabilities and those of the `stock` pipeline."""
    differences = []
    for number, answer in enumerate(answers):
        found = stock[str(number)]
        theirs = [found["noul"], 1 - found["noul"]] if "noul" in found else found["probabilities"].values()
        differences += [abs(p - q) for p, q in zip(answer.probabilities, theirs, strict=True)]
    return max(differences)


# Measuring


def around(model: Any, questions: Sequence[ClosedQuestion], image: np.ndarray, calls: int) -> tuple[float, float]:
    """Return the seconds of a call outside the forward passes and the stock processor, and those in the processor.

    They are CPU time of the calling thread, which waits for no other: other work of the machine does not count.
    """
    stock, processor = model._model, model._processor
    if isinstance(model, PaliGemma):
        passes = [(stock, "get_image_features"), (stock.model, "forward"), (stock.lm_head, "forward")]
        processing = (processor.image_processor, "preprocess")
    else:
        passes = [(stock, "forward")]
        processing = (processor, "apply_chat_template")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model.answer(image, questions)  # tokenises the prompts and options, once
    ours, theirs = [], []
    for _ in range(calls):
        model._last = None  # free what the last call kept before this one is timed
        with stopwatch(*passes) as passing, stopwatch(processing) as processed:
            start = time.thread_time()
            model.answer(image, questions)
            whole = time.thread_time() - start
        ours.append(whole - passing[0] - processed[0])
        theirs.append(processed[0])
    torch.set_num_threads(threads)
    return statistics.median(ours), statistics.median(theirs)


def agreement(one: Model, other: Model, seeds: range) -> tuple[float, int]:
    """Return the share of images on which both models give the same three answers, and the number of images."""
    same = []
    for image, target in rooms(seeds):
        answers = zip(one.answer(image, moment(target)), other.answer(image, moment(target)), strict=True)
        same.append(all(a.value == b.value for a, b in answers))
    return float(np.mean(same)), len(same)


# The report


def bench_paligemma(report: Report, folder: Path, rounds: int) -> dict[str, float]:
    """Report a PaliGemma beside the stock `generate`."""
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    questions = moment("red ball")
    exact: Any
    exact, fast = (load_model(str(folder), "cpu", dtype) for dtype in ("float32", FASTEST))
    generate = Baseline(exact._model, exact._processor).ask
    numbers = range(len(questions))
    said = []

    def ask_with_generate() -> None:
        for question in questions:
            said.append(generate(image, question).tokens)

    sides: dict[str, Callable[[], Any]] = {"generate": ask_with_generate}
    for n in numbers:  # one token and the end: no answer is shorter
        sides[f"stops {n}"] = partial(generate, image, questions[n], most=2, least=2)
    sides["ten"] = lambda: generate(image, questions[0], least=10)
    sides["three"] = lambda: exact.answer(image, questions)
    sides["fastest"] = lambda: fast.answer(image, questions)
    for n in numbers:
        sides[f"one {n}"] = partial(exact.answer, image, questions[n : n + 1])
    t = race(rounds, sides)
    stops, ones = (np.stack([t[f"{kind} {n}"] for n in numbers]) for kind in ("stops", "one"))

    size = exact.describe_self()["parameters"]
    report.say(f"\n## PaliGemma, {size}, image 640 x 480\n")
    report.say("| what | stock [ms] | ours [ms] | ratio | aim | |\n| --- | --- | --- | --- | --- | --- |")
    tokens = f"{statistics.mean(said):.0f} tokens an answer"
    headline = report.row(f"three questions, generate against {FASTEST}", t["generate"], t["fastest"], ">= 4", tokens)
    report.row("- of it sharing and one packed pass, float32", t["generate"], t["three"], "", tokens)
    report.row(f"- of it {FASTEST}", t["three"], t["fastest"], "", "ours against ours")
    report.row(f"three questions that end at once, {FASTEST}", stops.sum(0), t["fastest"], "", "2 tokens an answer")
    one = report.row("one question that ends at once, float32", stops.mean(0), ones.mean(0), ">= 1", "2 tokens")
    report.row("one question, ten forced tokens, float32", t["ten"], t["one 0"], ">= 1.25", "10 tokens")
    report.say("\n| what | three [ms] | one [ms] | ratio | aim | |\n| --- | --- | --- | --- | --- | --- |")
    prefix = report.row("three questions against one, float32", t["three"], ones.mean(0), "<= 2.2", "bidirectional")
    return {
        "headline_ratio": headline,
        "one_question_ratio": one,
        "three_to_one_prefix": prefix,
        "overhead_ms": overhead(report, "PaliGemma", fast, questions, image, 10),
    }


def bench_chat(report: Report, folder: Path, rounds: int) -> dict[str, float]:
    """Report a LLaVA beside the stock decision pipeline."""
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    questions = moment("red ball")
    chat = load_model(str(folder), "cpu", "float32")
    singles = {f"one {n}": lambda n=n: chat.answer(image, questions[n : n + 1]) for n in range(len(questions))}
    t = race(rounds, {"three": lambda: chat.answer(image, questions), **singles})
    ones = np.mean([t[name] for name in singles], axis=0)
    report.say(f"\n## LLaVA, {chat.describe_self()['parameters']}, float32\n")
    report.say("| what | three [ms] | one [ms] | ratio | aim | |\n| --- | --- | --- | --- | --- | --- |")
    found = {"three_to_one_causal": report.row("three questions against one", t["three"], ones, "<= 1.5", "causal")}
    overhead(report, "LLaVA", chat, questions, image, 10)

    if not importlib.util.find_spec("transformers.decision"):
        report.say('\npipeline("decision") needs transformers 5.23.')
        return found | {"decision_pipeline_ratio": math.nan}
    from transformers.decision import DecisionConfig

    (folder / "decision.json").write_text("{}")
    ours: Any = load_model(str(folder), "cpu", "float32")
    stock = transformers.pipeline(
        "decision",
        model=ours._model,
        tokenizer=ours._tokenizer,
        processor=ours._processor,
        decision_config=DecisionConfig.from_pretrained(folder),
    )
    difference = largest_difference(ours.answer(image, questions), stock(decision_request(questions, image)))
    sides: dict[str, Callable[[], Any]] = {
        "stock": lambda: stock(decision_request(questions, image)),
        "ours": lambda: ours.answer(image, questions),
    }
    t = race(rounds, sides)
    report.say("\n| what | stock [ms] | ours [ms] | ratio | aim | |\n| --- | --- | --- | --- | --- | --- |")
    note = f"probabilities differ by {difference:.0e}"
    ratio = report.row('three questions, pipeline("decision")', t["stock"], t["ours"], ">= 2", note)
    return found | {"decision_pipeline_ratio": ratio}


def overhead(
    report: Report, name: str, model: Any, questions: Sequence[ClosedQuestion], image: np.ndarray, calls: int
) -> float:
    """Report the CPU time of our own code in a call; return it [ms]."""
    ours, theirs = around(model, questions, image, calls)
    report.say(
        f"\nAround the forward passes of {name}: {ours * 1e3:.1f} ms a call of our code, with the log-softmax over the "
        f"vocabulary (aim: under 3), and {theirs * 1e3:.1f} ms of the stock processor."
    )
    return round(ours * 1e3, 2)


def bench_nano(report: Report, seeds: range) -> dict[str, float]:
    """Report how often the fastest setting of nano answers as float32 does."""
    exact: Any
    exact, fast = (load_model("nano", "cpu", dtype) for dtype in ("float32", FASTEST))
    share, frames = agreement(exact, fast, seeds)
    report.say(f"\n## The nano model\n\n{FASTEST} gives the same three answers as float32 on {share:.1%} of {frames} "
               "rendered frames (aim: 99 %).")  # fmt: skip
    image, target = next(rooms(seeds))
    spent = overhead(report, "nano", exact, moment(target), image, 50)
    return {"headline_agreement": round(share, 4), "overhead_ms": spent}


# With a GPU


def bench_gpu(report: Report, rounds: int) -> None:
    """Report which share of the GPU's rate for large matrices a PaliGemma of 3 B parameters reaches."""
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    matrix = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)

    def multiply() -> None:
        for _ in range(10):
            matrix @ matrix
        torch.cuda.synchronize()

    rate = 10 * 2 * 8192**3 / float(np.median(race(rounds, {"matrices": multiply})["matrices"]))
    report.say(f"\n## {torch.cuda.get_device_name()}, bfloat16: its matrices reach {rate / 1e12:.0f} TFLOP/s\n")
    report.say("| PaliGemma 3B | questions | [ms] | share of that rate |\n| --- | --- | --- | --- |")
    for size in (224, 448):
        model = paligemma_3b(size)
        for questions in (moment("red ball")[:1], moment("red ball")):
            with FlopCounterMode(display=False) as counter:
                model.answer(image, questions)
            seconds = float(np.median(race(5 * rounds, {"answer": partial(model.answer, image, questions)})["answer"]))
            share = counter.get_total_flops() / seconds / rate
            report.say(f"| at {size} | {len(questions)} | {seconds * 1e3:.1f} | {share:.0%} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rooms", type=int, default=25, help="rooms of 12 images each on which answers are compared")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", type=Path, help="file for the report, beside the terminal")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()

    report = Report()
    report.say("# Typed questions beside the stock `generate`\n\nWritten by `make bench-scoring`, see `scoring.py`.\n")
    for line in describe(options.threads):
        report.say(f"- {line}")
    with tempfile.TemporaryDirectory() as folder:
        prefix = bench_paligemma(report, save_paligemma(Path(folder, "paligemma")), options.rounds)
        causal = bench_chat(report, save_chat(Path(folder, "chat")), options.rounds)
    nano = bench_nano(report, range(TEST_SEEDS.start, TEST_SEEDS.start + options.rooms))
    if torch.cuda.is_available():
        bench_gpu(report, options.rounds)
    found = {**prefix, **causal, **nano, "overhead_ms": max(prefix["overhead_ms"], nano["overhead_ms"])}
    report.say("\n" + json.dumps({key: found[key] for key in KEYS}))
    if options.save:
        options.save.write_text("\n".join(report.lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
