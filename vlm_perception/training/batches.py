"""Batches of training frames: drawn from the shards on disk, mirrored, with other light and noise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vlm_perception.simulation import truth
from vlm_perception.simulation.room import COLOURS, NAMES, SHAPES
from vlm_perception.training.dataset import Shard, load_shard

COLOUR_OF = np.array([tuple(COLOURS).index(name.split()[0]) for name in NAMES])
"""Index of the colour of each name in `NAMES`."""
SHAPE_OF = np.array([SHAPES.index(name.split()[1]) for name in NAMES])
"""Index of the shape of each name in `NAMES`."""

_SWAPPED = {"left": "right", "right": "left"}
_MIRRORED_WHERE = np.array(
    [truth.WHERE.index(" ".join(_SWAPPED.get(word, word) for word in where.split())) for where in truth.WHERE]
)
_MIRRORED_WAY = np.array([truth.WAYS.index(_SWAPPED.get(way, way)) for way in truth.WAYS])
_NOISE = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0))


@dataclass
class Batch:
    """Augmented frames as tensors; see `Shard` for the meaning of the fields."""

    pixels: Tensor
    label: Tensor
    way: Tensor
    patch_thing: Tensor
    patch_share: Tensor
    patch_near: Tensor
    colour: Tensor
    shape: Tensor
    share: np.ndarray
    where: np.ndarray
    column: np.ndarray


class Frames:
    """All training frames in memory. `refresh` adds the shards that have appeared on disk."""

    def __init__(self, paths: list[Path]):
        self._waiting = list(paths)
        self._shards: list[Shard] = []
        self._index = np.zeros((0, 2), np.int32)

    def refresh(self) -> int:
        """Load the shards that are on disk by now; return the number of frames."""
        for path in [path for path in self._waiting if path.exists()]:
            self._waiting.remove(path)
            shard = load_shard(path)
            number = np.arange(len(shard.label), dtype=np.int32)
            self._index = np.vstack([self._index, np.stack([np.full_like(number, len(self._shards)), number], 1)])
            self._shards.append(shard)
        return len(self._index)

    def batch(self, rng: np.random.Generator, size: int, augment: bool = True) -> Batch:
        """Draw `size` frames at random, half of them mirrored, with other light and noise."""
        picks = self._index[rng.integers(len(self._index), size=size)]

        def gather(name: str) -> np.ndarray:
            return np.stack([getattr(self._shards[s], name)[n] for s, n in picks])

        columns = {name: gather(name) for name in Shard.__dataclass_fields__}
        return make_batch(columns, rng if augment else None)


def make_batch(columns: dict[str, np.ndarray], rng: np.random.Generator | None) -> Batch:
    """Turn the fields of some frames into tensors, augmented when `rng` is given."""
    pixels = torch.from_numpy(columns["images"]).permute(0, 3, 1, 2).float() / 127.5 - 1
    size = len(pixels)
    c = {name: value.copy() for name, value in columns.items() if name != "images"}
    if rng is not None:
        mirror = rng.random(size) < 0.5
        flag = torch.from_numpy(mirror)
        pixels[flag] = pixels[flag].flip(-1)
        for name in ("patch_thing", "patch_share"):
            c[name][mirror] = c[name][mirror][..., ::-1]
        seen = (c["share"] > 0) & mirror[:, None]
        c["where"][seen] = _MIRRORED_WHERE[c["where"][seen]]
        c["column"][seen] = 1 - c["column"][seen]
        c["way"][mirror] = _MIRRORED_WAY[c["way"][mirror]]
        contrast = torch.from_numpy(rng.uniform(0.75, 1.25, (size, 1, 1, 1))).float()
        light = torch.from_numpy(rng.uniform(-0.15, 0.15, (size, 1, 1, 1)) + rng.uniform(-0.03, 0.03, (size, 3, 1, 1)))
        strength = torch.from_numpy(rng.uniform(0, 0.04, (size, 1, 1, 1))).float()
        start = rng.integers(len(_NOISE) - pixels[0].numel(), size=size)
        noise = torch.stack([_NOISE[s : s + pixels[0].numel()].view_as(pixels[0]) for s in start])
        pixels.mul_(contrast).add_(light.float()).addcmul_(noise, strength).clamp_(-1, 1)
    thing = c["patch_thing"].reshape(size, -1).astype(np.int64)
    near = np.isin(c["where"], [i for i, w in enumerate(truth.WHERE) if w.endswith("near")])
    patch_near = np.take_along_axis(near, np.maximum(thing - 1, 0), 1) & (thing > 0)
    return Batch(
        pixels,
        torch.from_numpy(c["label"].astype(np.int64)),
        torch.from_numpy(c["way"].astype(np.int64)),
        torch.from_numpy(thing),
        torch.from_numpy(c["patch_share"].reshape(size, -1).astype(np.float32)),
        torch.from_numpy(patch_near.astype(np.float32)),
        torch.from_numpy(COLOUR_OF),
        torch.from_numpy(SHAPE_OF),
        c["share"].astype(np.float32),
        c["where"],
        c["column"].astype(np.float32),
    )
