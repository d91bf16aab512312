"""Forward passes of a chat model about images, behind a key-value cache of what all prompts begin with."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vlm_perception.models.chat_prompt import ImageGroup
from vlm_perception.models.turn import common_start


class ChatForward:
    """Runs the stock transformers `model` for one group of images at a time, and fills and crops its cache."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._keeps = "logits_to_keep" in inspect.signature(model.forward).parameters

    @property
    def device(self) -> torch.device:
        return torch.device(self.model.device)

    def read(self, images: ImageGroup, prompts: Sequence[Sequence[int]], may_crop: bool) -> None:
        """Read the common beginning of all `prompts` into the cache; at least one token of each is left.

        A cache that has read more is cropped if it `may_crop`, else it is made anew.
        """
        shared = min(common_start(prompts), *(len(prompt) - 1 for prompt in prompts))
        known = common_start([images.prefix, prompts[0][:shared]])
        if images.cache is not None and self.covers_image(images, known):
            if known < len(images.prefix) and may_crop and not self.is_beyond(len(images.prefix)):
                images.cache.crop(known - len(images.prefix))
                images.prefix = images.prefix[:known]
            if known == len(images.prefix):
                return
        images.cache = None  # freed before the new one is made
        prefix = list(prompts[0][:shared])
        outputs = self.model(**self.inputs(images, prefix), use_cache=True, **self.keep(1))
        delta = getattr(self.model.base_model, "rope_deltas", None)
        images.prefix, images.cache, images.delta = prefix, outputs.past_key_values, delta

    def covers_image(self, images: ImageGroup, tokens: int) -> bool:
        """Whether the image lies within the first `tokens` of the prompt."""
        place = getattr(self.model.config, "image_token_id", None)
        if place in images.ids:
            behind = images.ids[::-1].index(place)
        else:  # it ends at the latest where the prompt is as the template wrote it
            behind = common_start([images.ids[::-1], images.bare[::-1]])
        return tokens >= len(images.ids) - behind

    def inputs(self, images: ImageGroup, ids: Sequence[int]) -> dict[str, Any]:
        """Return the model's inputs for the images and the tokens `ids`, which begin with the image's."""
        rows, length = len(images.images), len(images.ids)
        last = torch.arange(len(ids)).clamp(max=length - 1)
        inputs = {}
        for name, value in images.inputs.items():
            if isinstance(value, Tensor) and value.shape[:2] == (rows, length):  # one entry per token
                more_like_the_last = value[:, last]
                value = torch.tensor([ids]).expand(rows, -1) if name == "input_ids" else more_like_the_last
            inputs[name] = value
        return self.on_device(inputs)

    def on_device(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the inputs on the model's device, floats in its precision."""
        return {
            name: value.to(self.device, self.model.dtype if value.is_floating_point() else None)
            if isinstance(value, Tensor)
            else value
            for name, value in inputs.items()
        }

    def positions(self, images: ImageGroup, depths: Tensor) -> Tensor:
        """Return the positions of tokens `depths` behind the cache: (images, tokens), or (3, images, tokens)."""
        positions = (depths + len(images.prefix)).expand(len(images.images), -1).to(self.device)
        if images.delta is None:
            return positions
        return (positions + images.delta.to(self.device)).expand(3, -1, -1)  # time, height, width: equal for text

    def forward(
        self,
        images: ImageGroup,
        cache: Any,
        ids: Tensor,
        positions: Tensor,
        reads: Sequence[int],
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the logits at `reads` of the tokens `ids` (rows, tokens), which follow the cache."""
        wanted = torch.tensor(list(reads), device=self.device)
        keep = self.keep(wanted)
        logits = self.model(
            input_ids=ids.to(self.device),
            attention_mask=None if mask is None else mask.to(self.device),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            **self._per_token(images, ids),
            **keep,
        ).logits
        return logits if keep else logits[:, wanted]

    def _per_token(self, images: ImageGroup, ids: Tensor) -> dict[str, Any]:
        """Return the inputs of cross attention for tokens behind the prompt: those of its last token."""
        count, length = len(images.images), len(images.ids)
        inputs = {
            name: value[:, -1:].repeat_interleave(ids.shape[1], 1).repeat_interleave(len(ids) // count, 0)
            for name, value in images.inputs.items()
            if isinstance(value, Tensor) and value.ndim > 2 and value.shape[:2] == (count, length)
        }
        return self.on_device(inputs)

    def keep(self, wanted: int | Tensor) -> dict[str, Any]:
        """Return the argument that limits the logits to the `wanted` ones: a large vocabulary makes them costly."""
        return {"logits_to_keep": wanted} if self._keeps else {}

    def is_beyond(self, tokens: int) -> bool:
        """Whether `tokens` are more than a layer remembers: a sliding window, or a chunk as in Llama 4."""
        config = self.model.config.get_text_config()
        if getattr(config, "use_sliding_window", True) is False:
            return False
        window = getattr(config, "sliding_window", None) or getattr(config, "attention_chunk_size", None) or 0
        return 0 < window <= tokens
