"""What typed questions cost beside the usual ways, on the CPU, both sides from one run.

    make bench-scoring

The moment of a robot is three questions about one image: the scene's label (five), where the target is (seven
answers), one yes or no. The usual way is one `generate` for each prompt, whose words are cleaned and compared. Weights
are random, as they cost the same time: a PaliGemma of 225 M parameters (SigLIP-base tower at 224, 12 text layers of
768) and a LLaVA of that size. What the fastest setting answers is compared with float32 on the shipped nano model and
rendered rooms. Where there is a GPU, closed answers of a PaliGemma of the true 3 B sizes are timed as well.

Both sides are measured in turn, round by round, and a ratio is the median over the rounds, so that what else the
machine does at that time meets both. The last line is JSON.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
)

from vlm_perception.models.base import Model
from vlm_perception.models.loader import load_model
from vlm_perception.models.paligemma import PaliGemma
from vlm_perception.questions import Answer, Choice, ClosedQuestion, YesNo
from vlm_perception.simulation import truth
from vlm_perception.simulation.room import NAMES, make_room
from vlm_perception.simulation.world import World
from vlm_perception.tools.baseline import Baseline
from vlm_perception.tools.machine import describe
from vlm_perception.training.dataset import TEST_SEEDS, random_pose
from vlm_perception.training.prompts import LABEL_PROMPT, THERE_PROMPT, WHERE_PROMPT

FASTEST = "bfloat16"
"""The `dtype` of the fastest setting; everything else stays as it is."""
VOCABULARY = 32_768
VISION = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
TEXT = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": VOCABULARY}
CHAT_TEMPLATE = (
    "{% for message in messages %}USER: {% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %} ASSISTANT:"
    "{% endif %}"
)
POSES = 12
KEYS = (
    "headline_ratio", "headline_agreement", "one_question_ratio", "three_to_one_causal", "three_to_one_prefix",
    "decision_pipeline_ratio", "overhead_ms",
)  # fmt: skip
"""Of the last line. `overhead_ms` is the larger one of the PaliGemma's and the nano model's."""
README = Path(__file__).parents[1] / "README.md"


def moment(target: str) -> list[ClosedQuestion]:
    """The three questions of a robot's moment."""
    return [
        Choice(LABEL_PROMPT, truth.LABELS),
        Choice(WHERE_PROMPT.format(target=target), truth.WHERE),
        YesNo(THERE_PROMPT.format(target=target)),
    ]


# Models with random weights, as folders that the loader takes


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE that has learnt the README and the questions: words are a token or two, as in real ones."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    questions = moment("red ball")
    words = [word for q in questions for text in (q.prompt, *q.options) for word in (text, *text.split())] * 20
    trainer = trainers.BpeTrainer(
        vocab_size=8000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([README.read_text(encoding="utf-8"), *words, *["Yes", "No"] * 20], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        additional_special_tokens=["<image>"],
        padding_side="left",
    )


def build_images(size: int, tokens: int) -> SiglipImageProcessorPil:
    edge = {"height": size, "width": size}
    images = SiglipImageProcessorPil(size=edge, resample=3, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    images.image_seq_length = tokens
    return images


def _special(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    return {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}


def save_paligemma(folder: Path, width: int = 768) -> Path:
    processor = PaliGemmaProcessor(image_processor=build_images(224, 14**2), tokenizer=build_tokenizer())
    special = _special(processor.tokenizer)
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": width // 64}
    config = PaliGemmaConfig(
        vision_config={
            "model_type": "siglip_vision_model", **VISION, **sizes, "image_size": 224, "patch_size": 16,
            "projection_dim": width, "vision_use_head": False,
        },
        text_config={
            "model_type": "gemma", **TEXT, **sizes, "num_key_value_heads": width // 64, "head_dim": 64, **special,
        },
        projection_dim=width,
        image_token_id=processor.tokenizer.convert_tokens_to_ids("<image>"),
        **special,
    )  # fmt: skip
    torch.manual_seed(0)
    PaliGemmaForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_chat(folder: Path) -> Path:
    """A LLaVA, which is a decision checkpoint as well: both sides read the labels A, B, C and Yes, No."""
    tokenizer = build_tokenizer()
    config = LlavaConfig(
        vision_config={
            "model_type": "siglip_vision_model", **VISION, "image_size": 224, "patch_size": 16,
            "vision_use_head": False,
        },
        text_config={
            "model_type": "llama", **TEXT, "intermediate_size": 2048, "num_key_value_heads": 12, **_special(tokenizer)
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=14**2,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )  # fmt: skip
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    LlavaProcessor(
        image_processor=build_images(224, 14**2),
        tokenizer=tokenizer,
        patch_size=16,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)
    return folder


# The usual ways


def decision_request(questions: Sequence[ClosedQuestion], image: np.ndarray) -> dict[str, Any]:
    """The same questions in the words of transformers' decision pipeline."""
    asked = {
        str(number): {"type": "noul", "instructions": q.prompt}
        if isinstance(q, YesNo)
        else {"type": "choice", "instructions": q.prompt, "criteria": dict.fromkeys(q.options)}
        for number, q in enumerate(questions)
    }
    return {"state": "image-1", "questions": asked, "assets": {"image-1": Image.fromarray(image)}}


def largest_difference(answers: Sequence[Answer], stock: dict[str, Any]) -> float:
    """Between our probabilities and those of the pipeline, in the order of the options."""
    differences = []
    for number, answer in enumerate(answers):
        found = stock[str(number)]
        theirs = [found["noul"], 1 - found["noul"]] if "noul" in found else found["probabilities"].values()
        differences += [abs(p - q) for p, q in zip(answer.probabilities, theirs, strict=True)]
    return max(differences)


# Measuring


def race(rounds: int, **sides: Callable[[], Any]) -> dict[str, np.ndarray]:
    """Seconds of every side in every round; the sides take turns. One round before does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in seconds.items()}


@contextmanager
def stopwatch(*parts: tuple[Any, str]) -> Iterator[list[float]]:
    """Add up this thread's CPU seconds within these methods, none of which calls another."""
    spent = [0.0]

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **more: Any) -> Any:
            start = time.thread_time()
            try:
                return call(*arguments, **more)
            finally:
                spent[0] += time.thread_time() - start

        return wrapper

    for owner, name in parts:
        vars(owner)[name] = timed(getattr(owner, name))
    try:
        yield spent
    finally:
        for owner, name in parts:
            del vars(owner)[name]


def around(model: Any, questions: Sequence[ClosedQuestion], image: np.ndarray, calls: int) -> tuple[float, float]:
    """Seconds of a call that go neither to a forward pass nor to the stock processor, and those of the processor.

    CPU time of the calling thread, with no other one to wait for: what else the machine does is not counted.
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
    model.answer(image, questions)  # prompts and options are tokenised once
    ours, theirs = [], []
    for _ in range(calls):
        model._last = None  # what the last pass kept is given back before, not in this call
        with stopwatch(*passes) as passing, stopwatch(processing) as processed:
            start = time.thread_time()
            model.answer(image, questions)
            whole = time.thread_time() - start
        ours.append(whole - passing[0] - processed[0])
        theirs.append(processed[0])
    torch.set_num_threads(threads)
    return statistics.median(ours), statistics.median(theirs)


def rooms(seeds: range) -> Iterator[tuple[np.ndarray, str]]:
    """Images from rooms that no model was trained on, each with a target: in turn one of the room, and any one."""
    for seed in seeds:
        room, rng = make_room(seed), np.random.default_rng((seed, 1))
        with World(room) as world:
            for pose in range(POSES):
                world.place(random_pose(room, rng))
                names = NAMES if pose % 2 else [thing.name for thing in room.things]
                yield world.image(), str(rng.choice(names))


def agreement(one: Model, other: Model, seeds: range) -> tuple[float, int]:
    """The share of images on which both models give the same three answers, and how many images there were."""
    same = []
    for image, target in rooms(seeds):
        answers = zip(one.answer(image, moment(target)), other.answer(image, moment(target)), strict=True)
        same.append(all(a.value == b.value for a, b in answers))
    return float(np.mean(same)), len(same)


# The report


class Report:
    """Says what was measured as a Markdown table, as it comes."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str = "") -> None:
        self.lines.append(line)
        print(line, flush=True)

    def row(self, what: str, one: np.ndarray, other: np.ndarray, aim: str = "", note: str = "") -> float:
        """Say both sides' median [ms] and the median ratio, which is returned."""
        ratio = float(np.median(one / other))
        self.say(
            f"| {what} | {np.median(one) * 1e3:.0f} | {np.median(other) * 1e3:.0f} | {ratio:.2f} | {aim} | {note} |"
        )
        return round(ratio, 3)


def bench_paligemma(report: Report, folder: Path, rounds: int) -> dict[str, float]:
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    questions = moment("red ball")
    exact: Any
    exact, fast = (load_model(str(folder), "cpu", dtype) for dtype in ("float32", FASTEST))
    generate = Baseline(exact._model, exact._processor).ask
    numbers = range(len(questions))
    said = []

    def usual() -> None:
        for question in questions:
            said.append(generate(image, question).tokens)

    sides: dict[str, Callable[[], Any]] = {"usual": usual}
    for n in numbers:  # an answer of one token, and the end: nothing ends sooner
        sides[f"stops {n}"] = partial(generate, image, questions[n], most=2, least=2)
    sides["ten"] = lambda: generate(image, questions[0], least=10)
    sides["three"] = lambda: exact.answer(image, questions)
    sides["fastest"] = lambda: fast.answer(image, questions)
    for n in numbers:
        sides[f"one {n}"] = partial(exact.answer, image, questions[n : n + 1])
    t = race(rounds, **sides)
    stops, ones = (np.stack([t[f"{kind} {n}"] for n in numbers]) for kind in ("stops", "one"))

    size = exact.describe_self()["parameters"]
    report.say(f"\n## PaliGemma, {size}, image 640 x 480\n")
    report.say("| what | usual [ms] | ours [ms] | ratio | aim | |\n| --- | --- | --- | --- | --- | --- |")
    tokens = f"{statistics.mean(said):.0f} tokens an answer"
    headline = report.row(f"three questions, generate against {FASTEST}", t["usual"], t["fastest"], ">= 4", tokens)
    report.row("- of it sharing and one packed pass, float32", t["usual"], t["three"], "", tokens)
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
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    questions = moment("red ball")
    chat = load_model(str(folder), "cpu", "float32")
    ways = {f"one {n}": lambda n=n: chat.answer(image, questions[n : n + 1]) for n in range(len(questions))}
    t = race(rounds, three=lambda: chat.answer(image, questions), **ways)
    ones = np.mean([t[name] for name in ways], axis=0)
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
    t = race(
        rounds,
        stock=lambda: stock(decision_request(questions, image)),
        ours=lambda: ours.answer(image, questions),
    )
    report.say("\n| what | usual [ms] | ours [ms] | ratio | aim | |\n| --- | --- | --- | --- | --- | --- |")
    note = f"probabilities differ by {difference:.0e}"
    ratio = report.row('three questions, pipeline("decision")', t["stock"], t["ours"], ">= 2", note)
    return found | {"decision_pipeline_ratio": ratio}


def overhead(
    report: Report, name: str, model: Any, questions: Sequence[ClosedQuestion], image: np.ndarray, calls: int
) -> float:
    """Say and return what our code takes of a call [ms]."""
    ours, theirs = around(model, questions, image, calls)
    report.say(
        f"\nAround the forward passes of {name}: {ours * 1e3:.1f} ms a call of our code, with the log-softmax over the "
        f"vocabulary (aim: under 3), and {theirs * 1e3:.1f} ms of the stock processor."
    )
    return round(ours * 1e3, 2)


def bench_nano(report: Report, seeds: range) -> dict[str, float]:
    exact: Any
    exact, fast = (load_model("nano", "cpu", dtype) for dtype in ("float32", FASTEST))
    share, frames = agreement(exact, fast, seeds)
    report.say(f"\n## The nano model\n\n{FASTEST} gives the same three answers as float32 on {share:.1%} of {frames} "
               "rendered frames (aim: 99 %).")  # fmt: skip
    image, target = next(rooms(seeds))
    spent = overhead(report, "nano", exact, moment(target), image, 50)
    return {"headline_agreement": round(share, 4), "overhead_ms": spent}


# With a GPU


def paligemma_3b(size: int, device: str = "cuda") -> PaliGemma:
    """A PaliGemma of the published 3 B model's sizes at 224 or 448, random weights in bfloat16."""
    tokens = (size // 14) ** 2
    processor = PaliGemmaProcessor(image_processor=build_images(size, tokens), tokenizer=build_tokenizer())
    special = _special(processor.tokenizer)
    config = PaliGemmaConfig(
        vision_config={
            "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "image_size": size,
            "num_hidden_layers": 27, "num_attention_heads": 16, "patch_size": 14, "projection_dim": 2048,
            "vision_use_head": False,
        },
        text_config={
            "model_type": "gemma", "hidden_size": 2048, "intermediate_size": 16384, "num_hidden_layers": 18,
            "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 257216, **special,
        },
        projection_dim=2048,
        image_token_id=processor.tokenizer.convert_tokens_to_ids("<image>"),
        **special,
    )  # fmt: skip
    with torch.device(device):
        model = PaliGemmaForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    return PaliGemma(f"PaliGemma 3B at {size}", Path("."), model, processor)


def bench_gpu(report: Report, rounds: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    matrix = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)

    def multiply() -> None:
        for _ in range(10):
            matrix @ matrix
        torch.cuda.synchronize()

    rate = 10 * 2 * 8192**3 / float(np.median(race(rounds, it=multiply)["it"]))
    report.say(f"\n## {torch.cuda.get_device_name()}, bfloat16: its matrices reach {rate / 1e12:.0f} TFLOP/s\n")
    report.say("| PaliGemma 3B | questions | [ms] | share of that rate |\n| --- | --- | --- | --- |")
    for size in (224, 448):
        model = paligemma_3b(size)
        for questions in (moment("red ball")[:1], moment("red ball")):
            with FlopCounterMode(display=False) as counter:
                model.answer(image, questions)
            seconds = float(np.median(race(5 * rounds, it=partial(model.answer, image, questions))["it"]))
            share = counter.get_total_flops() / seconds / rate
            report.say(f"| at {size} | {len(questions)} | {seconds * 1e3:.1f} | {share:.0%} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rooms", type=int, default=25, help="rooms of 12 frames each, to compare answers on")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", type=Path, help="write the report here, too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()

    report = Report()
    report.say("# Typed questions beside the usual ways\n\nWritten by `make bench-scoring`, see `scoring.py`.\n")
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
