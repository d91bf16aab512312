"""BLIP-2's `Blip2ForImageTextRetrieval`: it says whether a phrase fits an image, and cannot write."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from vlm_perception.models.calibration import Calibration
from vlm_perception.models.contrastive import Contrastive, Phrases
from vlm_perception.models.image_size import inputs_of
from vlm_perception.models.scoring import Scored
from vlm_perception.questions import ClosedQuestion

PAIRS = 64
"""Number of pairs of image and phrase that go through the Q-Former at once."""


class Blip2Matching(Contrastive):
    """`Blip2ForImageTextRetrieval`, which matches phrases with the image; `Contrastive` says which phrases.

    The matching head gives for each phrase the log-odds that it fits, used as those of SigLIP. Where options compete,
    the cosine of the contrastive head is added, as in LAVIS's retrieval.
    """

    def __init__(
        self, name: str, folder: Path, model: Any, processor: Any, calibration: Calibration | None = None
    ) -> None:
        super().__init__(name, folder, model, processor, calibration)
        self._sigmoid = True
        self._max_tokens = model.config.qformer_config.max_position_embeddings

    def _encode(self, images: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Return the tower's features (images, places, width) and unit vectors (images, queries, width), float32."""
        pixels = inputs_of(images, self._processor)["pixel_values"]
        seen = self._model.vision_model(pixel_values=pixels.to(self._device)).last_hidden_state
        queries = self._model.query_tokens.expand(len(images), -1, -1)
        found = self._model.qformer(query_embeds=queries, encoder_hidden_states=seen).last_hidden_state
        found = self._model.vision_projection(found.to(self._model.vision_projection.weight.dtype))
        return seen, normalize(found.float(), dim=-1)

    def _clean(self, text: str) -> str:
        """Return the text as LAVIS's `BlipCaptionProcessor` gives it to the model."""
        return " ".join(re.sub(r'[.!"()*#:;~]', " ", text.lower()).split())

    def _score(self, encoded: tuple[Tensor, Tensor], questions: Sequence[ClosedQuestion]) -> list[list[Scored]]:
        asked = [self._options(question) for question in questions]
        every = tuple(option for options in asked for option in options)
        counts = [len(options) for options in asked]
        portions = [every[start : start + PAIRS] for start in range(0, len(every), PAIRS)]
        parts = zip(
            *(
                torch.cat([of(encoded, portion) for portion in portions], 1).split(counts, 1)
                for of in (self._compare, self._resemble)
            ),
            strict=True,
        )
        scores = [
            logsigmoid(torch.cat([odds, -odds], 1)) if odds.shape[1] == 1 else odds + similarity
            for odds, similarity in parts
        ]
        return [
            [Scored(row) for row in rows] for rows in zip(*(part.double().tolist() for part in scores), strict=True)
        ]

    def _compare(self, encoded: tuple[Tensor, Tensor], options: tuple[Phrases, ...]) -> Tensor:
        """Return the log-odds that each option's phrases fit each image, (images, options), float32."""
        texts, mask, owner = self._read(options)
        seen, _ = encoded
        queries = self._model.query_tokens
        count = queries.shape[1]
        found = []
        for pairs in torch.cartesian_prod(torch.arange(len(seen)), torch.arange(len(texts))).split(PAIRS):
            image, text = pairs.to(self._device).T
            some = queries.expand(len(pairs), -1, -1)
            out = self._model.qformer(
                query_embeds=torch.cat([some, texts[text].to(some.dtype)], dim=1),
                query_length=count,
                attention_mask=torch.cat([mask.new_ones(len(pairs), count), mask[text]], dim=1),
                encoder_hidden_states=seen[image],
            ).last_hidden_state[:, :count]
            no, yes = self._model.itm_head(out.to(self._model.itm_head.weight.dtype)).float().mean(1).T
            found.append(yes - no)
        return torch.cat(found).unflatten(0, (len(seen), len(texts))) @ owner

    def _resemble(self, encoded: tuple[Tensor, Tensor], options: tuple[Phrases, ...]) -> Tensor:
        """Return the cosine between each image and each option's phrases, (images, options), float32."""
        texts, mask, owner = self._read(options)
        found = self._model.qformer(query_embeds=texts, query_length=0, attention_mask=mask).last_hidden_state[:, 0]
        found = self._model.text_projection(found.to(self._model.text_projection.weight.dtype))
        return (encoded[1] @ normalize(found.float(), dim=-1).T).amax(1) @ owner

    def _read(self, options: tuple[Phrases, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the phrases' embeddings (phrases, tokens, width), their mask, and their share in each option."""
        phrases = [(text, number) for number, option in enumerate(options) for text in option]
        read = self._tokenizer(
            [text for text, _ in phrases], padding=True, split_special_tokens=True, return_tensors="pt"
        ).to(self._device)
        owner = torch.zeros(len(phrases), len(options), device=self._device)
        for row, (_, number) in enumerate(phrases):
            owner[row, number] = 1 / len(options[number])
        return self._model.embeddings(input_ids=read["input_ids"]), read["attention_mask"], owner
