"""From a name or a folder to a model that answers questions. Nothing here touches the network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vlm_perception.models.base import Model, ModelError

NANO_FOLDER = Path(__file__).parent / "nano"
DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("auto", "float32", "bfloat16", "float16")


def load_model(name_or_folder: str, device: str = "auto", dtype: str = "auto") -> Model:
    """Load the shipped model ("nano") or a model folder, as `save_pretrained` or a hub download leaves it.

    `device` "auto" takes a GPU when there is one; `dtype` "auto" takes bfloat16 on a GPU that has it, float16 on an
    older one and float32 on the CPU. Raises ModelError with the remedy when it cannot be loaded, ValueError for
    an unknown device or dtype.
    """
    if device not in DEVICES and not device.startswith("cuda:"):
        raise ValueError(f"device is {device!r}, expected one of {', '.join(DEVICES)} or cuda:N")
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}, expected one of {', '.join(DTYPES)}")
    folder, family = check_folder(name_or_folder)
    try:
        import torch
        import transformers
    except ImportError as error:
        raise ModelError(f"{error.name} is not installed: pip install torch transformers") from error
    del transformers
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(
            f"device is {device!r} but torch {torch.__version__} sees no GPU: use cpu, or a CUDA build of torch"
        )
    if dtype == "auto":
        dtype = "float32"
        if device.startswith("cuda"):
            dtype = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    try:
        return FAMILIES[family](name_or_folder, folder, device, getattr(torch, dtype))
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"{folder} does not fit into the memory of {device}: choose a smaller model or dtype, or device cpu"
        ) from error


def check_folder(name_or_folder: str) -> tuple[Path, str]:
    """Return a model's folder and family without loading it. Raises ModelError when it cannot be a model."""
    folder = find_folder(name_or_folder)
    return folder, read_family(folder)


def find_folder(name_or_folder: str) -> Path:
    """Return the model's folder. Raises ModelError when there is none or it is no model."""
    if not name_or_folder.strip():
        raise ModelError("model is empty, expected 'nano' or the path of a model folder")
    folder = NANO_FOLDER if name_or_folder == "nano" else Path(name_or_folder).expanduser()
    if not folder.is_dir():
        kind = "is a file" if folder.exists() else "does not exist"
        raise ModelError(
            f"model folder {str(folder)!r} {kind}, expected 'nano' or a folder with config.json and *.safetensors. "
            "Weights are never downloaded by this package; fetch them once, e.g. "
            "`hf download google/paligemma2-3b-mix-224 --local-dir FOLDER` after accepting the licence on its page"
        )
    if not any(folder.iterdir()):
        raise ModelError(
            f"model folder {str(folder)!r} is empty, expected config.json and *.safetensors: did the download end?"
        )
    if not (folder / "config.json").is_file():
        raise ModelError(f"model folder {str(folder)!r} has no config.json, expected a folder made by save_pretrained")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"model folder {str(folder)!r} has no *.safetensors; other weight files can run code when loaded and are "
            "refused: convert them with save_pretrained"
        )
    return folder


def read_family(folder: Path) -> str:
    """Return the model type that config.json names. Raises ModelError when it is unreadable or not supported."""
    try:
        family = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{folder / 'config.json'} names no model_type ({error!r}): is it a transformers model?"
        ) from error
    if family not in FAMILIES:
        raise ModelError(f"{folder} is a {family!r} model, expected one of: {', '.join(sorted(FAMILIES))}")
    return family


def _load_paligemma(name: str, folder: Path, device: str, dtype: Any) -> Model:
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.utils import logging as transformers_logging

    from vlm_perception.models.paligemma import PaliGemma

    transformers_logging.disable_progress_bar()  # a node's log is no terminal
    try:
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model, report = AutoModelForImageTextToText.from_pretrained(
            folder,
            output_loading_info=True,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=dtype,
            attn_implementation=_exact_attention(folder),
        )
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, ImportError, SafetensorError) as error:
        if "out of memory" in str(error).lower():
            raise
        raise ModelError(
            f"{folder} cannot be loaded: {str(error).splitlines()[0]}; is the download complete?"
        ) from error
    # What the files lack gets random weights: such a model would answer, and nothing would show that it guesses.
    random = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
    if random:
        raise ModelError(f"{folder} lacks {len(random)} weights, e.g. {random[0]}: is the download complete?")
    return PaliGemma(name, folder, model.to(device), processor)


def _exact_attention(folder: Path) -> str | None:
    """The attention that computes what the model was trained with: only the eager one caps logits, as Gemma 2 does."""
    text = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("text_config") or {}
    return "eager" if text.get("attn_logit_softcapping") else None


FAMILIES: dict[str, Callable[..., Model]] = {"paligemma": _load_paligemma}
