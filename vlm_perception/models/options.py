"""How a model is loaded; the classifier's parameters have the same names."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vlm_perception.models.calibration import TYPES, Calibration

DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZATIONS = ("none", "int8", "int4")
ATTENTIONS = ("auto", "eager", "sdpa", "flash_attention_2")
EXECUTION_PROVIDERS = ("auto", "cpu", "openvino", "cuda", "tensorrt")


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded. Raises ValueError for what cannot be meant.

    `device`: auto, cpu, cuda or cuda:N; auto takes a GPU when there is one.
    `dtype`: auto, float32, bfloat16 or float16; auto takes bfloat16 on a GPU that has it, float16 on an older one and
    float32 on the CPU.
    `quantization`: none, int8 (LLM.int8()) or int4 (NF4) of the linear layers' weights, by bitsandbytes; a folder
    that is quantised already is loaded as it is.
    `attn_implementation`: auto, eager, sdpa or flash_attention_2; auto takes the fastest that is exact. Flash attention
    knows no mask of ours, so it is used for the vision tower only.
    `execution_provider`: of an exported model, what ONNX Runtime runs its vision tower on: auto, cpu, openvino, cuda or
    tensorrt; see `onnx_tower.py`.
    `tf32`: a GPU multiplies float32 in TF32, which is faster and keeps 10 bits of the mantissa.
    `cudnn_benchmark`: a GPU tries its convolutions at every new size of pictures and keeps the fastest.
    `image_size`: edge of the square [px] that the model looks at, 0 for its own; see `image_size.py`.
    `temperatures` and `empty_picture`, see `Calibration`: numbers for choice, yes_no and score; none for those in
    the folder's decision.json, if any.
    `describer`: folder of a small language model that makes sentences of what a dual encoder has found, or "".
    `request_timeout` [s] of a call of a server, with all its tries; `requests_in_flight` to it at once.
    `check_memory`: refuse a model that needs more memory than is free, before loading it.
    """

    device: str = "auto"
    dtype: str = "auto"
    quantization: str = "none"
    attn_implementation: str = "auto"
    execution_provider: str = "auto"
    tf32: bool = False
    cudnn_benchmark: bool = False
    image_size: int = 0
    temperatures: tuple[float, ...] = ()
    empty_picture: tuple[float, ...] = ()
    describer: str = ""
    request_timeout: float = 20.0
    requests_in_flight: int = 4
    check_memory: bool = True

    def __post_init__(self) -> None:
        _, _, index = self.device.partition("cuda:")
        if self.device not in DEVICES and not index.isdecimal():
            raise ValueError(f"device is {self.device!r}, expected one of {', '.join(DEVICES)} or cuda:N")
        for name, choices in (
            ("dtype", DTYPES),
            ("quantization", QUANTIZATIONS),
            ("attn_implementation", ATTENTIONS),
            ("execution_provider", EXECUTION_PROVIDERS),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(choices)}")
        if self.image_size < 0:
            raise ValueError(f"image_size is {self.image_size}, expected a number of pixels, or 0 for the model's own")
        for name in ("temperatures", "empty_picture"):
            if len(numbers := getattr(self, name)) not in (0, len(TYPES)):
                raise ValueError(
                    f"{name} has {len(numbers)} numbers, expected none or one for each of {', '.join(TYPES.values())}"
                )
        self.calibration(Calibration())

    def calibration(self, own: Calibration) -> Calibration:
        """Return the model's `own` calibration with what is given here in its place."""
        if self.temperatures:
            own = replace(own, temperatures=dict(zip(TYPES.values(), self.temperatures, strict=True)))
        if self.empty_picture:
            own = replace(own, empty_picture=dict(zip(TYPES.values(), self.empty_picture, strict=True)))
        return own
