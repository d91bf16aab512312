"""Any causal vision-language model with a chat template: the picture is read once, and every question shares it.

Where attention is causal, the picture's keys and values do not depend on the question. So the model reads once what
all prompts begin with (picture included) into a key-value cache; behind it one row holds the rests of all prompts
and their options as a tree (see `scoring`). Not every architecture can do that, so there are three ways:

- *tree*: as above, two forward passes for a whole moment;
- *rows*: each option is a row of its own behind copies of the cache (recurrent and linear attention, whose state
  cannot branch inside a row; caches that have begun to forget);
- *whole*: each option is a forward pass of its own from the beginning; for architectures whose cache cannot go on.

For families that the tests do not hold, the first way that agrees with *whole* on a small picture is taken.
"""

from __future__ import annotations

import copy
import functools
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlm_perception.models.base import ModelError
from vlm_perception.models.calibration import Calibration
from vlm_perception.models.decision import DecisionFormat, load_decision
from vlm_perception.models.local import Generation, LocalModel, words_until_end
from vlm_perception.models.scoring import Options, Scored, build_tree, check_tokens, in_portions, log_likelihoods
from vlm_perception.models.turn import PROMPT, Turn, common_start, read_turn, tokens_in_place
from vlm_perception.models.usage import Meter
from vlm_perception.questions import Choice, ClosedQuestion, Question, Score, Text, YesNo

TREE, ROWS, WHOLE = "tree", "rows", "whole"
MAX_PROMPTS = 256
"""How many texts are remembered as tokens."""
TESTED = {
    "llava", "llava_next", "qwen2_5_vl", "qwen3_vl", "smolvlm", "idefics3", "glm4v", "gemma3", "internvl",
    "phi4_multimodal",
}  # fmt: skip
"""Model types whose *tree* is shown to be exact by this package's tests."""
_CHECK = (
    Choice("What is ahead?", ("a wall", "a wall on the left", "nothing")),
    YesNo("Is there a door in the picture?"),
)


def chat_text(question: Question) -> str:
    """What the user's message says after the picture: the prompt and, of a closed question, what may be answered."""
    if not isinstance(question, ClosedQuestion):
        return question.prompt
    lines = [question.prompt]
    if any(question.descriptions):
        lines += [f"- {option}: {words}" if words else f"- {option}" for option, words in question.described()]
    order = ", from lowest to highest" if isinstance(question, Score) else ""
    return "\n".join([*lines, f"Answer with one of{order}: {', '.join(question.options)}."])


@dataclass(frozen=True)
class TokenizedQuestion:
    """A closed question as the model reads it: the message's text behind the picture, and each option's tokens.

    `replaced`: so many of the prompt's last tokens are other ones where an option stands behind it.
    """

    text: str
    options: tuple[tuple[int, ...], ...]
    replaced: int = 0


@dataclass(eq=False)
class ImageGroup:
    """Pictures of one size, which a batch can hold without padding; `numbers` are their places in the call.

    `inputs` are the stock processor's for the text `first`, `ids` its tokens with the picture's expanded and
    `bare` without. `prefix` are the tokens that `cache` has read, of the same for every picture; `delta` is what
    multi-dimensional rotary positions are ahead of the count of tokens, (pictures, 1).
    """

    numbers: list[int]
    images: list[np.ndarray]
    inputs: dict[str, Any] = field(default_factory=dict)
    ids: list[int] = field(default_factory=list)
    bare: list[int] = field(default_factory=list)
    prefix: list[int] = field(default_factory=list)
    cache: Any = None
    delta: Tensor | None = None


class ChatModel(LocalModel):
    """A causal chat model of the stock transformers classes, see `vlm_perception.models.base.Model`.

    Raises ModelError when the processor has no chat template, or it does not tell where an answer stands.
    """

    def __init__(
        self, name: str, folder: Path, model: Any, processor: Any, calibration: Calibration | None = None
    ) -> None:
        super().__init__(name, folder, model, calibration)
        self._processor = processor
        self._tokenizer = processor.tokenizer
        template = getattr(processor, "chat_template", None)
        if not template:
            raise ModelError(
                f"{folder} has no chat template (chat_template.jinja), so how its prompts look is not known: "
                "take it from the model's page, or use a model that comes with one"
            )
        self._template_options: dict[str, Any] = {
            name: False for name in ("enable_thinking", "thinking") if name in str(template)
        }
        ends = getattr(model.generation_config, "eos_token_id", None)
        ends = self._tokenizer.eos_token_id if ends is None else ends
        self._ends = tuple(ends) if isinstance(ends, (list, tuple)) else (ends,)
        self._decision = load_decision(folder)
        self._keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._special = sorted(
            {t.content for t in self._tokenizer.added_tokens_decoder.values() if t.special and len(t.content) > 1},
            key=len,
            reverse=True,
        )
        self._special_ids = {id_ for id_, t in self._tokenizer.added_tokens_decoder.items() if t.special}
        self._turn = self._read_turn(template)
        end = self._tokenizer.convert_tokens_to_ids(self._turn.end.strip()) if self._turn.end else self._ends[0]
        self._closed_ends = () if self._decision else tuple(dict.fromkeys([*self._ends, end]))
        self._asked = functools.lru_cache(maxsize=MAX_PROMPTS)(self._as_asked)
        self._bare = functools.lru_cache(maxsize=MAX_PROMPTS)(self._as_bare)
        self._expanded: dict[tuple[str, tuple[int, ...]], list[int]] = {}
        self._way, self._why = TREE, "as tested for this family"
        if self._model.config.model_type not in TESTED:
            self._way, self._why = self._find_way()

    def describe_self(self) -> dict[str, str]:
        """Facts for diagnostics, as words."""
        return super().describe_self() | {"sharing": f"{self._way} ({self._why})"}

    def _read_turn(self, template: Any) -> Turn:
        """Ask the template how it writes an answer, and have its generation prompt begin one from now on."""
        try:
            turn = read_turn(self._write, self._messages(PROMPT, None)[0], self._special)
        except ModelError as error:
            raise ModelError(f"{self._folder}: {error}") from None
        if turn.opening and not self._decision:  # such a checkpoint was taught behind the stock prompt
            stock = template["default"] if isinstance(template, dict) else template
            opening = f"{{% if add_generation_prompt %}}{{{{ {json.dumps(turn.opening)} }}}}{{% endif %}}"
            self._template_options["chat_template"] = stock + opening
        return turn

    def _write(self, messages: list[dict[str, Any]], add_generation_prompt: bool = True) -> str:
        return self._processor.apply_chat_template(
            messages, add_generation_prompt=add_generation_prompt, tokenize=False, **self._template_options
        )

    # Pictures

    def _encode(self, images: Sequence[np.ndarray]) -> list[ImageGroup]:
        """The pictures by size; nothing is computed before it is known what all prompts begin with."""
        groups: dict[tuple[int, ...], ImageGroup] = {}
        for number, image in enumerate(images):
            group = groups.setdefault(image.shape, ImageGroup([], []))
            group.numbers.append(number)
            group.images.append(image)
        return list(groups.values())

    def _messages(self, text: str, image: Any) -> list[dict[str, Any]]:
        return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}]

    def _process(self, pictures: ImageGroup, text: str) -> dict[str, Any]:
        """The stock processor's inputs for every picture and this text."""
        return dict(
            self._processor.apply_chat_template(
                [self._messages(text, Image.fromarray(image)) for image in pictures.images],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                **self._template_options,
            )
        )

    def _as_bare(self, text: str) -> list[int]:
        """The prompt's tokens as the template writes it, in which the picture is still a placeholder."""
        return self._tokenizer(self._write(self._messages(text, None)), add_special_tokens=False)["input_ids"]

    def _prompt(self, pictures: ImageGroup, text: str) -> list[int]:
        """The prompt's tokens with the picture's among them, as the stock processor gives them.

        Only the first text goes through the processor. Of another one, what comes behind the place where both
        prompts part is taken over, as that is behind the picture; unless the processor wrote something of its own
        there (Idefics 2 a space, Gemma 3 empty lines), with which the text might become other tokens.
        """
        bare = self._bare(text)
        if not pictures.ids:
            inputs = self._process(pictures, text)
            ids = inputs["input_ids"]
            if (ids != ids[:1]).any():
                raise ModelError(f"{self.name}: pictures of one size got different prompts from its processor")
            pictures.inputs, pictures.ids, pictures.bare = inputs, ids[0].tolist(), bare
            return pictures.ids
        kept = common_start([bare, pictures.bare])
        rest = len(pictures.bare) - kept
        before = pictures.ids[: len(pictures.ids) - rest]
        alike = before[-1] == bare[kept - 1] or {before[-1], bare[kept - 1]} <= self._special_ids
        if alike and rest <= common_start([pictures.ids[::-1], pictures.bare[::-1]]):
            return before + bare[kept:]
        known = (text, pictures.images[0].shape)
        if known not in self._expanded:
            if len(self._expanded) == MAX_PROMPTS:
                self._expanded.clear()
            inputs = self._process(ImageGroup([0], pictures.images[:1]), text)
            self._expanded[known] = inputs["input_ids"][0].tolist()
        return self._expanded[known]

    def _inputs(self, pictures: ImageGroup, ids: Sequence[int]) -> dict[str, Any]:
        """The model's inputs for the pictures and other tokens, which begin with the picture's."""
        rows, length = len(pictures.images), len(pictures.ids)
        last = torch.arange(len(ids)).clamp(max=length - 1)
        inputs = {}
        for name, value in pictures.inputs.items():
            if isinstance(value, Tensor) and value.shape[:2] == (rows, length):  # one entry per token
                more_like_the_last = value[:, last]
                value = torch.tensor([ids]).expand(rows, -1) if name == "input_ids" else more_like_the_last
            inputs[name] = value
        return self._on_device(inputs)

    def _on_device(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The inputs where the model is; what is no whole number, in its precision."""
        return {
            name: value.to(self._device, self._model.dtype if value.is_floating_point() else None)
            if isinstance(value, Tensor)
            else value
            for name, value in inputs.items()
        }

    def _read(self, pictures: ImageGroup, prompts: Sequence[Sequence[int]]) -> None:
        """Have in the cache what all `prompts` begin with; at least one token of each is left."""
        shared = min(common_start(prompts), *(len(prompt) - 1 for prompt in prompts))
        known = common_start([pictures.prefix, prompts[0][:shared]])
        if pictures.cache is not None and self._covers_picture(pictures, known):
            if known < len(pictures.prefix) and self._way == TREE and not self._is_beyond(len(pictures.prefix)):
                pictures.cache.crop(known - len(pictures.prefix))
                pictures.prefix = pictures.prefix[:known]
            if known == len(pictures.prefix):
                return
        pictures.cache = None  # freed before the new one is made
        prefix = list(prompts[0][:shared])
        outputs = self._model(**self._inputs(pictures, prefix), use_cache=True, **self._keep(1))
        delta = getattr(self._model.base_model, "rope_deltas", None)
        pictures.prefix, pictures.cache, pictures.delta = prefix, outputs.past_key_values, delta

    def _covers_picture(self, pictures: ImageGroup, tokens: int) -> bool:
        """Whether the picture lies within the first `tokens` of the prompt."""
        place = getattr(self._model.config, "image_token_id", None)
        if place in pictures.ids:
            behind = pictures.ids[::-1].index(place)
        else:  # at the latest it ends where the prompt goes on as the template wrote it
            behind = common_start([pictures.ids[::-1], pictures.bare[::-1]])
        return tokens >= len(pictures.ids) - behind

    # Closed questions

    def _as_asked(self, question: ClosedQuestion) -> TokenizedQuestion:
        if self._decision:
            labels = self._decision.labels(question, self._tokenizer)
            return TokenizedQuestion(
                self._as_words(self._decision.prompt(question)), tuple((label,) for label in labels)
            )
        text = self._as_words(chat_text(question))
        prompt = self._write(self._messages(text, None))
        words = [self._as_words(option) for option in question.options]
        replaced, tokens = tokens_in_place(self._tokenizer, prompt, self._turn, words, self._special)
        check_tokens(self._tokenizer, question.options, tokens)
        return TokenizedQuestion(text, tuple(map(tuple, tokens)), replaced)

    def _prompt_before(self, pictures: ImageGroup, asked: TokenizedQuestion) -> list[int]:
        """The prompt's tokens before the options."""
        prompt = self._prompt(pictures, asked.text)
        return prompt[: len(prompt) - asked.replaced]

    def _as_words(self, text: str) -> str:
        """The text with the tokenizer's special tokens broken, so that nobody can write one."""
        for token in self._special:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def _score(self, encoded: list[ImageGroup], questions: Sequence[ClosedQuestion]) -> list[list[Scored]]:
        if self._decision and self._decision.own_template:
            return self._score_own_template(encoded, questions, self._decision)
        asked = [self._as_asked_or_refused(question) for question in questions]
        found: dict[int, list[Scored]] = {}
        for pictures in encoded:
            prompts = [self._prompt_before(pictures, one) for one in asked]
            shared = common_start(prompts)
            sizes = [(len(prompt) - shared, one.options) for prompt, one in zip(prompts, asked, strict=True)]
            score = functools.partial(self._score_portion, pictures, prompts)
            found.update(zip(pictures.numbers, in_portions(sizes, len(pictures.images), score), strict=True))
        return [found[number] for number in range(len(found))]

    def _as_asked_or_refused(self, question: ClosedQuestion) -> TokenizedQuestion:
        try:
            return self._asked(question)
        except ValueError as error:
            raise ValueError(f"{self.name} cannot score {question}: {error}") from None

    def _score_portion(
        self, pictures: ImageGroup, every: list[list[int]], portion: Sequence[tuple[int, Options]]
    ) -> list[list[Scored]]:
        """Some options, each list behind the prompt of this number."""
        prompts, options = [every[number] for number, _ in portion], [some for _, some in portion]
        way = self._way
        if way != WHOLE and not self._covers_picture(pictures, common_start(prompts)):
            way = WHOLE
        if way != WHOLE:
            self._read(pictures, prompts)
            if way == TREE and self._forgets(pictures, prompts, options):
                way = ROWS
        score = {TREE: self._score_tree, ROWS: self._score_rows, WHOLE: self._score_whole}[way]
        return score(pictures, prompts, options)

    def _score_tree(self, pictures: ImageGroup, prompts: list[list[int]], options: list[Options]) -> list[list[Scored]]:
        start = len(pictures.prefix)
        tree = build_tree(
            [(prompt[start:], some) for prompt, some in zip(prompts, options, strict=True)], bool(self._closed_ends)
        )
        rows, length = len(pictures.images), len(tree.tokens)
        sees = torch.cat([torch.ones(length, start, dtype=torch.bool), tree.sees()], dim=1)
        mask = torch.zeros(sees.shape, dtype=self._model.dtype).masked_fill_(~sees, torch.finfo(self._model.dtype).min)
        logits = self._forward(
            pictures,
            pictures.cache,
            torch.tensor([tree.tokens]).expand(rows, -1),
            self._positions(pictures, torch.tensor(tree.depths)),
            tree.reads,
            mask[None, None].expand(rows, 1, -1, -1),
        )
        pictures.cache.crop(-length)
        return [log_likelihoods(tree, picture, self._closed_ends) for picture in logits]

    def _score_rows(self, pictures: ImageGroup, prompts: list[list[int]], options: list[Options]) -> list[list[Scored]]:
        start = len(pictures.prefix)
        rows = [(prompt[start:], option) for prompt, some in zip(prompts, options, strict=True) for option in some]
        length = max(len(rest) + len(option) for rest, option in rows)
        ids = torch.tensor([[*rest, *option] + [0] * (length - len(rest) - len(option)) for rest, option in rows])
        cache = copy.deepcopy(pictures.cache)
        cache.reorder_cache(torch.arange(len(pictures.images), device=self._device).repeat_interleave(len(rows)))
        positions = self._positions(pictures, torch.arange(length))
        logits = self._forward(
            pictures,
            cache,
            ids.repeat(len(pictures.images), 1),
            positions.repeat_interleave(len(rows), dim=-2),
            range(length),
        ).unflatten(0, (-1, len(rows)))
        ends = [len(rest) + len(option) for rest, option in rows]
        return [
            _by_question(
                [
                    self._one(option, row[end - len(option) - 1 : end])
                    for row, end, (_, option) in zip(picture, ends, rows, strict=True)
                ],
                options,
            )
            for picture in logits
        ]

    def _score_whole(
        self, pictures: ImageGroup, prompts: list[list[int]], options: list[Options]
    ) -> list[list[Scored]]:
        scores: list[list[Scored]] = [[] for _ in pictures.images]
        for prompt, some in zip(prompts, options, strict=True):
            for option in some:
                inputs = self._inputs(pictures, [*prompt, *option])
                logits = self._model(**inputs, use_cache=False, **self._keep(len(option) + 1)).logits
                for found, row in zip(scores, logits[:, -len(option) - 1 :], strict=True):
                    found.append(self._one(option, row))
        return [_by_question(found, options) for found in scores]

    def _score_own_template(
        self, encoded: list[ImageGroup], questions: Sequence[ClosedQuestion], decision: DecisionFormat
    ) -> list[list[Scored]]:
        """One pass per picture and question, as the stock pipeline: the picture may stand anywhere in such a prompt."""
        found: dict[int, list[Scored]] = {}
        for pictures in encoded:
            for number, image in zip(pictures.numbers, pictures.images, strict=True):
                found[number] = []
                for question in questions:
                    inputs, read = decision.inputs(question, Image.fromarray(image), self._processor)
                    logits = self._model(**self._on_device(inputs), use_cache=False).logits[0, read - 1].float()
                    labels = decision.labels(question, self._tokenizer)
                    said = logits.log_softmax(-1)[labels]
                    found[number].append(Scored(said.tolist(), dict(zip(labels, said.exp().tolist(), strict=True))))
        return [found[number] for number in range(len(found))]

    def _one(self, option: Sequence[int], logits: Tensor) -> Scored:
        """One option by itself, from the logits before it and after each of its tokens."""
        tree = build_tree([((), [option])], bool(self._closed_ends))
        return log_likelihoods(tree, logits[: len(tree.reads)], self._closed_ends)[0]

    def _positions(self, pictures: ImageGroup, depths: Tensor) -> Tensor:
        """Positions of tokens that come `depths` behind the cache: (pictures, tokens), or (3, pictures, tokens)."""
        positions = (depths + len(pictures.prefix)).expand(len(pictures.images), -1).to(self._device)
        if pictures.delta is None:
            return positions
        return (positions + pictures.delta.to(self._device)).expand(3, -1, -1)  # time, height, width: alike for words

    def _forward(
        self,
        pictures: ImageGroup,
        cache: Any,
        ids: Tensor,
        positions: Tensor,
        reads: Sequence[int],
        mask: Tensor | None = None,
    ) -> Tensor:
        """The logits at `reads` of the tokens `ids` (rows, tokens) that go on behind the cache."""
        wanted = torch.tensor(list(reads), device=self._device)
        keep = self._keep(wanted)
        logits = self._model(
            input_ids=ids.to(self._device),
            attention_mask=None if mask is None else mask.to(self._device),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            **self._per_token(pictures, ids),
            **keep,
        ).logits
        return logits if keep else logits[:, wanted]

    def _per_token(self, pictures: ImageGroup, ids: Tensor) -> dict[str, Any]:
        """What tokens behind the prompt see of the picture by themselves (cross attention): what its last one sees."""
        images, length = len(pictures.images), len(pictures.ids)
        inputs = {
            name: value[:, -1:].repeat_interleave(ids.shape[1], 1).repeat_interleave(len(ids) // images, 0)
            for name, value in pictures.inputs.items()
            if isinstance(value, Tensor) and value.ndim > 2 and value.shape[:2] == (images, length)
        }
        return self._on_device(inputs)

    def _keep(self, wanted: int | Tensor) -> dict[str, Any]:
        """Ask for some logits only, the last ones or those at some places: with a big vocabulary that saves much."""
        return {"logits_to_keep": wanted} if self._keeps else {}

    def _forgets(self, pictures: ImageGroup, prompts: list[list[int]], options: list[Options]) -> bool:
        """Whether a sliding window is too short for the tree, whose mask knows of no window."""
        rests = sum(len(prompt) - len(pictures.prefix) for prompt in prompts)
        return self._is_beyond(len(pictures.prefix) + rests + sum(len(option) for some in options for option in some))

    def _is_beyond(self, tokens: int) -> bool:
        """Whether so many tokens are more than a layer remembers: a sliding window, or a chunk as in Llama 4."""
        config = self._model.config.get_text_config()
        if getattr(config, "use_sliding_window", True) is False:
            return False
        window = getattr(config, "sliding_window", None) or getattr(config, "attention_chunk_size", None) or 0
        return 0 < window <= tokens

    def _find_way(self) -> tuple[str, str]:
        """The first way whose scores are those of whole passes, and why not a better one.

        Checked with a wide picture, as a square may hide padded tiles, and with both many and few tokens behind it.
        """
        ramp = np.linspace(0, 255, 72 * 128 * 3).reshape(72, 128, 3).astype(np.uint8)
        asked = [self._asked(question) for question in _CHECK]
        with torch.inference_mode():
            expected = [self._scores_of(self._score_whole, ramp, some) for some in (asked, asked[:1])]
            why = []
            for way, score in ((TREE, self._score_tree), (ROWS, self._score_rows)):
                try:
                    found = [self._scores_of(score, ramp, some) for some in (asked, asked[:1])]
                except Exception as error:  # whatever an unknown architecture says to it, another way may do
                    why.append(f"{way}: {type(error).__name__} {error}".splitlines()[0][:200])
                    continue
                off = (torch.cat(found) - torch.cat(expected)).abs()
                tolerance = 1e-4 if self._model.dtype == torch.float32 else 5e-2
                if bool((off <= tolerance * torch.cat(expected).abs().clamp(min=1)).all()):
                    return way, "; ".join([*why, f"{way} agrees with whole passes"])
                why.append(f"{way} is off by {float(off.max()):.2g}")
        return WHOLE, "; ".join(why)

    def _scores_of(
        self, score: Callable[..., list[list[Scored]]], image: np.ndarray, asked: list[TokenizedQuestion]
    ) -> Tensor:
        """All log-likelihoods, in a row, by one way of scoring."""
        pictures = self._encode([image])[0]
        prompts = [self._prompt_before(pictures, one) for one in asked]
        if score != self._score_whole:
            self._read(pictures, prompts)
        if score == self._score_tree and any(
            getattr(layer, "get_seq_length", int)() != len(pictures.prefix) for layer in pictures.cache.layers
        ):
            raise ValueError("a layer remembers other things than tokens, so it cannot be cut back to the prompt")
        found = score(pictures, prompts, [one.options for one in asked])[0]
        return torch.tensor([value for scored in found for value in scored.log_likelihoods])

    # Words

    def _say(self, encoded: list[ImageGroup], question: Text, meter: Meter) -> list[Generation]:
        found: dict[int, Generation] = {}
        for pictures in encoded:
            found.update(zip(pictures.numbers, self._say_about(pictures, question, meter), strict=True))
        return [found[number] for number in range(len(found))]

    def _say_about(self, pictures: ImageGroup, question: Text, meter: Meter) -> list[Generation]:
        """Greedy words about all pictures of one size, token by token, behind a copy of what is read already."""
        prompt = self._prompt(pictures, self._as_words(chat_text(question)))
        if self._way == WHOLE:
            return self._say_whole(pictures, prompt, question.max_new_tokens, meter)
        self._read(pictures, [prompt])
        cache = copy.deepcopy(pictures.cache)
        rows, depth = len(pictures.images), 0
        ids = torch.tensor([prompt[len(pictures.prefix) :]]).expand(rows, -1)
        steps: list[tuple[list[int], list[float]]] = []
        first = 0.0
        while True:
            depths = torch.arange(depth, depth + ids.shape[1])
            logits = self._forward(pictures, cache, ids, self._positions(pictures, depths), [ids.shape[1] - 1])[:, -1]
            depth += ids.shape[1]
            log_p, best = logits.float().log_softmax(-1).max(-1)
            steps.append((best.tolist(), log_p.tolist()))
            first = first or meter.now()
            ended = [any(step[0][row] in self._ends for step in steps) for row in range(rows)]
            if all(ended) or len(steps) > question.max_new_tokens:
                break
            ids = best[:, None]
        return [
            words_until_end(self._tokenizer, [t[row] for t, _ in steps], [p[row] for _, p in steps], self._ends, first)
            for row in range(rows)
        ]

    def _say_whole(
        self, pictures: ImageGroup, prompt: list[int], max_new_tokens: int, meter: Meter
    ) -> list[Generation]:
        times: list[float] = []

        def watch(ids: Tensor, scores: Any, **_: Any) -> Tensor:
            times.append(meter.now())
            return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

        outputs = self._model.generate(
            **self._inputs(pictures, prompt),
            max_new_tokens=max_new_tokens + 1,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            stopping_criteria=[watch],
        )
        log_p, best = torch.stack(outputs.logits, 1).float().log_softmax(-1).max(-1)
        return [
            words_until_end(self._tokenizer, t, p, self._ends, times[0])
            for t, p in zip(best.tolist(), log_p.tolist(), strict=True)
        ]


def _by_question(scores: list[Scored], options: list[Options]) -> list[Scored]:
    """Of single options, all in a row, what each question gets."""
    rest = iter(scores)
    return [sum((next(rest) for _ in some), Scored()) for some in options]
