"""BLIP-2, InstructBLIP and MiniGPT-4: a Q-Former reads the image into a few tokens for a language model.

What several questions share depends on the part of the model that reads the question:

- BLIP-2 and MiniGPT-4 with a causal language model (OPT, Llama): the image's tokens do not depend on the question.
  All questions and all their options stand behind them in one row, as a tree (see `scoring`): one forward pass.
- InstructBLIP with a causal language model (Vicuna): its Q-Former reads the question too. The vision tower is shared,
  the Q-Former runs once for all questions as a batch, and so does the language model, with a tree per question.
- An encoder-decoder (Flan-T5): its encoder is bidirectional, so the questions go as a batch; the decoder says the
  options of a question in one row, each a chain of its own behind the same encoded question (T5 measures distances
  between places in the row, so tokens that are shared would be at the wrong distance from those of other options).

The image has few tokens (32), so a later call about the same image reads them again.

Prompts are those of the papers (https://arxiv.org/abs/2301.12597, https://arxiv.org/abs/2305.06500):

- BLIP-2: `Question: {prompt} Answer:`, for closed questions to Flan-T5 `Question: {prompt} Short answer:`. A prompt
  that begins with `a photo of` or ends with `answer:` is used as it is, and `caption` stands for an empty prompt.
- InstructBLIP: a `Text` as it is, a closed question `Question: {prompt} Options: {options}. Short answer:`; `caption`
  stands for `A short image description:`.
- A folder with a chat template that has a place for the image (MiniGPT-4, see `vlm_perception minigpt4`): what the
  template makes of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlm_perception.models.calibration import Calibration
from vlm_perception.models.chat_prompt import chat_text
from vlm_perception.models.generation import Generation, until_end
from vlm_perception.models.image_size import inputs_of
from vlm_perception.models.local import LocalModel
from vlm_perception.models.scoring import (
    ROOT,
    Packed,
    Scored,
    TokenPath,
    Tree,
    build_tree,
    in_portions,
    log_likelihoods,
    option_tokens,
    pack,
)
from vlm_perception.models.usage import Meter
from vlm_perception.questions import ClosedQuestion, Question, Text

Asked = tuple[ClosedQuestion, tuple[tuple[int, ...], ...]]
"""A question, and the tokens of all or some of its options."""
CAPTION = "caption"
"""The prompt that stands for an empty one, with which BLIP-2 describes the image."""


@dataclass(frozen=True, eq=False)
class PackedQuestions:
    """The model's inputs for closed questions that do not depend on the images.

    `behind` are each question's tokens behind the image. `packed` has the `trees` as rows, and `mask` (rows, 1, L, L)
    is added to their attention. `kept` are the positions whose next token is needed; `reads` says for each tree which
    of them are its own.
    """

    behind: list[tuple[int, ...]]
    trees: list[Tree]
    packed: Packed
    mask: Tensor
    kept: list[int]
    reads: list[list[int]]


class Blip2(LocalModel):
    """BLIP-2, InstructBLIP or MiniGPT-4 of the stock transformers classes, see `vlm_perception.models.base.Model`."""

    def __init__(
        self, name: str, folder: Path, model: Any, processor: Any, calibration: Calibration | None = None
    ) -> None:
        super().__init__(name, folder, model, processor, calibration)
        self._language = model.language_model
        self._reader: Any = getattr(processor, "qformer_tokenizer", None)  # for a Q-Former that reads the question
        self._encodes = self._language.config.is_encoder_decoder
        self._ends = _ends(model, self._language) or (self._tokenizer.eos_token_id,)
        # SentencePiece marks the beginning of a word itself; byte-level tokenizers need the space before it.
        self._space = "" if self._tokenizer.tokenize("a")[0].startswith("▁") else " "
        self._image = str(processor.image_token)
        self._template = self._image in str(self._tokenizer.chat_template)
        self._before = self._around_image("")[0] if self._template else ()
        self._behind = lru_cache(maxsize=256)(self._as_behind)
        self._options = lru_cache(maxsize=256)(self._as_options)
        self._texts = lru_cache(maxsize=64)(self._as_texts)
        self._moment = lru_cache(maxsize=64)(self._as_moment)

    def describe_self(self) -> dict[str, str]:
        """Return facts for diagnostics, as words. The Q-Former is always in float32."""
        return super().describe_self() | {
            "dtype": str(self._language.dtype).removeprefix("torch."),
            "language model": self._language.config.model_type,
        }

    # The prompt

    def _words(self, question: Question) -> str:
        """Return the text of this question that the language model reads behind the image."""
        prompt = question.prompt
        if self._template:
            return chat_text(question)
        closed = isinstance(question, ClosedQuestion)
        if prompt == CAPTION:
            return "A short image description:" if self._reader else ""
        if prompt.lower().startswith("a photo of") or prompt.lower().endswith("answer:"):
            return prompt
        if self._reader and not closed:
            return prompt
        if isinstance(question, ClosedQuestion):
            described = [f"{option}: {words}" for option, words in question.described() if words]
            prompt += f" ({'; '.join(described)})" if described else ""
            prompt += f" Options: {', '.join(question.options)}." if self._reader else ""
        short = closed and (self._reader or self._encodes)
        return f"Question: {prompt} {'Short answer:' if short else 'Answer:'}"

    def _around_image(self, words: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the chat template's tokens before and behind the image; each side is tokenized separately."""
        content = [{"type": "image"}, {"type": "text", "text": words}]
        text = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        before, _, behind = text.partition(self._image)
        return self._tokens(before, special=True), self._tokens(behind)

    def _tokens(self, text: str, special: bool = False) -> tuple[int, ...]:
        """Return token ids, with the tokenizer's special tokens around if `special`; those in `text` are plain text."""
        return tuple(self._tokenizer(text, add_special_tokens=special, split_special_tokens=True)["input_ids"])

    def _as_behind(self, question: Question) -> tuple[int, ...]:
        """Return the tokens behind the image. Raises ValueError when they are too many."""
        words = self._words(question)
        tokens = self._around_image(words)[1] if self._template else self._tokens(words, special=True)
        option = max(map(len, self._options(question.options))) if isinstance(question, ClosedQuestion) else 1
        if (length := self._image_length + len(tokens) + option) > self._most_tokens:
            raise ValueError(
                f"{self.name}: {question} and the image are {length} tokens long, this model reads "
                f"at most {self._most_tokens}: shorten it"
            )
        return tokens

    def _as_options(self, options: tuple[str, ...]) -> list[tuple[int, ...]]:
        try:
            return list(map(tuple, option_tokens(self._tokenizer, [self._space + option for option in options])))
        except ValueError as error:
            raise ValueError(f"{self.name} cannot score the options {list(options)!r:.200}: {error}") from None

    @property
    def _image_length(self) -> int:
        return len(self._before) + self._model.config.num_query_tokens

    @property
    def _most_tokens(self) -> int:
        return getattr(self._language.config, "max_position_embeddings", None) or 2**31  # T5 has no limit

    # The image

    def _encode(self, images: Sequence[np.ndarray]) -> Tensor:
        """Return the features that no question changes: (images, queries, width); of InstructBLIP, the tower's.

        The processor squashes each image to the model's square.
        """
        pixels = inputs_of(images, self._processor)["pixel_values"]
        pixels = pixels.to(self._device, self._language.dtype)
        if self._reader:
            return self._model.vision_model(pixel_values=pixels).last_hidden_state
        return self._model.get_image_features(pixels).pooler_output

    def _images(self, encoded: Tensor, questions: Sequence[Question]) -> Tensor:
        """Return the language model's input for images and what is before, (images, questions, tokens, width)."""
        if self._reader:
            images = self._read(encoded, tuple(self._words(question) for question in questions))
        else:
            images = encoded[:, None].expand(-1, len(questions), -1, -1)
        before = self._embed(torch.tensor(self._before, dtype=torch.long))
        images = images.to(before.dtype)
        return torch.cat([before.expand(*images.shape[:2], -1, -1), images], 2)

    def _read(self, encoded: Tensor, texts: tuple[str, ...]) -> Tensor:
        """Return what InstructBLIP's Q-Former reads for all texts in all images, (images, texts, queries, width)."""
        ids, mask = (_for_each(len(encoded), part) for part in self._texts(texts))
        queries = self._model.query_tokens.expand(len(ids), -1, -1)
        found = self._model.qformer(
            input_ids=ids,
            attention_mask=torch.cat([mask.new_ones(queries.shape[:2]), mask], dim=1),
            query_embeds=queries,
            encoder_hidden_states=encoded.repeat_interleave(len(texts), 0),
        ).last_hidden_state[:, : queries.shape[1]]
        return self._model.language_projection(found.to(encoded.dtype)).unflatten(0, (len(encoded), len(texts)))

    def _as_texts(self, texts: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        """Return the Q-Former's tokens and their mask, (texts, tokens). Raises ValueError when they are too many."""
        read = self._reader(list(texts), padding=True, split_special_tokens=True, return_tensors="pt").to(self._device)
        most, longest = self._model.config.qformer_config.max_position_embeddings, read["input_ids"].shape[1]
        if longest > most:
            raise ValueError(
                f"{self.name}: its Q-Former reads at most {most} tokens, and a question has {longest}: shorten it"
            )
        return read["input_ids"], read["attention_mask"]

    def _embed(self, tokens: Tensor) -> Tensor:
        return self._language.get_input_embeddings()(tokens.to(self._device))

    # Closed questions

    def _score(self, encoded: Tensor, questions: Sequence[ClosedQuestion]) -> list[list[Scored]]:
        sizes = [(len(self._behind(question)), self._options(question.options)) for question in questions]
        return in_portions(
            sizes,
            len(encoded),
            lambda portion: self._score_portion(
                encoded, tuple((questions[number], tuple(map(tuple, options))) for number, options in portion)
            ),
        )

    def _score_portion(self, encoded: Tensor, asked: tuple[Asked, ...]) -> list[list[Scored]]:
        moment = self._moment(asked)
        images = self._images(encoded, [question for question, _ in asked[: len(moment.trees)]])
        logits = self._chain_logits(images, moment) if self._encodes else self._tree_logits(images, moment)
        return [
            [
                scores
                for tree, reads, row in zip(moment.trees, moment.reads, rows, strict=True)
                for scores in log_likelihoods(tree, row[reads], self._ends)
            ]
            for rows in logits.unflatten(0, images.shape[:2])
        ]

    def _as_moment(self, asked: tuple[Asked, ...]) -> PackedQuestions:
        behind = [self._behind(question) for question, _ in asked]
        options = [some for _, some in asked]
        before = [0] * self._image_length  # placeholders, replaced by the image's embeddings
        if self._encodes:
            before = []
            trees = [_chains(self._language.generation_config.decoder_start_token_id, some) for some in options]
        elif self._reader:
            trees = [build_tree([one]) for one in zip(behind, options, strict=True)]
        else:
            trees = [build_tree(list(zip(behind, options, strict=True)))]
        packed = pack([before] * len(trees), trees, 0, first_position=0, bidirectional_prefix=False)
        dtype = self._language.dtype
        mask = torch.zeros(packed.sees.shape, dtype=dtype).masked_fill_(~packed.sees, torch.finfo(dtype).min)
        kept = sorted({place for reads in packed.reads for place in reads})
        reads = [[kept.index(place) for place in reads] for reads in packed.reads]
        return PackedQuestions(behind, trees, packed, mask.to(self._device), kept, reads)

    def _tree_logits(self, encoded: Tensor, moment: PackedQuestions) -> Tensor:
        """Return a causal model's logits (images * trees, kept, vocabulary) of the trees behind the images."""
        images, _, start, _ = encoded.shape
        embeds = self._embed(moment.packed.ids).expand(images, -1, -1, -1).clone()
        embeds[:, :, :start] = encoded
        return self._language(
            inputs_embeds=embeds.flatten(0, 1),
            attention_mask=_for_each(images, moment.mask),
            position_ids=_for_each(images, moment.packed.positions.to(self._device)),
            use_cache=False,
            logits_to_keep=torch.tensor(moment.kept, device=self._device),
        ).logits

    def _chain_logits(self, encoded: Tensor, moment: PackedQuestions) -> Tensor:
        """Return an encoder-decoder's logits: it encodes every question with every image and decodes the options."""
        images, _, start, _ = encoded.shape
        length = max(map(len, moment.behind))
        ids = torch.tensor([[*tokens] + [0] * (length - len(tokens)) for tokens in moment.behind])
        embeds = torch.cat([encoded, self._embed(ids).expand(images, -1, -1, -1)], dim=2)
        real = torch.arange(start + length) < torch.tensor([[start + len(tokens)] for tokens in moment.behind])
        logits = self._language(
            inputs_embeds=embeds.flatten(0, 1),
            attention_mask=_for_each(images, real.long().to(self._device)),
            decoder_input_ids=_for_each(images, moment.packed.ids.to(self._device)),
            decoder_attention_mask=_for_each(images, moment.mask),
            use_cache=False,
        ).logits
        return logits[:, moment.kept]

    # Words

    def _say(self, encoded: Tensor, question: Text, meter: Meter) -> list[Generation]:
        """Generate greedy text about all images at once, by the language model's own `generate`."""
        behind = self._behind(question)
        images = self._images(encoded, [question])[:, 0]
        embeds = torch.cat([images, self._embed(torch.tensor(behind)).expand(len(images), -1, -1)], dim=1)
        log_p: list[list[float]] = []
        times: list[float] = []

        def watch(_: Tensor, logits: Tensor) -> Tensor:
            log_p.append(logits.float().log_softmax(-1).amax(-1).tolist())
            times.append(meter.now())
            return logits

        said = self._language.generate(
            inputs_embeds=embeds,
            attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long, device=self._device),
            # One step more than the text has: it gives the probability of the end.
            max_new_tokens=min(question.max_new_tokens + 1, self._most_tokens - embeds.shape[1]),
            do_sample=False,
            num_beams=1,
            eos_token_id=list(self._ends),
            pad_token_id=self._ends[0],
            logits_processor=[watch],
        )[:, -len(times) :].tolist()
        return [
            until_end(self._tokenizer, tokens, [step[row] for step in log_p], self._ends, times[0])
            for row, tokens in enumerate(said)
        ]


def _ends(*models: Any) -> tuple[int, ...]:
    """Return the tokens that end an answer, as folders name them for the model, its language model, or both."""
    found = [getattr(model.generation_config, "eos_token_id", None) for model in models]
    listed = [ends if isinstance(ends, (list, tuple)) else [ends] for ends in found if ends is not None]
    return tuple(dict.fromkeys(end for ends in listed for end in ends))


def _for_each(images: int, rows: Tensor) -> Tensor:
    """Return `rows` repeated for every image, image by image."""
    return rows.expand(images, *rows.shape).flatten(0, 1)


def _chains(start: int, options: Sequence[Sequence[int]]) -> Tree:
    """Return the options side by side, each behind its own `start` token."""
    tokens: list[int] = []
    parents: list[int] = []
    depths: list[int] = []
    paths = []
    for option in options:
        first = len(tokens)
        tokens += [start, *option]
        parents += [ROOT, *range(first, first + len(option))]
        depths += range(len(option) + 1)
        paths.append(TokenPath(tuple(enumerate(option, first)), first + len(option)))
    return Tree(tuple(tokens), tuple(parents), tuple(depths), (tuple(paths),), tuple(range(len(tokens))))
