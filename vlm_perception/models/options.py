"""Options for loading a model; the classifier's parameters have the same names."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vlm_perception.models.calibration import TYPES, Calibration
from vlm_perception.parameters import CONFIGURE, parameter

DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("auto", "float32", "tf32", "bfloat16", "float16")
QUANTIZATIONS = ("none", "int8", "int4")
ATTENTIONS = ("auto", "eager", "sdpa", "flash_attention_2")
EXECUTION_PROVIDERS = ("auto", "cpu", "openvino", "cuda", "tensorrt")


@dataclass(frozen=True)
class LoadOptions:
    """Options for loading a model. Raises ValueError for impossible values.

    `device` auto is a GPU if there is one. `dtype` auto is bfloat16 on a GPU that has it, float16 on an older GPU and
    float32 on the CPU; tf32 is float32 that a GPU multiplies faster, with 10 bits of the mantissa.
    `quantization` is LLM.int8() or NF4 of the linear layers' weights, by bitsandbytes; a quantised folder is loaded
    as it is. `execution_provider`: see `onnx_tower.py`; `image_size`: see `image_size.py`.
    `attn_implementation` auto is the fastest exact one; flash attention does not support our masks, so it is used for
    the vision tower only. `temperatures` and `empty_picture`: numbers for choice, yes_no and score in place of
    those in the folder's decision.json, see `Calibration`. `request_timeout` [s] of a call of a server, with all its
    tries; `requests_in_flight` to it at once.
    """

    device: str = parameter("auto", "Device of the model: auto, cpu, cuda or cuda:N", when=CONFIGURE)
    dtype: str = parameter("auto", "Precision of the model", choices=DTYPES, when=CONFIGURE)
    quantization: str = parameter(
        "none", "Quantization of the weights in linear layers, by bitsandbytes", choices=QUANTIZATIONS, when=CONFIGURE
    )
    image_size: int = parameter(
        0,
        "Edge of the square image that the model looks at. A smaller one is faster; 0: the model's own",
        unit="pixels",
        minimum=0,
        maximum=4096,
        when=CONFIGURE,
    )
    execution_provider: str = parameter(
        "auto",
        "ONNX Runtime provider that runs the vision tower of an exported model",
        choices=EXECUTION_PROVIDERS,
        when=CONFIGURE,
    )
    describer: str = parameter(
        "", "Folder of a language model that writes descriptions for a dual encoder; empty: none", when=CONFIGURE
    )
    check_memory: bool = parameter(
        True, "Refuse a model that needs more memory than is free, before loading it", when=CONFIGURE
    )
    attn_implementation: str = "auto"
    temperatures: tuple[float, ...] = ()
    empty_picture: tuple[float, ...] = ()
    request_timeout: float = 20.0
    requests_in_flight: int = 4

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
        """Return the model's `own` calibration with the values of these options in place of its own."""
        if self.temperatures:
            own = replace(own, temperatures=dict(zip(TYPES.values(), self.temperatures, strict=True)))
        if self.empty_picture:
            own = replace(own, empty_picture=dict(zip(TYPES.values(), self.empty_picture, strict=True)))
        return own
