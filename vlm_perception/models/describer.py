"""A small language model that makes a sentence of the phrases that a dual encoder found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from vlm_perception.models.base import ModelError
from vlm_perception.models.generation import Generation, StepTimes
from vlm_perception.models.usage import Meter
from vlm_perception.questions import Text

REQUEST = (
    "An image classifier compared an image with phrases and found, with these probabilities:\n"
    "{found}\n\n"
    "{prompt}\n"
    "You have not seen the image: answer in one sentence that says nothing but what was found."
)


class Describer:
    """A causal chat model of the stock transformers classes (`AutoModelForCausalLM`), which reads no image.

    Raises ModelError when its tokenizer has no chat template.
    """

    def __init__(self, folder: Path, model: Any, tokenizer: Any) -> None:
        if not tokenizer.chat_template:
            raise ModelError(
                f"the describer {folder} has no chat template, so it does not follow instructions: take an "
                '"instruct" or "chat" model'
            )
        self._folder = folder
        self._model = model.eval()
        self._tokenizer = tokenizer

    def __str__(self) -> str:
        size = sum(p.numel() for p in self._model.parameters())
        return f"{self._folder} ({size / 1e6:.1f} M parameters)"

    def write(self, question: Text, found: Sequence[tuple[str, float]], meter: Meter) -> Generation:
        """Generate greedy text, of at most `max_new_tokens`, about the phrases `found` with their probabilities."""
        listed = "\n".join(f"- {phrase} ({probability:.0%})" for phrase, probability in found)
        message = {"role": "user", "content": REQUEST.format(found=listed, prompt=question.prompt)}
        inputs = self._tokenizer.apply_chat_template(
            [message],
            add_generation_prompt=True,
            enable_thinking=False,  # other templates ignore it
            return_dict=True,
            return_tensors="pt",
        ).to(self._model.device)
        times = StepTimes(meter)
        ends = self._model.generation_config.eos_token_id
        ends = self._tokenizer.eos_token_id if ends is None else ends
        pad = self._tokenizer.pad_token_id
        outputs = self._model.generate(
            **inputs,
            max_new_tokens=question.max_new_tokens + 1,  # the last step gives the probability of the end
            do_sample=False,
            eos_token_id=ends,
            pad_token_id=self._tokenizer.eos_token_id if pad is None else pad,
            output_logits=True,
            return_dict_in_generate=True,
            stopping_criteria=[times],
        )
        tokens = outputs.sequences[0, inputs["input_ids"].shape[1] :]
        log_p = torch.cat(outputs.logits).float().log_softmax(-1).gather(1, tokens[:, None])
        text = self._tokenizer.decode(tokens[:-1], skip_special_tokens=True).strip()
        return Generation(text, math.exp(float(log_p.mean())), len(tokens) - 1, times[0])
