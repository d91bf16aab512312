"""A vision tower that ONNX Runtime runs in place of torch; the rest of the model stays in torch.

`vlm_perception export` makes such a model folder (see `onnx_export.py`): the original without the layers of its tower,
the tower as `vision_tower.onnx`, and facts about it in `export.json`. The user gives it as `model`, like any other
folder. The text tower of a dual encoder stays in torch, since it reads a vocabulary only once.

Pixels and features go through the host's memory, also for a GPU: they are less than a megabyte per image.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vlm_perception.models.base import ModelError
from vlm_perception.models.folder import read_json
from vlm_perception.models.options import LoadOptions

TOWER_FILE = "vision_tower.onnx"
FACTS_FILE = "export.json"
INPUT, OUTPUT = "pixel_values", "features"
READ = {
    "paligemma": "last_hidden_state",
    "blip-2": "last_hidden_state",
    "instructblip": "last_hidden_state",
    "clip": "pooler_output",
    "siglip": "pooler_output",
    "chinese_clip": "pooler_output",
    "gemma3": "last_hidden_state",
    "llava": "hidden_states",
}
"""What the rest of a model reads of its vision tower's output, by model_type; other models cannot be exported."""
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
"""Names that ONNX Runtime has for the values of `execution_provider`."""
PACKAGES = {"openvino": "onnxruntime-openvino", "cuda": "onnxruntime-gpu", "tensorrt": "onnxruntime-gpu and tensorrt"}
MAX_BATCH = 16
"""Most images in one run, for which TensorRT builds its engine; more are split."""
_TOWER = re.compile(r"(^|\.)(vision_tower|vision_model)$")
_LAYERS = re.compile(r"(^|\.)(vision_tower|vision_model)\.(.+\.)?(layers|head)\.")


def is_replaced(weight: str) -> bool:
    """Whether an exported folder lacks this `weight`: it is one of the tower's layers or its head."""
    return bool(_LAYERS.search(weight))


def find_tower(model: nn.Module) -> tuple[nn.Module, str]:
    """Return the module that holds the vision tower and the name it has there."""
    for name, _ in model.named_modules():
        if _TOWER.search(name):
            holder, _, child = name.rpartition(".")
            return model.get_submodule(holder), child
    raise ModelError(f"a {type(model).__name__} has no vision tower of its own")


@dataclass(frozen=True)
class Read:
    """The `field` that the rest of a model reads of its vision tower's output; of `hidden_states`, one `layer`."""

    field: str
    layer: int = 0

    @classmethod
    def by(cls, config: Any) -> Read:
        """Return it by the model's configuration. Raises ModelError when its tower cannot be exported."""
        layer = getattr(config, "vision_feature_layer", 0)
        if config.model_type not in READ or not isinstance(layer, int):
            raise ModelError(
                f"this is a {config.model_type!r} model, whose vision tower cannot be taken out, expected one of: "
                f"{', '.join(READ)} (of which one layer is read)"
            )
        return cls(READ[config.model_type], layer)

    def of(self, output: BaseModelOutputWithPooling) -> Tensor:
        """Return the part of the tower's `output` that is read."""
        found = getattr(output, self.field)
        return found[self.layer] if self.field == "hidden_states" else found

    def put(self, features: Tensor) -> BaseModelOutputWithPooling:
        """Return an output that has only these `features`."""
        if self.field == "hidden_states":
            return BaseModelOutputWithPooling(hidden_states=(features,) * (abs(self.layer) + 1))
        return BaseModelOutputWithPooling(**{self.field: features})


@dataclass(frozen=True)
class Export:
    """The content of `export.json`.

    `precision` is float32 or int8, `pixels` the (channels, height, width) of an image, `image_size` that of
    `LoadOptions` at the export, `opset` that of the ONNX file. The other fields compare the export with the original:
    the share of equal answers out of `asked`, the largest difference of a probability, and bytes.
    """

    precision: str
    pixels: tuple[int, int, int]
    image_size: int
    opset: int
    agreement: float = 0.0
    asked: int = 0
    largest_difference: float = 1.0
    tower_bytes: int = 0
    tower_bytes_before: int = 0

    @classmethod
    def from_folder(cls, folder: Path) -> Export | None:
        """Read an exported folder's facts; None for other folders. Raises ModelError when they cannot be used."""
        if not (folder / FACTS_FILE).is_file():
            return None
        if not (folder / TOWER_FILE).is_file():
            raise ModelError(f"{folder} has {FACTS_FILE} but no {TOWER_FILE}: copy the whole exported folder")
        try:
            facts = read_json(folder / FACTS_FILE)
            return cls(**facts | {"pixels": tuple(facts["pixels"])})
        except (ValueError, TypeError, KeyError) as error:
            raise ModelError(f"{folder / FACTS_FILE} cannot be read ({error!r}): export the model again") from error

    def fit(self, options: LoadOptions) -> LoadOptions:
        """Return the options for this export. Raises ModelError for another image_size, since the tower's is fixed."""
        if options.image_size not in (0, self.pixels[-1]):
            raise ModelError(
                f"image_size is {options.image_size}, but this model was exported for {self.pixels[-1]}: leave it at "
                "0, or export the original again with another --image-size"
            )
        return dataclasses.replace(options, image_size=self.image_size)


def read_config(folder: Path) -> Any:
    """Return the transformers configuration of an exported folder, which makes only the layers that have weights."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    config.vision_config.num_hidden_layers = 0
    config.vision_config.vision_use_head = False  # for SigLIP; others ignore it
    return config


class OnnxTower(nn.Module):
    """Replacement of the torch tower.

    It takes (images, channels, height, width) of any float dtype. It returns what the model reads, in the same dtype
    and on the same device.
    """

    def __init__(self, session: Any, read: Read, precision: str, size: int) -> None:
        super().__init__()
        self._session = session
        self._read = read
        self._precision = precision
        self._size = size

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        portions = pixel_values.float().contiguous().cpu().split(MAX_BATCH)
        found = [self._session.run([OUTPUT], {INPUT: portion.numpy()})[0] for portion in portions]
        features = torch.cat([torch.from_numpy(part) for part in found]).to(pixel_values.device, pixel_values.dtype)
        return self._read.put(features)

    def __str__(self) -> str:
        import onnxruntime

        provider = self._session.get_providers()[0].removesuffix("ExecutionProvider")
        return f"{self._precision}, {self._size >> 20} MiB, ONNX Runtime {onnxruntime.__version__} on {provider}"


def use_tower(model: Any, folder: Path, export: Export, options: LoadOptions) -> None:
    """Replace the vision tower of a transformers `model` by the exported one. Raises ModelError, see `open_session`."""
    holder, name = find_tower(model)
    file = folder / TOWER_FILE
    session = open_session(file, options, export.pixels)
    size = sum(part.stat().st_size for part in parts_of(file))
    setattr(holder, name, OnnxTower(session, Read.by(model.config), export.precision, size))


def open_session(file: Path, options: LoadOptions, pixels: tuple[int, int, int]) -> Any:
    """Return an ONNX Runtime session for `file`, which takes images of the shape `pixels`.

    With `options.execution_provider` auto, the first of these that starts is used: CUDA if the model is
    on a GPU, OpenVINO, the CPU. TensorRT is used only on request, since it builds its engine for minutes; the engine is
    kept in ~/.cache/vlm_perception. Raises ModelError when ONNX Runtime or the provider is missing.
    """
    onnxruntime = import_onnxruntime()
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4  # errors are reported below
    settings.intra_op_num_threads = torch.get_num_threads()
    # Otherwise its threads would spin until the next image, on cores that torch needs.
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    reasons = []
    for name in choose(options, onnxruntime.get_available_providers()):
        try:
            providers: list[Any] = [(PROVIDERS[name], provider_settings(name, file, options, pixels))]
            if name != "cpu":
                providers.append(PROVIDERS["cpu"])  # for operators that the other one lacks
            session = onnxruntime.InferenceSession(str(file), settings, providers=providers, enable_fallback=0)
        except Exception as error:  # the exceptions of ONNX Runtime have no common base
            reasons.append(f"{name}: {' '.join(str(error).split()):.300}")
            continue
        if session.get_providers()[0] == PROVIDERS[name]:
            return session
        reasons.append(f"{name} does not start: is {PACKAGES[name]} installed, with all its libraries?")
    raise ModelError(
        f"{file} cannot be used ({'; '.join(reasons)}): choose another execution_provider, or export the model again"
    )


def import_onnxruntime() -> Any:
    """Return the module `onnxruntime`. Raises ModelError, which names the extra, when it is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError(
            "an exported model needs ONNX Runtime: pip install onnxruntime (or onnxruntime-openvino, or "
            "onnxruntime-gpu), or this package with its extra [onnx]"
        ) from error
    return onnxruntime


def choose(options: LoadOptions, there: Sequence[str]) -> list[str]:
    """Return which of the providers that are `there` to try, in this order. Raises ModelError when there is none."""
    names = [name for name, provider in PROVIDERS.items() if provider in there]
    if options.execution_provider == "auto":
        wanted = ("cuda", "cpu") if options.device.startswith("cuda") else ("openvino", "cpu")
        return [name for name in wanted if name in names]
    if options.execution_provider not in names:
        raise ModelError(
            f"execution_provider is {options.execution_provider!r}, but ONNX Runtime has only {', '.join(names)} here: "
            f"pip install {PACKAGES[options.execution_provider]}, or choose one of these"
        )
    return [options.execution_provider]


def parts_of(file: Path) -> list[Path]:
    """Return `file` and the files beside it that hold its weights, if any."""
    return sorted(file.parent.glob(f"{file.name}*"))


def cache_folder(file: Path) -> Path:
    """Make and return the folder for engines built on this machine from `file` and its weights.

    TensorRT names an engine by the model's file name and graph, so the same tower with other weights would use it too.
    Raises OSError when the files cannot be read or the folder cannot be made.
    """
    digest = hashlib.sha256()
    for part in parts_of(file):
        with open(part, "rb") as data:
            while block := data.read(1 << 20):
                digest.update(block)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "vlm_perception" / digest.hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def provider_settings(
    provider: str, file: Path, options: LoadOptions, pixels: tuple[int, int, int]
) -> Mapping[str, str]:
    """Return the provider's own options for `file`, see https://onnxruntime.ai/docs/execution-providers.

    Raises OSError, see `cache_folder`.
    """
    number = options.device.partition(":")[2] or "0"
    if provider == "tensorrt":
        shape = "x".join(map(str, pixels))
        return {
            "device_id": number,
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": str(cache_folder(file)),
            "trt_fp16_enable": str(options.dtype == "float16"),
            "trt_profile_min_shapes": f"{INPUT}:1x{shape}",
            "trt_profile_opt_shapes": f"{INPUT}:1x{shape}",
            "trt_profile_max_shapes": f"{INPUT}:{MAX_BATCH}x{shape}",
        }
    if provider == "openvino":
        threads = str(torch.get_num_threads())
        return {"device_type": "CPU", "num_of_threads": threads, "cache_dir": str(cache_folder(file))}
    return {"device_id": number} if provider == "cuda" else {}
