"""The size at which the model looks at an image, and the whole image instead of its middle.

By default, the model's processor decides the size. Another size depends on the architecture:

- Towers with a table of positions for one square (CLIP, SigLIP, BLIP-2's) get a table for another square,
  interpolated bicubically, as such models are moved to another resolution (Dosovitskiy et al., An Image is Worth 16x16
  Words, 2021, section 3.2). The more it differs from the size of training, the worse the answers.
- Towers for images of any shape (Qwen-VL, GLM-4V, SigLIP 2) get at most as many pixels as the square has.
- Processors that bound the longest edge (SmolVLM, Idefics 3, Pixtral) use the edge of the square as that bound.

An image is squashed to a square. It is not padded: squashing keeps the relative positions that questions ask for, and a
padded border costs time. It is not cropped to its middle, as the processor of CLIP and LLaVA 1.5 does: a robot must
know what is at the sides.

An image that a processor would shrink a lot is halved first, which OpenCV does many times faster; see `inputs_of`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from vlm_perception.models.base import ModelError

SQUARE = {"paligemma", "llava", "vipllava", "clip", "siglip", "chinese_clip", "blip-2", "instructblip"}
"""Model types in which only the tower's table of positions depends on the size."""


ENOUGH = 1.5
"""Pixels per pixel of the model's square, along each edge, left after halving; fewer would change answers."""


def inputs_of(images: Sequence[np.ndarray], processor: Any) -> Any:
    """Return the stock `processor`'s torch tensors for RGB `images`, uint8, (height, width, 3).

    The images are halved first, while `ENOUGH` pixels remain for the processor's filter: each pixel becomes the mean
    of two by two, as with Pillow's `reducing_gap`.
    """
    process = processor.image_processor
    size = dict(process.size or {})
    if process.do_resize and (height := size.get("height")) and (width := size.get("width")):
        images = [_halved(image, ENOUGH * height, ENOUGH * width) for image in images]
    return process(images=list(images), input_data_format="channels_last", return_tensors="pt")


def _halved(image: np.ndarray, least_height: float, least_width: float) -> np.ndarray:
    height, width = image.shape[:2]
    if height % 2 or width % 2 or height / 2 < least_height or width / 2 < least_width:
        return image
    return _halved(
        cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA), least_height, least_width
    )


def see_whole_image(processor: Any) -> None:
    """Make the stock processor squash images that it would crop to the middle."""
    images = processor.image_processor
    if getattr(images, "do_center_crop", False):
        images.do_center_crop = False
        images.size = images.crop_size


def set_image_size(model: Any, processor: Any, edge: int) -> None:
    """Make model and processor look at images of `edge` x `edge` pixels, in the way of their architecture.

    Raises ModelError when the model supports no other size.
    """
    images = processor.image_processor
    size = {name: value for name, value in dict(images.size).items() if value} if images.size else {}
    kind = model.config.model_type
    if kind in SQUARE and (towers := [m for m in model.modules() if hasattr(m, "position_embedding") and _is_tower(m)]):
        for tower in towers:
            _resize_table(kind, tower, edge)
        _resize_square(model, processor, edge)
    elif hasattr(images, "max_num_patches") and hasattr(images, "patch_size"):
        images.max_num_patches = (edge // images.patch_size) ** 2
    elif hasattr(images, "merge_size") and set(size) == {"shortest_edge", "longest_edge"}:  # these are areas
        least = (images.patch_size * images.merge_size) ** 2
        if edge**2 < least:
            raise ModelError(f"image_size is {edge}, a {kind} model takes at least {math.isqrt(least)}")
        area = edge**2 * (images.temporal_patch_size if kind.startswith("glm") else 1)  # GLM counts an image as a video
        images.size = type(images.size)(shortest_edge=min(size["shortest_edge"], area), longest_edge=area)
    elif set(size) == {"longest_edge"}:
        images.size = type(images.size)(longest_edge=edge)
    else:
        raise ModelError(
            f"image_size is {edge}, but a {kind} model looks at images in its own size only: leave it at 0, or "
            "choose another model"
        )


def _is_tower(module: nn.Module) -> bool:
    return isinstance(getattr(module, "patch_embedding", None), nn.Conv2d)


def _resize_table(kind: str, tower: Any, edge: int) -> None:
    """Give the tower a table of positions for another square; a class token's position stays first."""
    patch = tower.patch_embedding.kernel_size[0]
    if edge % patch:
        raise ModelError(f"image_size is {edge}, this {kind} model needs a multiple of its patches' {patch} pixels")
    old = tower.position_embedding
    table = old.weight if isinstance(old, nn.Embedding) else old[0]
    grid = math.isqrt(len(table))
    first = len(table) - grid**2
    if first not in (0, 1):
        raise ModelError(f"image_size: this {kind} model's {len(table)} positions are those of no square")
    table = torch.cat([table[:first], _interpolated(table[first:], grid, edge // patch)])
    if isinstance(old, nn.Embedding):
        tower.position_embedding = nn.Embedding.from_pretrained(table)
        tower.position_ids = torch.arange(len(table), device=table.device).expand(1, -1)
    else:
        tower.position_embedding = nn.Parameter(table[None], requires_grad=False)
    tower.image_size = edge
    tower.num_positions, tower.num_patches = len(table), len(table) - first


@torch.no_grad()
def _interpolated(table: Tensor, old: int, new: int) -> Tensor:
    """Return the `table` (old * old, width) interpolated to (new * new, width)."""
    square = table.float().T.reshape(1, -1, old, old)
    square = interpolate(square, size=(new, new), mode="bicubic", align_corners=False)
    return square.reshape(-1, new * new).T.contiguous().to(table.dtype)


def _resize_square(model: Any, processor: Any, edge: int) -> None:
    images = processor.image_processor
    images.size = type(images.size)(height=edge, width=edge)
    config = model.config.vision_config
    config.image_size = edge
    if hasattr(processor, "image_seq_length"):  # PaliGemma's, which counts the image's tokens by that
        processor.image_seq_length = images.image_seq_length = (edge // config.patch_size) ** 2
