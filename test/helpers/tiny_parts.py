"""Parts of tiny models: sizes of the towers, the contents of a model folder, weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedTokenizerFast

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
DEEP_VISION = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 4}
"""A tower that takes images of any size, as Qwen and GLM name its parts."""
ANY_SIZE = {
    "patch_size": 4,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "size": {"shortest_edge": 64, "longest_edge": 1024},
}
"""Its image processor: 64 to 1024 pixels, so 4 to 16 x 4 patches."""
NORM = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.3, 0.3, 0.25]}


@dataclass
class Tiny:
    """What makes a model folder. `processor` and `images` are the settings as processor_config.json and
    preprocessor_config.json hold them; `ends` the tokens that end an answer."""

    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerFast
    template: str | None
    ends: list[str]
    images: dict[str, Any]
    processor: dict[str, Any] = field(default_factory=dict)
    more: dict[str, dict[str, Any]] = field(default_factory=dict)


@torch.no_grad()
def draw(model: nn.Module, gain: float = 1.7) -> None:
    """Draw the weights anew, wide enough that what a layer gives depends on all that it gets."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            module.weight.normal_(0.0, gain * module.weight[0].numel() ** -0.5)
    for module in model.modules():  # after the layers: some share their weights with the last one
        if isinstance(module, nn.Embedding):
            module.weight.normal_(0.0, module.weight.shape[1] ** -0.5)
    for parameter in model.parameters():
        if not parameter.any():  # biases, and gates that would hide what is behind them
            parameter.normal_(0.0, 0.3)
    model.tie_weights()


def clip_images(kind: str = "CLIPImageProcessor", **settings: Any) -> dict[str, Any]:
    square = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}, "resample": 3}
    return {"image_processor_type": kind, **square, **NORM, **settings}


def vocabulary(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }
