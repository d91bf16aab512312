"""Low-rank adapters beside a model's weights, merged into these weights (Hu et al., LoRA, 2021).

The language model of Phi-4-multimodal needs its adapter `vision-lora` to read images. A merged adapter costs no time
when the model answers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from vlm_perception.models.base import ModelError
from vlm_perception.models.folder import read_json

VISION_ADAPTER = "vision-lora"


@torch.no_grad()
def merge_adapter(model: Any, folder: Path) -> None:
    """Add the adapter in `folder`, as peft saves it, to the weights of `model`: scale * B @ A for each of its layers.

    Raises ModelError when the adapter is of another kind or for another model, or when the model is quantised.
    """
    from safetensors.torch import load_file

    settings = read_json(folder / "adapter_config.json")
    special = [name for name in ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern") if settings.get(name)]
    if settings.get("peft_type", "LORA") != "LORA" or special:
        raise ModelError(
            f"{folder} is an adapter of another kind ({settings.get('peft_type')} {' '.join(special)}): merge it into "
            "its model (peft's merge_and_unload) and save that"
        )
    rank = settings["r"]
    scale = settings["lora_alpha"] / (rank**0.5 if settings.get("use_rslora") else rank)
    tensors = load_file(folder / "adapter_model.safetensors")
    down = {name: tensor for name, tensor in tensors.items() if name.endswith(".lora_A.weight")}
    if not down or 2 * len(down) != len(tensors):
        raise ModelError(f"{folder} holds more or less than low-rank factors: is the download complete?")
    for name, a in down.items():
        layer_name = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        try:
            b = tensors[name.replace(".lora_A.", ".lora_B.")]
            weight = model.get_submodule(layer_name).weight
        except (KeyError, AttributeError) as error:
            raise ModelError(f"{folder} does not fit this model: {layer_name} is missing") from error
        if weight.shape != (len(b), a.shape[1]):
            raise ModelError(
                f"{folder} cannot be merged into {layer_name}, whose weights are {tuple(weight.shape)} and not "
                f"{(len(b), a.shape[1])}: is the model quantised? Then merge first, save, and quantise that"
            )
        product = b.to(weight.device, torch.float32) @ a.to(weight.device, torch.float32)
        weight += (scale * product).to(weight.dtype)
