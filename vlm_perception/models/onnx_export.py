"""Export a model to a folder whose vision tower ONNX Runtime runs, and compare it with the original.

INT8 is static quantisation (Jacob et al., Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference, 2018): weights to 8 bits per output channel, and inputs of products to 8 bits in
the range that they had on the user's own images. Results of products are float32. Products of attention, which have no
weights, stay in float32: quantising them costs accuracy and was not faster.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import AutoConfig

from vlm_perception.models.base import Model, ModelError
from vlm_perception.models.loader import check_folder, load_model
from vlm_perception.models.onnx_tower import (
    FACTS_FILE,
    INPUT,
    OUTPUT,
    TOWER_FILE,
    Export,
    Read,
    find_tower,
    import_onnxruntime,
    is_replaced,
)
from vlm_perception.models.weights import INDEX, WHOLE, weight_files
from vlm_perception.questions import ClosedQuestion

OPSET = 20
"""Version of the operators, which all execution providers support. Version 23 has attention as one operator, which is
faster on the CPU; OpenVINO does not support it."""
LEAST_AGREEMENT = 0.99
EXACT = 0.01
"""Largest difference of a probability between a float32 export and the original."""
_COPIED = {".json", ".jinja", ".txt", ".model"}
"""Endings of a model folder's files besides weights: configurations, templates, vocabularies."""

Asked = Sequence[tuple[np.ndarray, Sequence[ClosedQuestion]]]
"""Images, RGB uint8 (height, width, 3), each with the questions about it."""


def export(
    model: str,
    output: Path,
    check: Asked,
    calibration: Sequence[np.ndarray] = (),
    *,
    image_size: int = 0,
    opset: int = OPSET,
    least_agreement: float = LEAST_AGREEMENT,
) -> Export:
    """Write the folder `output`, whose answers to `check` are those of `model` (a folder or "nano"), and compare.

    With `calibration`, images RGB uint8 (height, width, 3), the tower is INT8, else float32. Raises ModelError,
    and leaves nothing, when the model has no tower to export, a package is missing, or less than a share
    `least_agreement` of the answers agree; FileExistsError when `output` exists.
    """
    if output.exists():
        raise FileExistsError(f"{output} exists: give a new folder, or remove it")
    if not check:
        raise ModelError("no images to compare the export with the original on: give some")
    folder, _ = check_folder(model)
    read = Read.by(AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False))
    if (folder / FACTS_FILE).exists():
        raise ModelError(f"{folder} is exported already: export the original again")
    _import_exporter()
    original: Any = load_model(model, "cpu", "float32", image_size=image_size)
    stock = original._model
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as scratch:
        made = Path(scratch, "made")
        made.mkdir()
        holder, name = find_tower(stock)
        tower = getattr(holder, name)
        pixels = _pixels(original, tower, check[0][0], check[0][1])
        tower_bytes = sum(weight.numel() * weight.element_size() for weight in tower.parameters())
        whole = Path(scratch, TOWER_FILE) if calibration else made / TOWER_FILE
        _write_tower(_Reading(tower, read), pixels, whole, opset)
        if calibration:
            seen = tqdm(calibration, "reading ranges", unit="image", disable=None)
            ranges = [_pixels(original, tower, image, check[0][1]).numpy() for image in seen]
            _quantize(whole, made / TOWER_FILE, ranges)
        _copy_rest(folder, made)
        report = Export(
            precision="int8" if calibration else "float32",
            pixels=tuple(pixels.shape[1:]),
            image_size=image_size,
            opset=opset,
            tower_bytes=sum(file.stat().st_size for file in made.glob(f"{TOWER_FILE}*")),
            tower_bytes_before=tower_bytes,
        )
        _write_facts(report, made)
        report = _compare(original, load_model(str(made), "cpu", "float32", execution_provider="cpu"), check, report)
        _refuse(report, least_agreement)
        _write_facts(report, made)
        made.rename(output)
    return report


def _refuse(report: Export, least_agreement: float) -> None:
    """Raise ModelError unless the export answers like the original."""
    said = (
        f"{report.agreement:.2%} of {report.asked} answers are those of the original, and probabilities differ by up "
        f"to {report.largest_difference:.3g}"
    )
    if report.precision == "float32" and report.largest_difference > EXACT:
        raise ModelError(f"the export is not the same model, and is not kept: {said}, expected at most {EXACT:g}")
    if report.agreement < least_agreement:
        raise ModelError(
            f"the export disagrees with the original, and is not kept: {said}, expected at least "
            f"{least_agreement:.2%} to agree; for int8 calibrate with more images of the robot's own, or take float32"
        )


def _compare(original: Model, exported: Model, check: Asked, report: Export) -> Export:
    same, differences = [], []
    for image, questions in tqdm(check, "comparing", unit="image", disable=None):
        for one, other in zip(original.answer(image, questions), exported.answer(image, questions), strict=True):
            same.append(one.value == other.value)
            differences += [abs(p - q) for p, q in zip(one.probabilities, other.probabilities, strict=True)]
    return dataclasses.replace(
        report, agreement=sum(same) / len(same), asked=len(same), largest_difference=max(differences)
    )


# The tower


class _Reading(nn.Module):
    """A vision tower that returns only what the rest of the model reads."""

    def __init__(self, tower: nn.Module, read: Read) -> None:
        super().__init__()
        self.tower = tower
        self._read = read

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self._read.of(self.tower(pixel_values, output_hidden_states=self._read.field == "hidden_states"))


def _pixels(model: Any, tower: nn.Module, image: np.ndarray, questions: Sequence[ClosedQuestion]) -> Tensor:
    """Return the tower's input for this image, (1, channels, height, width)."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, arguments: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        seen.append(arguments[0] if arguments else named[INPUT])

    hook = tower.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        model.answer(image.copy(), questions)
    finally:
        hook.remove()
    return seen[-1].clone()


def _write_tower(tower: nn.Module, pixels: Tensor, file: Path, opset: int) -> None:
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            tower.eval(),
            (pixels.repeat(2, 1, 1, 1),),  # a batch of one would become a constant
            dynamo=True,
            opset_version=opset,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
        program.save(str(file))


def _quantize(file: Path, output: Path, pixels: Sequence[np.ndarray]) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Pixels(CalibrationDataReader):
        def __init__(self) -> None:
            self._left = iter(pixels)

        def get_next(self) -> dict[str, np.ndarray] | None:
            some = next(self._left, None)
            return None if some is None else {INPUT: some}

    graph = onnx.load(str(file), load_external_data=False).graph
    weights = {weight.name for weight in graph.initializer}
    without = [node.name for node in graph.node if node.op_type == "MatMul" and not weights & set(node.input)]
    with _quiet():
        quantize_static(
            str(file),
            str(output),
            Pixels(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul", "Gemm"],
            nodes_to_exclude=without,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
        )


# The rest of the folder


def _copy_rest(folder: Path, output: Path) -> None:
    """Copy everything except the tower's weights; other weights keep their precision."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    files = weight_files(folder)
    for file in folder.rglob("*"):
        part = file.relative_to(folder)
        hidden = any(name.startswith(".") for name in part.parts)  # files of the download itself
        if file.is_file() and file.suffix in _COPIED and file.name != INDEX and not hidden:
            (output / part).parent.mkdir(exist_ok=True)
            shutil.copy(file, output / part)
    kept: dict[str, Tensor] = {}
    for file in files:
        with safe_open(file, "pt") as weights:
            kept |= {name: weights.get_tensor(name) for name in weights.keys() if not is_replaced(name)}  # noqa: SIM118 - no dict
    save_file(kept, output / WHOLE, metadata={"format": "pt"})
    (output / WHOLE).chmod(0o644)  # safetensors makes it readable by its owner only


def _write_facts(report: Export, folder: Path) -> None:
    (folder / FACTS_FILE).write_text(json.dumps(dataclasses.asdict(report), indent=2) + "\n", encoding="utf-8")


def _import_exporter() -> None:
    """Raise ModelError, which names the extra, when a package for the export is missing."""
    import_onnxruntime()
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ModelError(
            f"the export needs {error.name}: pip install onnx onnxscript, or this package with its extra [onnx]"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the warnings of the exporter and the quantiser: a user cannot act on them."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
