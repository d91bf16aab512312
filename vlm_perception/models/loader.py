"""From a name, a folder or an address to a model that answers questions.

Folders are read as they are: no network, safetensors only, no code from the folder. A new family is one line in
`FAMILIES`; what is not there and has a chat template is a `ChatModel`.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from vlm_perception.models import memory
from vlm_perception.models.address import is_address, read_url, shown
from vlm_perception.models.base import Model, ModelError, ModelOutOfMemoryError
from vlm_perception.models.options import LoadOptions
from vlm_perception.models.precision import arguments, settle
from vlm_perception.models.weights import Header, read_headers, refuse_pointer

NANO_FOLDER = Path(__file__).parent / "nano"


class Family(NamedTuple):
    """`file` of this package and its class `name`; the transformers class `auto` that loads the weights."""

    file: str
    name: str
    auto: str = "AutoModelForMultimodalLM"


FAMILIES = {
    "paligemma": Family("paligemma", "PaliGemma"),
    "blip-2": Family("blip2", "Blip2"),
    "instructblip": Family("blip2", "Blip2"),
    "Blip2ForImageTextRetrieval": Family("blip2_matching", "Blip2Matching", "Blip2ForImageTextRetrieval"),
    "clip": Family("contrastive", "Contrastive", "AutoModel"),
    "siglip": Family("contrastive", "Contrastive", "AutoModel"),
    "siglip2": Family("contrastive", "Contrastive", "AutoModel"),
    "chinese_clip": Family("contrastive", "Contrastive", "AutoModel"),
}
"""By the architecture or the model_type that config.json names."""
CHAT = Family("chat", "ChatModel")


def load_model(models: str, device: str = "auto", dtype: str = "auto", **options: Any) -> Model:
    """Load the shipped model ("nano"), a model folder as `save_pretrained` or a hub download leaves it, or the model
    behind the address of a server; of several, separated by commas, the first that can be loaded.

    `options` are those of `LoadOptions`. Raises ModelError with the remedy when none can be loaded, ValueError for an
    option that cannot be meant.
    """
    return load_first(models, LoadOptions(device, dtype, **options))


def load_first(models: str, options: LoadOptions, passed_over: Callable[[str], None] = lambda reason: None) -> Model:
    """As `load_model`; `passed_over` hears, in words, of each model that was not taken, and why."""
    names = model_names(models)
    reasons = []
    for name in names:
        try:
            return _load(name, options)
        except ModelError as error:
            if len(names) == 1:
                raise
            reasons.append(str(error) if name in str(error) else f"{shown(name)}: {error}")
        passed_over(reasons[-1])
    raise ModelError(f"none of {len(names)} models can be loaded; " + "; ".join(reasons))


def model_names(models: str) -> list[str]:
    """Return the names in a list separated by commas. Raises ModelError when there is none."""
    names = [name.strip() for name in models.split(",") if name.strip()]
    if not names:
        raise ModelError("model is empty, expected 'nano', the path of a model folder or the address of a server")
    return names


def check_models(models: str) -> None:
    """Raise ModelError unless one of `models` looks like a model, as far as can be told in a moment."""
    reasons = []
    for name in model_names(models):
        try:
            if is_address(name):
                read_url(name)
            else:
                read_headers(check_folder(name)[0])
            return
        except ModelError as error:
            reasons.append(str(error))
    raise ModelError("; ".join(reasons))


def check_folder(name_or_folder: str) -> tuple[Path, dict[str, Any]]:
    """Return a model's folder and what its config.json says. Raises ModelError when it cannot be a model's."""
    folder = NANO_FOLDER if name_or_folder == "nano" else Path(name_or_folder).expanduser()
    if not folder.is_dir():
        kind = "is a file" if folder.exists() else "does not exist"
        raise ModelError(
            f"model folder {str(folder)!r} {kind}, expected 'nano' or a folder with config.json and *.safetensors. "
            "Weights are never downloaded by this package; fetch them once, e.g. "
            "`hf download google/paligemma2-3b-mix-224 --local-dir FOLDER` after accepting the licence on its page"
        )
    files = [file for file in folder.iterdir() if file.is_file()]
    if not files:
        raise ModelError(
            f"model folder {str(folder)!r} is empty, expected config.json and *.safetensors: did the download end?"
        )
    if (folder / "adapter_config.json").is_file():
        raise ModelError(f"{folder} holds an adapter: merge it into its model (peft's merge_and_unload) and save that")
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"model folder {str(folder)!r} has no config.json, expected a folder made by save_pretrained or `hf "
            "download`. Is it one folder up or down? Of a gated model one gets no more than a README before `hf auth "
            "login` and accepting its licence"
        )
    for file in files:
        if file.stat().st_size < 1024:  # as tokenizers and configurations may be pointers too
            refuse_pointer(file)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{folder / 'config.json'} names no model_type ({error!r}): is it a transformers model?"
        ) from error
    return folder, config


def _load(name: str, options: LoadOptions) -> Model:
    if is_address(name):
        return _connect(name, options)
    folder, config = check_folder(name)
    headers = read_headers(folder)
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise ModelError(f"{error.name} is not installed: pip install torch transformers") from error
    from transformers.utils import logging as transformers_logging

    from vlm_perception.models import onnx_tower
    from vlm_perception.models.calibration import Calibration
    from vlm_perception.models.image_size import see_whole_picture, set_image_size
    from vlm_perception.models.processor import load_processor

    transformers_logging.disable_progress_bar()  # a node's log is no terminal
    options = settle(options)
    if export := onnx_tower.Export.from_folder(folder):
        options = export.fit(options)
        headers[onnx_tower.TOWER_FILE] = Header("ONNX", (), export.tower_bytes)
    family = family_of(folder, config)
    kind = getattr(importlib.import_module(f"vlm_perception.models.{family.file}"), family.name)
    calibration = options.calibration(Calibration.from_folder(folder))
    with explained(folder):
        _check_memory(folder, headers, options)
        processor = load_processor(folder)
        if getattr(processor, "image_processor", None) is None:
            raise ModelError(f"{folder} is a {config['model_type']!r} model that takes no pictures: choose another one")
        see_whole_picture(processor)
        how = arguments(folder, config, options) | ({"config": onnx_tower.read_config(folder)} if export else {})
        model = _load_weights(folder, family.auto, options, **how)
        if options.image_size:
            set_image_size(model, processor, options.image_size)
        if export:
            onnx_tower.use_tower(model, folder, export, options)
        more = {"describer": _load_describer(options)} if options.describer and family.name == "Contrastive" else {}
        return kind(name, folder, model, processor, calibration, **more)


def _connect(name: str, options: LoadOptions) -> Model:
    try:
        from vlm_perception.models.calibration import Calibration
        from vlm_perception.models.remote import Limits, RemoteModel
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise ModelError(f"a model on a server needs {package}: pip install {package}") from error
    limits = Limits(timeout=options.request_timeout, in_flight=options.requests_in_flight)
    return RemoteModel(name, limits, options.calibration(Calibration()), options.image_size)


def family_of(folder: Path, config: dict[str, Any]) -> Family:
    """Find who answers for such a model. Raises ModelError, with the reason, when nobody does."""
    kind = config["model_type"]
    for name in (*(config.get("architectures") or ()), kind):
        if name in FAMILIES:
            return FAMILIES[name]
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

    if kind in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES:
        return CHAT
    if kind in CONFIG_MAPPING:
        raise ModelError(
            f"{folder} is a {kind!r} model, which does not answer questions about pictures, expected one of: "
            f"{', '.join(FAMILIES)}, or a chat model that transformers has in AutoModelForMultimodalLM"
        )
    if "auto_map" in config:
        raise ModelError(
            f"{folder} is a {kind!r} model that needs the Python code in its folder, which is never run: look for a "
            "conversion to transformers' own classes (often called OWNER/MODEL-hf)"
        )
    made = config.get("transformers_version", "of unknown version")
    raise ModelError(
        f"{folder} is a {kind!r} model, which transformers {transformers.__version__} does not know; it was saved by "
        f"transformers {made}: pip install --upgrade transformers"
    )


def _check_memory(folder: Path, headers: dict[str, Header], options: LoadOptions) -> None:
    if options.check_memory:
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        memory.check(str(folder), memory.estimate(headers, config, options), options)


def _load_weights(folder: Path, auto: str, options: LoadOptions, **how: Any) -> Any:
    """Load by the transformers class `auto`. Raises ModelError when weights are lacking."""
    import torch
    import transformers

    from vlm_perception.models.adapter import VISION_ADAPTER, merge_adapter

    model, report = getattr(transformers, auto).from_pretrained(
        folder,
        output_loading_info=True,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        dtype=getattr(torch, options.dtype),
        **how,
    )
    # What the files lack gets random weights: such a model would answer, and nothing would show that it guesses.
    random = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
    if random:
        raise ModelError(f"{folder} lacks {len(random)} weights, e.g. {random[0]}: is the download complete?")
    if (folder / VISION_ADAPTER / "adapter_config.json").is_file():
        merge_adapter(model, folder / VISION_ADAPTER)
    return model if "device_map" in how else model.to(options.device)


def _load_describer(options: LoadOptions) -> Any:
    from transformers import AutoTokenizer

    from vlm_perception.models.describer import Describer

    folder, config = check_folder(options.describer)
    _check_memory(folder, read_headers(folder), options)
    model = _load_weights(folder, "AutoModelForCausalLM", options, **arguments(folder, config, options))
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return Describer(folder, model, tokenizer)


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Say in one line, with the remedy if there is one, why a model cannot be loaded."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # transformers and what is below it raise whatever they like
        words = " ".join(str(error).split()) or type(error).__name__
        if "out of memory" in words.lower() or "can't allocate memory" in words.lower():
            raise ModelOutOfMemoryError(
                f"{folder} does not fit into memory: choose a smaller model, dtype or quantization"
            ) from error
        if package := re.search(r"pip install (?:-U |--upgrade )?[`'\"]*([A-Za-z][\w.\-\[\]]*)", words):
            raise ModelError(f"{folder} needs {package[1]}: pip install {package[1]} ({words:.200})") from error
        if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("vlm_perception"):
            raise ModelError(f"{folder} needs {error.name}: pip install {error.name}") from error
        if library := re.search(r"requires the (\w+) library but it was not found", words):
            raise ModelError(f"{folder} needs {library[1]}: pip install {library[1].lower()}") from error
        raise ModelError(f"{folder} cannot be loaded: {words:.300}; is the download complete?") from error
