"""Load a model by its name, its folder or its address.

A folder is read without network; its weights must be safetensors, and no code in it is run. A new family is one line in
`FAMILIES`; any other model with a chat template is a `ChatModel`.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vlm_perception.address import models_shown
from vlm_perception.models import memory
from vlm_perception.models.base import Model, ModelError
from vlm_perception.models.explained import COMPLETE, explained
from vlm_perception.models.folder import AGAIN, NANO_FOLDER, check_folder, without_marks
from vlm_perception.models.options import LoadOptions
from vlm_perception.models.precision import arguments, settle
from vlm_perception.models.remote.endpoint import is_address
from vlm_perception.models.weights import Header, read_headers
from vlm_perception.packages import needs
from vlm_perception.questions import Choice, Text

__all__ = ["NANO_FOLDER", "check_folder", "explained", "family_of", "load_first", "load_model", "model_names"]


class Family(NamedTuple):
    """A family's module `file` and class `name` here, and the transformers class `auto` that loads its weights."""

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
    "metaclip_2": Family("contrastive", "Contrastive", "AutoModel"),
    "altclip": Family("contrastive", "Contrastive", "AutoModel"),
    "align": Family("contrastive", "Contrastive", "AutoModel"),
    "clipseg": Family("contrastive", "Contrastive", "AutoModel"),
    "groupvit": Family("contrastive", "Contrastive", "AutoModel"),
}
"""Families by the architecture or the model_type in config.json."""
CHAT = Family("chat", "ChatModel")
NO_CHAT = {
    "blip": "captions; BLIP-2 and InstructBLIP answer questions",
    "evolla": "proteins",
    "florence2": "tasks such as <CAPTION> and <OD>",
    "fuyu": "prompts of its own",
    "git": "captions",
    "got_ocr2": "reading printed text",
    "idefics": "prompts of its own; Idefics 2 and 3 have a chat template",
    "kosmos-2": "captions and the places of what they name",
    "kosmos-2.5": "reading printed text",
    "pi0": "moving an arm",
    "pix2struct": "documents and diagrams",
    "pp_chart2table": "tables in diagrams",
    "pp_formulanet": "reading formulas",
    "udop": "documents",
    "vision-encoder-decoder": "captions or reading printed text",
}
"""Purpose of models that generate text in transformers but were not trained for chat, by model_type."""
CONVERTED = {
    "llava_": "llava-hf/llava-1.5-7b-hf",
    "multi_modality": "deepseek-community/deepseek-vl-1.3b-chat",
}
"""A converted folder, by the beginning of the model_type in the authors' own folder."""
SMALL = 10_000_000
"""Number of parameters that a config may describe beyond twice those in the files: so few cost no time."""
TRIAL = (
    Choice("what is ahead?", ("clear", "obstacle")),
    Text("describe the scene", max_new_tokens=1),
)
"""Questions that a model must answer about a grey image before it counts as loaded."""


def load_model(models: str, device: str = "auto", dtype: str = "auto", **options: Any) -> Model:
    """Load the first of `models`, separated by commas, that can be loaded.

    A model is the shipped one ("nano"), a model folder as `save_pretrained` or a hub download leaves it, or the address
    of a server. `options` are those of `LoadOptions`. Raises ModelError with the remedy when none can be loaded,
    ValueError for an impossible option.
    """
    return load_first(models, LoadOptions(device, dtype, **options))


def load_first(models: str, options: LoadOptions, passed_over: Callable[[str], None] = lambda reason: None) -> Model:
    """Load as `load_model` does; `passed_over` is called with the reason for each model that cannot be loaded."""
    names = model_names(models)
    reasons = []
    for name in names:
        known = models_shown(name)[:200]
        try:
            with explained(known):
                return _load(name, options)
        except ModelError as error:
            if len(names) == 1:
                raise
            reasons.append(str(error) if known in str(error) else f"{known}: {error}")
        passed_over(reasons[-1])
    raise ModelError(f"none of {len(names)} models can be loaded; {'; '.join(reasons)}{_hint(models)}")


def model_names(models: str) -> list[str]:
    """Return the names in a list separated by commas; a name may be in single or double quotes.

    Raises ModelError when there is none, or a quote is not closed.
    """
    names = []
    for found in _NAME.finditer(models):
        name = found["quoted"] if found["quote"] else found["plain"].strip()
        if not found["quote"] and name.startswith(("'", '"')):
            raise ModelError(
                f"{name!r:.200} in the list of models begins with a quote that does not end before a comma"
            )
        names += [name] if name.strip() else []
    if not names:
        raise ModelError("model is empty, expected 'nano', the path of a model folder or the address of a server")
    return names


_NAME = re.compile(r"""\s*(?:(?P<quote>["'])(?P<quoted>.*?)(?P=quote)\s*(?:,|$)|(?P<plain>[^,]*)(?:,|$))""", re.DOTALL)


def _hint(models: str) -> str:
    """Return a hint for the error when `models` is one folder with a comma in its name, else an empty text."""
    with contextlib.suppress(Exception):
        if Path(models).expanduser().is_dir():
            return f"; {models!r} is one folder with a comma in its name: write it in quotes"
    return ""


def _load(name: str, options: LoadOptions) -> Model:
    if is_address(name):
        return _connect(name, options)
    folder, config = check_folder(name)
    headers = read_headers(folder)
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except (ImportError, OSError) as error:  # OSError: a library of CUDA is missing
        missing = error.name if isinstance(error, ModuleNotFoundError) and error.name else "torch transformers"
        raise ModelError(f"torch or transformers cannot be used ({error}): it {needs(missing)}") from error
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # it would fill a node's log
    with without_marks(folder) as files:
        model = _load_folder(name, files, config, headers, settle(options))
    model._folder = folder
    _try(model, folder)
    return model


def _load_folder(
    name: str, folder: Path, config: dict[str, Any], headers: dict[str, Header], options: LoadOptions
) -> Any:
    """Load the model of the files in `folder`, whose `config` and `headers` are given."""
    from vlm_perception.models import onnx_tower
    from vlm_perception.models.calibration import Calibration
    from vlm_perception.models.image_size import see_whole_image, set_image_size
    from vlm_perception.models.processor import load_processor

    if export := onnx_tower.Export.from_folder(folder):
        options = export.fit(options)
        headers[onnx_tower.TOWER_FILE] = Header("ONNX", (), export.tower_bytes)
    family = family_of(folder, config)
    kind = getattr(importlib.import_module(f"vlm_perception.models.{family.file}"), family.name)
    calibration = options.calibration(Calibration.from_folder(folder))
    stock = onnx_tower.read_config(folder) if export else _read_config(folder)
    _check_sizes(folder, family.auto, stock, headers)
    _check_memory(folder, stock, headers, options)
    processor = load_processor(folder)
    if getattr(processor, "image_processor", None) is None:
        raise ModelError(f"{folder} is a {config['model_type']!r} model that takes no images: choose another one")
    see_whole_image(processor)
    how = arguments(folder, config, headers, options)
    model = _load_weights(folder, family.auto, options, config=stock, **how)
    if options.image_size:
        set_image_size(model, processor, options.image_size)
    if export:
        onnx_tower.use_tower(model, folder, export, options)
    more = {"describer": _load_describer(options)} if options.describer and family.name == "Contrastive" else {}
    return kind(name, folder, model, processor, calibration, **more)


def _try(model: Model, folder: Path) -> None:
    """Ask `model` a question of each kind, to see whether its files belong together. Raises ModelError."""
    grey = np.full((96, 128, 3), 128, np.uint8)
    remedy = "do all its files belong to the same model? If not sure, download it again"
    with explained(folder, "is loaded but cannot answer", remedy):
        # A dual encoder of another language may not know these options; a description has its own phrases.
        questions = TRIAL[1:] if type(model).__name__ == "Contrastive" else TRIAL
        try:
            model.answer(grey, questions)
        except ModelError as error:
            raise error.__cause__ or error from None


def _connect(name: str, options: LoadOptions) -> Model:
    try:
        from vlm_perception.models.calibration import Calibration
        from vlm_perception.models.remote.http_client import RequestLimits
        from vlm_perception.models.remote.model import RemoteModel
    except ModuleNotFoundError as error:
        raise ModelError(f"a model on a server {needs(str(error.name))}") from error
    limits = RequestLimits(timeout=options.request_timeout, in_flight=options.requests_in_flight)
    return RemoteModel(name, limits, options.calibration(Calibration()), options.image_size)


def family_of(folder: Path, config: dict[str, Any]) -> Family:
    """Return the family of the model. Raises ModelError with the reason when there is none."""
    kind = config["model_type"]
    for name in (*(config.get("architectures") or ()), kind):
        if name in FAMILIES:
            return FAMILIES[name]
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

    if kind in NO_CHAT:
        raise ModelError(
            f"{folder} is a {kind!r} model, made for {NO_CHAT[kind]}: it was not trained to answer in a chat. "
            "Choose one of docs/models.md"
        )
    if kind in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES:
        return CHAT
    if kind in CONFIG_MAPPING:
        raise ModelError(
            f"{folder} is a {kind!r} model, which does not answer questions about images, expected one of: "
            f"{', '.join(FAMILIES)}, or a chat model that transformers has in AutoModelForMultimodalLM"
        )
    if converted := next((model for start, model in CONVERTED.items() if kind.startswith(start)), None):
        raise ModelError(
            f"{folder} is a {kind!r} model, the authors' own folder, which needs their code: take the folder that was "
            f"converted to transformers' own classes, e.g. {converted}"
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


def _read_config(folder: Path) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _check_sizes(folder: Path, auto: str, config: Any, headers: Mapping[str, Header]) -> None:
    """Raise ModelError when `config` describes a far larger model than the weights.

    transformers would fill the missing weights at random, which may take much memory and time. An integer counts as one
    weight for each of its bits.
    """
    import torch
    import transformers

    made = getattr(transformers, auto)
    with torch.device("meta"):
        model = (made.from_config if hasattr(made, "from_config") else made._from_config)(config)
    described = sum(parameter.numel() for parameter in model.parameters())
    there = sum(
        math.prod(header.shape) if header.dtype.startswith(("F", "BF")) else 8 * header.bytes
        for header in headers.values()
    )
    if described > 2 * there + SMALL:
        raise ModelError(
            f"{folder / 'config.json'} describes a model of {described / 1e6:.0f} M parameters, but the weights are "
            f"{there / 1e6:.0f} M numbers: are they of the same model? If not, {AGAIN}"
        )


def _check_memory(folder: Path, config: Any, headers: dict[str, Header], options: LoadOptions) -> None:
    """Raise ModelOutOfMemoryError when the model will not fit; if that is unknown, log a warning."""
    if not options.check_memory:
        return
    try:
        memory.check(str(folder), memory.estimate(headers, config, options), options)
    except ModelError:
        raise
    except Exception as error:
        logging.getLogger(__name__).warning("the memory that %s needs cannot be estimated: %s", folder, error)


def _load_weights(folder: Path, auto: str, options: LoadOptions, **how: Any) -> Any:
    """Load with the transformers class `auto`. Raises ModelError when weights are missing."""
    import torch
    import transformers

    from vlm_perception.models.adapter import VISION_ADAPTER, merge_adapter

    model, report = getattr(transformers, auto).from_pretrained(
        folder,
        output_loading_info=True,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # the error below names them
        dtype=getattr(torch, options.dtype),
        **how,
    )
    # Missing weights are random: the model would answer, and nothing would show that it guesses.
    random = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
    if random:
        raise ModelError(
            f"{folder} lacks {len(random)} weights, e.g. {random[0]}, in the sizes that config.json tells: {COMPLETE}"
        )
    if (folder / VISION_ADAPTER / "adapter_config.json").is_file():
        merge_adapter(model, folder / VISION_ADAPTER)
    return model if "device_map" in how else model.to(options.device)


def _load_describer(options: LoadOptions) -> Any:
    from transformers import AutoTokenizer

    from vlm_perception.models.describer import Describer

    folder, config = check_folder(options.describer)
    headers = read_headers(folder)
    with without_marks(folder) as files:
        _check_memory(files, _read_config(files), headers, options)
        how = arguments(folder, config, headers, options)
        model = _load_weights(files, "AutoModelForCausalLM", options, **how)
        tokenizer = AutoTokenizer.from_pretrained(files, local_files_only=True, trust_remote_code=False)
    return Describer(folder, model, tokenizer)
