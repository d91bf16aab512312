"""Teach tiny models by the labels of their stock chat template, and ask them by the stock `generate` and by ours.

What the model learns comes from the template alone: the tokens of a conversation with its answer. So a mistake of ours
about where an answer stands shows, which a comparison with scores that share the mistake does not.
As a command it teaches every family: `python test/helpers/taught.py [FAMILY ...]`.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tiny_models
import torch
from PIL import Image
from tiny_qwen import QWEN_IMAGE
from tiny_tokenizers import chatml
from tqdm import tqdm
from transformers import AutoModelForMultimodalLM

from vlm_perception.models.chat_prompt import chat_text
from vlm_perception.models.loader import load_model
from vlm_perception.models.processor import load_processor
from vlm_perception.questions import Answer, Choice

QUESTION = Choice("where is the red ball?", ("left", "right", "no"))
THINKING = "qwen3-vl, thinking"
FAMILIES = (
    "smolvlm", "idefics3", "deepseek-vl", "llava-1.5", "qwen2.5-vl", "gemma-3", "internvl", "qwen3.5", "glm-4v",
    "llava-next-mistral", "llava-phi-3", "aya-vision", "paligemma", THINKING,
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """How many of `asked` images the stock generate and our answers get right, and our answers."""

    by_generate: int
    by_ours: int
    asked: int
    answers: list[Answer]


def scene(answer: int, seed: int) -> np.ndarray:
    """An image that shows the option of this number: bright on the left, on the right, or nowhere."""
    image = np.random.default_rng(seed).integers(0, 90, (28, 28, 3), dtype=np.uint8)
    if answer < 2:
        image[:, 14 * answer : 14 * answer + 14] += 160
    return image


def save(family: str, folder: Path) -> Path:
    """Write the family's folder, see `tiny_models.save`; THINKING has a prompt that ends inside a thought."""
    if family != THINKING:
        return tiny_models.save(family, folder)
    tiny_models.save("qwen3-vl", folder)
    chat = chatml(QWEN_IMAGE, lead="<think>\n\n</think>\n\n")
    (folder / "chat_template.jinja").write_text(
        f"{chat}{{% if add_generation_prompt %}}{{{{ '<think>\n' }}}}{{% endif %}}"
    )
    return folder


class Teacher:
    """Teaches the model in `folder`. `question` is what it learns to answer."""

    def __init__(self, folder: Path, question: Choice = QUESTION) -> None:
        self.folder, self.question = folder, question
        self.processor = load_processor(folder)
        self.tokenizer = self.processor.tokenizer
        self.model = AutoModelForMultimodalLM.from_pretrained(folder)

    def inputs(self, image: np.ndarray, answer: str | None = None) -> dict[str, Any]:
        """What the stock processor makes of the question, and of its answer if there is one."""
        if self.processor.chat_template is None:  # PaliGemma
            suffix = {"suffix": answer} if answer else {}
            return self.processor(text="<image>" + self.question.prompt, images=image, return_tensors="pt", **suffix)
        part = {"type": "image", "image": Image.fromarray(image)}
        turns = [{"role": "user", "content": [part, {"type": "text", "text": chat_text(self.question)}]}]
        if answer:
            turns.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        thinking = {"enable_thinking": False} if "enable_thinking" in self.processor.chat_template else {}
        return self.processor.apply_chat_template(
            turns, add_generation_prompt=not answer, tokenize=True, return_dict=True, return_tensors="pt", **thinking
        )

    def example(self, number: int, seed: int) -> dict[str, Any]:
        """A conversation to learn: only what comes behind the generation prompt counts."""
        image, answer = scene(number, seed), self.question.options[number]
        asked, told = self.inputs(image), dict(self.inputs(image, answer))
        if "labels" not in told:
            start = asked["input_ids"].shape[1]
            assert torch.equal(told["input_ids"][:, :start], asked["input_ids"])
            told["labels"] = told["input_ids"].clone()
            told["labels"][:, :start] = -100
        return told

    def teach(self, steps: int, rate: float = 3e-3) -> None:
        """Plain training, all options at every step."""
        batches = [self._batch(seed) for seed in range(0, 32, 4)]
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=rate)
        self.model.train()
        for step in range(steps):
            optimizer.zero_grad()
            self.model(**batches[step % len(batches)]).loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            optimizer.step()
        self.model.eval().save_pretrained(self.folder)

    def _batch(self, seed: int) -> dict[str, Any]:
        """Some examples of each option, padded on the right; an end where the template writes none."""
        examples = [self.example(number, seed + more) for more in range(4) for number in range(3)]
        ends = self.model.generation_config.eos_token_id
        end = ends[0] if isinstance(ends, list) else ends
        length = 1 + max(example["input_ids"].shape[1] for example in examples)
        batch: dict[str, Any] = {}
        for name, value in examples[0].items():
            values = [example[name] for example in examples]
            if value.shape == examples[0]["input_ids"].shape:
                fill = {"input_ids": end, "labels": -100, "attention_mask": 0}.get(name, 0)
                values = [torch.nn.functional.pad(one, (0, length - one.shape[1]), value=fill) for one in values]
                if name in ("labels", "attention_mask"):
                    for one, example in zip(values, examples, strict=True):
                        one[0, example["input_ids"].shape[1]] = 1 if name == "attention_mask" else end
            batch[name] = torch.cat(values)
        return batch

    def ask(self, seeds: Iterable[int]) -> Result:
        """Ask about new images."""
        ours = load_model(str(self.folder), device="cpu", dtype="float32", check_memory=False)
        right: list[tuple[bool, bool]] = []
        answers = []
        for seed in seeds:
            for number, expected in enumerate(self.question.options):
                image = scene(number, 1000 + seed)
                prompt = dict(self.inputs(image))
                prompt.pop("labels", None)
                ids = self.model.generate(**prompt, max_new_tokens=8, do_sample=False)
                said = self.tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True).strip()
                (answer,) = ours.answer(image, [self.question])
                right.append((said == expected, answer.value == expected))
                answers.append(answer)
        by_generate, by_ours = (sum(some) for some in zip(*right, strict=True))
        return Result(by_generate, by_ours, len(right), answers)


def main() -> None:
    """Teach the families that the command line names, or all."""
    for family in tqdm(sys.argv[1:] or FAMILIES):
        with tempfile.TemporaryDirectory() as folder:
            teacher = Teacher(save(family, Path(folder)))
            teacher.teach(150)
            result = teacher.ask(range(20))
        tqdm.write(f"| {family} | {result.by_generate} of {result.asked} | {result.by_ours} of {result.asked} |")


if __name__ == "__main__":
    main()
