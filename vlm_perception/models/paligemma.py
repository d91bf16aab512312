"""PaliGemma 1 and 2: the image is encoded once, all closed questions go through one forward pass.

The attention of PaliGemma's prefix (image and prompt) is bidirectional, so the image's keys and values depend
on the prompt and cannot be shared between questions; its features can be shared, and the questions go as one batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vlm_perception.models.calibration import Calibration
from vlm_perception.models.generation import Generation, generate_greedily
from vlm_perception.models.image_size import inputs_of
from vlm_perception.models.local import LocalModel
from vlm_perception.models.scoring import Scored, Tree, build_tree, in_portions, log_likelihoods, option_tokens, pack
from vlm_perception.models.usage import Meter
from vlm_perception.questions import ClosedQuestion, Text

_FIRST_POSITION = 1  # PaliGemma counts positions from 1
Asked = tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]
"""A question as tokens: image and prompt, and each of its options."""


@dataclass(frozen=True, eq=False)
class PackedPrompts:
    """The model's inputs for closed questions, on its device: a row of L tokens each. They do not depend on the images.

    `ids` and `positions` (questions, L) int64; `mask` (questions, 1, L, L) in the model's dtype, to add to attention;
    `reads` int64: the indices, through all rows, of the tokens whose next one is needed, tree by tree.
    """

    trees: list[Tree]
    ids: Tensor
    positions: Tensor
    mask: Tensor
    reads: Tensor


class PaliGemma(LocalModel):
    """A PaliGemma of the stock transformers classes, see `vlm_perception.models.base.Model`."""

    def __init__(
        self, name: str, folder: Path, model: Any, processor: Any, calibration: Calibration | None = None
    ) -> None:
        super().__init__(name, folder, model, processor, calibration)
        self._softcap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
        self._options = lru_cache(maxsize=256)(self._read_options)
        self._prefix = lru_cache(maxsize=256)(self._build_prefix)
        self._moment = lru_cache(maxsize=16)(self._build_moment)

    def _encode(self, images: Sequence[np.ndarray]) -> Tensor:
        """Return the images' features, (images, image tokens, width); the processor squashes each to a square."""
        pixels = inputs_of(images, self._processor)["pixel_values"]
        pixels = pixels.to(self._model.device, self._model.dtype)
        return self._model.get_image_features(pixels).pooler_output

    def _build_prefix(self, prompt: str) -> tuple[int, ...]:
        """Return the token ids of image and prompt as PaliGemmaProcessor does; special tokens in a prompt are text."""
        words = self._tokenizer(prompt + "\n", add_special_tokens=False, split_special_tokens=True)["input_ids"]
        image = [self._model.config.image_token_id] * self._processor.image_seq_length
        return (*image, self._tokenizer.bos_token_id, *words)

    def _read_options(self, options: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
        try:
            return tuple(map(tuple, option_tokens(self._tokenizer, options)))
        except ValueError as error:
            raise ValueError(f"{self.name} cannot score the options {list(options)!r:.200}: {error}") from None

    def _score(self, encoded: Tensor, questions: Sequence[ClosedQuestion]) -> list[list[Scored]]:
        asked = [(self._prefix(question.prompt), self._options(question.options)) for question in questions]
        sizes = [(len(prefix) - self._processor.image_seq_length, options) for prefix, options in asked]
        return in_portions(
            sizes,
            len(encoded),
            lambda portion: self._score_portion(
                encoded, tuple((asked[number][0], tuple(map(tuple, options))) for number, options in portion)
            ),
        )

    def _score_portion(self, encoded: Tensor, asked: tuple[Asked, ...]) -> list[list[Scored]]:
        """Score one row for each pair of image and question."""
        images = len(encoded)
        moment = self._moment(asked)
        reads = (torch.arange(images, device=encoded.device)[:, None] * moment.ids.numel() + moment.reads).flatten()
        with compute_only_at(reads, self._model.model.language_model.layers[-1].mlp):
            hidden = self._model.model(
                input_ids=moment.ids.repeat(images, 1),
                attention_mask=moment.mask.repeat(images, 1, 1, 1),
                position_ids=moment.positions.repeat(images, 1),
                mm_encoder_outputs=_as_encoder_output(encoded.repeat_interleave(len(asked), 0)),
                use_cache=False,
            ).last_hidden_state
        logits = self._logits(hidden.flatten(0, 1)[reads]).unflatten(0, (images, -1))
        by_tree = logits.split([len(tree.reads) for tree in moment.trees], dim=1)
        end = [self._tokenizer.eos_token_id]
        return [
            [log_likelihoods(tree, part[image], end)[0] for tree, part in zip(moment.trees, by_tree, strict=True)]
            for image in range(images)
        ]

    def _build_moment(self, asked: tuple[Asked, ...]) -> PackedPrompts:
        trees = [build_tree([((), options)]) for _, options in asked]
        prefixes = [prefix for prefix, _ in asked]
        packed = pack(prefixes, trees, self._tokenizer.pad_token_id, _FIRST_POSITION, bidirectional_prefix=True)
        device, dtype = self._model.device, self._model.dtype
        mask = torch.zeros(packed.sees.shape, dtype=dtype).masked_fill_(~packed.sees, torch.finfo(dtype).min)
        length = packed.ids.shape[1]
        reads = torch.tensor([row * length + place for row, places in enumerate(packed.reads) for place in places])
        return PackedPrompts(trees, *(part.to(device) for part in (packed.ids, packed.positions, mask, reads)))

    def _logits(self, hidden: Tensor) -> Tensor:
        logits = self._model.lm_head(hidden)
        if self._softcap is not None:
            logits = torch.tanh(logits / self._softcap) * self._softcap
        return logits

    def _say(self, encoded: Tensor, question: Text, meter: Meter) -> list[Generation]:
        """Generate greedy text about all images at once, on a cache that begins with the encoded images."""
        prefix = torch.tensor([self._prefix(question.prompt)], device=encoded.device).expand(len(encoded), -1)
        outputs = self._model.model(
            input_ids=prefix,
            token_type_ids=torch.zeros_like(prefix),  # the whole prefix sees itself
            attention_mask=torch.ones_like(prefix),
            mm_encoder_outputs=_as_encoder_output(encoded),
            use_cache=True,
        )
        positions = itertools.count(prefix.shape[1] + _FIRST_POSITION)

        def step(said: Tensor | None) -> Tensor:
            nonlocal outputs
            if said is not None:
                outputs = self._model.model(
                    input_ids=said[:, None],
                    position_ids=torch.full_like(said[:, None], next(positions)),
                    past_key_values=outputs.past_key_values,
                    use_cache=True,
                )
            return self._logits(outputs.last_hidden_state[:, -1])

        ends = [self._tokenizer.eos_token_id]
        return generate_greedily(step, self._tokenizer, ends, question.max_new_tokens, meter)


def _as_encoder_output(features: Tensor) -> dict[str, BaseModelOutputWithPooling]:
    return {"image": BaseModelOutputWithPooling(pooler_output=features)}


@contextmanager
def compute_only_at(tokens: Tensor, module: nn.Module) -> Iterator[None]:
    """Make `module`, which works on each token alone, return zeros for all but `tokens`, counted through all rows.

    The other tokens of a model's last layer are not read, and most of a layer's work is its multi-layer perceptron.
    """
    shape: list[int] = []

    def pick(_: nn.Module, arguments: tuple[Tensor, ...]) -> Tensor:
        shape[:] = arguments[0].shape
        return arguments[0].flatten(0, 1)[tokens]

    def put(_: nn.Module, arguments: tuple[Tensor, ...], found: Tensor) -> Tensor:
        return found.new_zeros(shape).flatten(0, 1).index_copy_(0, tokens, found).view(shape)

    hooks = [module.register_forward_pre_hook(pick), module.register_forward_hook(put)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
