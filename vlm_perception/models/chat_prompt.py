"""The tokens that a chat model reads: an image and a question through its template and its processor."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from vlm_perception.models.base import ModelError
from vlm_perception.models.decision import DecisionFormat
from vlm_perception.models.scoring import check_tokens
from vlm_perception.models.turn import PROMPT, Turn, common_start, read_turn, tokens_in_place
from vlm_perception.questions import ClosedQuestion, Question, Score

MAX_PROMPTS = 256
"""Number of texts whose tokens are kept."""


def chat_text(question: Question) -> str:
    """Return the user's message after the image: the prompt and, for a closed question, the possible answers."""
    if not isinstance(question, ClosedQuestion):
        return question.prompt
    lines = [question.prompt]
    if any(question.descriptions):
        lines += [f"- {option}: {words}" if words else f"- {option}" for option, words in question.described()]
    order = ", from lowest to highest" if isinstance(question, Score) else ""
    return "\n".join([*lines, f"Answer with one of{order}: {', '.join(question.options)}."])


@dataclass(frozen=True)
class TokenizedQuestion:
    """A closed question as the model reads it: the message's text behind the image, and each option's tokens.

    An option replaces the last `replaced` tokens of the prompt.
    """

    text: str
    options: tuple[tuple[int, ...], ...]
    replaced: int = 0


@dataclass(eq=False)
class ImageGroup:
    """Images of one size, which fit in a batch without padding; `numbers` are their indices in the call.

    `inputs` are the stock processor's for the text `first`. `ids` are its tokens with the image's placeholders
    expanded, `bare` without. `cache` has read the tokens `prefix`, the same for every image. `delta` (images, 1) is the
    difference of multi-dimensional rotary positions from the number of tokens.
    """

    numbers: list[int]
    images: list[np.ndarray]
    inputs: dict[str, Any] = field(default_factory=dict)
    ids: list[int] = field(default_factory=list)
    bare: list[int] = field(default_factory=list)
    prefix: list[int] = field(default_factory=list)
    cache: Any = None
    delta: Tensor | None = None


def group_by_size(images: Sequence[np.ndarray]) -> list[ImageGroup]:
    """Return the images grouped by size; nothing is computed before all prompts are known."""
    groups: dict[tuple[int, ...], ImageGroup] = {}
    for number, image in enumerate(images):
        group = groups.setdefault(image.shape, ImageGroup([], []))
        group.numbers.append(number)
        group.images.append(image)
    return list(groups.values())


class ChatPrompts:
    """The prompts of a chat model with this stock `processor`; `decision` is the format of a decision checkpoint.

    Raises ModelError when the processor has no chat template, or the template does not show where an answer stands.
    """

    def __init__(self, name: str, folder: Path, processor: Any, decision: DecisionFormat | None) -> None:
        self.name, self._folder = name, folder
        self._processor = processor
        self._tokenizer = processor.tokenizer
        self._decision = decision
        template = getattr(processor, "chat_template", None)
        if not template:
            raise ModelError(
                f"{folder} has no chat template (chat_template.jinja), so how its prompts look is not known: "
                "take it from the model's page, or use a model that comes with one"
            )
        self.template_options: dict[str, Any] = {
            name: False for name in ("enable_thinking", "thinking") if name in str(template)
        }
        added = self._tokenizer.added_tokens_decoder
        self._special = sorted(
            {t.content for t in added.values() if t.special and len(t.content) > 1}, key=len, reverse=True
        )
        self._special_ids = {id_ for id_, t in added.items() if t.special}
        self.turn = self._read_turn(template)
        self.tokenize = functools.lru_cache(maxsize=MAX_PROMPTS)(self._tokenize)
        self._bare = functools.lru_cache(maxsize=MAX_PROMPTS)(self._as_bare)
        self._expanded: dict[tuple[str, tuple[int, ...]], list[int]] = {}

    # The template

    def _read_turn(self, template: Any) -> Turn:
        """Return how the template writes an answer, and make its generation prompt begin one."""
        try:
            turn = read_turn(self._write, self._messages(PROMPT, None)[0], self._special)
        except ModelError as error:
            raise ModelError(f"{self._folder}: {error}") from None
        if turn.opening and not self._decision:  # such a checkpoint was trained with the stock prompt
            stock = template["default"] if isinstance(template, dict) else template
            opening = f"{{% if add_generation_prompt %}}{{{{ {json.dumps(turn.opening)} }}}}{{% endif %}}"
            self.template_options["chat_template"] = stock + opening
        return turn

    def _write(self, messages: list[dict[str, Any]], add_generation_prompt: bool = True) -> str:
        return self._processor.apply_chat_template(
            messages, add_generation_prompt=add_generation_prompt, tokenize=False, **self.template_options
        )

    def _messages(self, text: str, image: Any) -> list[dict[str, Any]]:
        return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}]

    # Texts

    def as_words(self, text: str) -> str:
        """Return the text with a blank in all that looks like one of the tokenizer's special tokens."""
        for token in self._special:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def _tokenize(self, question: ClosedQuestion) -> TokenizedQuestion:
        """Return the question as tokens. ValueError when two of its options have the same tokens."""
        if self._decision:
            labels = self._decision.labels(question, self._tokenizer)
            return TokenizedQuestion(
                self.as_words(self._decision.prompt(question)), tuple((label,) for label in labels)
            )
        text = self.as_words(chat_text(question))
        prompt = self._write(self._messages(text, None))
        words = [self.as_words(option) for option in question.options]
        replaced, tokens = tokens_in_place(self._tokenizer, prompt, self.turn, words, self._special)
        check_tokens(self._tokenizer, question.options, tokens)
        return TokenizedQuestion(text, tuple(map(tuple, tokens)), replaced)

    # Texts with images

    def before_options(self, images: ImageGroup, asked: TokenizedQuestion) -> list[int]:
        """Return the prompt's tokens before the options."""
        prompt = self.prompt(images, asked.text)
        return prompt[: len(prompt) - asked.replaced]

    def prompt(self, images: ImageGroup, text: str) -> list[int]:
        """Return the prompt's tokens, image included, as the stock processor gives them.

        Only the first text goes through the processor. For another text, the tokens behind the point where both
        prompts differ are replaced, since that is behind the image. The processor runs again if it wrote something of
        its own there (Idefics 2 a space, Gemma 3 empty lines), because this may change the tokens.
        """
        bare = self._bare(text)
        if not images.ids:
            inputs = self._process(images, text)
            ids = inputs["input_ids"]
            if (ids != ids[:1]).any():
                raise ModelError(f"{self.name}: images of one size got different prompts from its processor")
            images.inputs, images.ids, images.bare = inputs, ids[0].tolist(), bare
            return images.ids
        kept = common_start([bare, images.bare])
        rest = len(images.bare) - kept
        before = images.ids[: len(images.ids) - rest]
        alike = before[-1] == bare[kept - 1] or {before[-1], bare[kept - 1]} <= self._special_ids
        if alike and rest <= common_start([images.ids[::-1], images.bare[::-1]]):
            return before + bare[kept:]
        known = (text, images.images[0].shape)
        if known not in self._expanded:
            if len(self._expanded) == MAX_PROMPTS:
                self._expanded.clear()
            inputs = self._process(ImageGroup([0], images.images[:1]), text)
            self._expanded[known] = inputs["input_ids"][0].tolist()
        return self._expanded[known]

    def _process(self, images: ImageGroup, text: str) -> dict[str, Any]:
        """Return the stock processor's inputs for every image and this text."""
        return dict(
            self._processor.apply_chat_template(
                [self._messages(text, Image.fromarray(image)) for image in images.images],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                **self.template_options,
            )
        )

    def _as_bare(self, text: str) -> list[int]:
        """Return the prompt's tokens as the template writes it, with a placeholder for the image."""
        return self._tokenizer(self._write(self._messages(text, None)), add_special_tokens=False)["input_ids"]
