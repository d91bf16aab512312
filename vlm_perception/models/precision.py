"""Device, precision and attention: from `LoadOptions` to the settings of torch and transformers."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_perception.models.base import ModelError
from vlm_perception.models.options import LoadOptions
from vlm_perception.models.weights import Header


def settle(options: LoadOptions) -> LoadOptions:
    """Return the options without auto, and set the global options of torch. ModelError when the GPU does not exist."""
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device, dtype = options.device, options.dtype
    if device == "auto":
        device = "cuda" if gpus else "cpu"
    if device == "cpu":
        return dataclasses.replace(options, device=device, dtype="float32" if dtype in ("auto", "tf32") else dtype)
    if not gpus:
        raise ModelError(
            f"device is {device!r} but torch {torch.__version__} sees no GPU: use cpu, or a CUDA build of torch"
        )
    if (index := int(device.partition(":")[2] or 0)) >= gpus:
        raise ModelError(f"device is {device!r} but there are {gpus} GPUs: the last is cuda:{gpus - 1}, not {index}")
    if dtype == "auto":
        dtype = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
    torch.backends.cudnn.conv.fp32_precision = "tf32" if dtype == "tf32" else "ieee"
    torch.backends.cudnn.benchmark = True  # all images have the same size
    return dataclasses.replace(options, device=device, dtype="float32" if dtype == "tf32" else dtype)


def arguments(
    folder: Path, config: dict[str, Any], headers: Mapping[str, Header], options: LoadOptions
) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` for quantisation and attention.

    Raises ModelError when `options` or config.json contradict the weights.
    """
    how: dict[str, Any] = {"attn_implementation": _attention(folder, config, options)}
    stored = config.get("quantization_config") or (config.get("text_config") or {}).get("quantization_config")
    if stored and options.quantization != "none":
        raise ModelError(
            f"{folder} is quantised already ({stored.get('quant_method')}), so quantization has to be none, not "
            f"{options.quantization}"
        )
    if stored and stored.get("quant_method") == "bitsandbytes" and not _holds_integers(headers):
        raise ModelError(
            f"{folder} says in config.json that bitsandbytes has quantised it, but its weights are not: take "
            "quantization_config out of config.json, and set the parameter quantization if they shall be"
        )
    if options.quantization != "none":
        how["quantization_config"] = _quantization(options)
    if stored or options.quantization != "none":
        how["device_map"] = {"": options.device}  # quantised on the device where it runs
    return how


def _quantization(options: LoadOptions) -> Any:
    lacking = [package for package in ("accelerate", "bitsandbytes") if not importlib.util.find_spec(package)]
    if lacking:
        raise ModelError(
            f"quantization {options.quantization} needs {' and '.join(lacking)}: pip install {' '.join(lacking)}, or "
            "this package with its extra [quantization]"
        )
    import torch
    from transformers import BitsAndBytesConfig

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it logs each product that it casts
    if options.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    dtype = getattr(torch, options.dtype)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def _attention(folder: Path, config: dict[str, Any], options: LoadOptions) -> str | dict[str, str] | None:
    """Return the attention that computes exactly: only the eager one supports the capped logits of Gemma 2."""
    capped = bool((config.get("text_config") or {}).get("attn_logit_softcapping"))
    if options.attn_implementation == "auto":
        return {"text_config": "eager"} if capped else None
    if options.attn_implementation == "flash_attention_2":
        if options.device == "cpu" or not importlib.util.find_spec("flash_attn"):
            raise ModelError("attn_implementation flash_attention_2 needs a GPU and flash-attn: pip install flash-attn")
        return {"vision_config": "flash_attention_2", "text_config": "eager" if capped else "sdpa"}
    if capped and options.attn_implementation != "eager":
        raise ModelError(
            f"{folder} caps the logits of its attention, which {options.attn_implementation} does not: "
            "attn_implementation has to be auto or eager"
        )
    return options.attn_implementation


def _holds_integers(headers: Mapping[str, Header]) -> bool:
    return any(header.dtype in ("I8", "U8") for header in headers.values())
