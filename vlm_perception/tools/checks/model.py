"""Checks of a model and its memory, without loading its weights."""

from __future__ import annotations

import importlib.util
import socket
from typing import Any
from urllib.parse import urlsplit

from vlm_perception.models import memory
from vlm_perception.models.base import ModelError, ModelOutOfMemoryError
from vlm_perception.models.explained import explained
from vlm_perception.models.folder import check_folder, without_marks
from vlm_perception.models.loader import family_of, model_names
from vlm_perception.models.options import LoadOptions
from vlm_perception.models.precision import settle
from vlm_perception.models.remote.endpoint import is_address, key_for, proxy_for, read_endpoint
from vlm_perception.models.scope import Scope
from vlm_perception.models.weights import Header, read_headers
from vlm_perception.tools.checks.finding import Finding, Severity, green, red, yellow
from vlm_perception.tools.machine import processor

CONNECT_TIMEOUT = 3.0
"""Time limit of a connection [s]."""
BIG = 1_000_000_000
"""Number of parameters above which bfloat16 is worth its rounding, on a CPU that multiplies in it."""
BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}
QUANTIZING = ("accelerate", "bitsandbytes")
PRECISIONS = (("bfloat16", "none"), ("float16", "none"), ("auto", "int8"), ("auto", "int4"))
"""Smaller formats of weights, dtype and quantization, in the order of advice."""


def models(given: str) -> list[Finding]:
    """Check the models `given`, separated by commas, up to the first that will be used."""
    try:
        names = model_names(given)
    except ModelError as error:
        return [red("model", str(error), "--model nano")]
    findings: list[Finding] = []
    for name in names:
        finding = _server(name) if is_address(name) else _folder(name)
        if finding.level is not Severity.RED:
            return [*findings, finding]
        if name != names[-1]:
            finding = yellow("model", f"{finding.words}; the next one is tried", finding.remedy)
        findings.append(finding)
    return findings


def _server(url: str) -> Finding:
    try:
        there, _ = read_endpoint(url)
        key_for(there)
        proxy = proxy_for(there)
        parts = urlsplit(proxy[0] if proxy else there)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((parts.hostname, port), CONNECT_TIMEOUT):
            return green("model", f"the proxy of {proxy[1]} takes connections" if proxy else f"{url} takes connections")
    except ModelError as error:
        return red("model", str(error), "an address such as http://gpu.local:8000#model-name")
    except (OSError, UnicodeError) as error:
        return red(
            "model", f"{url} cannot be reached: {error}", "start the server, look at its address, port and firewall"
        )


def _folder(name: str) -> Finding:
    """Run all checks of the loader that need no weights."""
    try:
        with explained(name):
            return _examined(name)
    except ModelError as error:
        return red("model", str(error), "as it says, or another model")


def _examined(name: str) -> Finding:
    from transformers import AutoConfig

    from vlm_perception.models import onnx_tower
    from vlm_perception.models.processor import load_processor

    folder, config = check_folder(name)
    scope = Scope.from_folder(folder)
    headers = read_headers(folder)
    family = family_of(folder, config)
    if export := onnx_tower.Export.from_folder(folder):
        onnx_tower.import_onnxruntime()
        headers[onnx_tower.TOWER_FILE] = Header("ONNX", (), export.tower_bytes)
    with without_marks(folder) as files:
        load_processor(files)
        stock = AutoConfig.from_pretrained(files, local_files_only=True, trust_remote_code=False)
    usual = settle(LoadOptions())
    need, left = memory.estimate(headers, stock, usual), memory.free_memory(usual.device)
    exported = f" with its vision tower in ONNX, {export.precision}" if export else ""
    what = (
        f"{folder}, {config['model_type']} by {family.name}{exported}, {need.parameters / 1e6:.1f} M parameters: takes "
        f"{(need.weights + need.working) / 2**20:.0f} MiB of {left / 2**20:.0f} on {usual.device} in {usual.dtype}"
    )
    if _fits(headers, stock, usual):
        if scope:
            remedy = "good for the demo and the simulator; on a robot use real weights, as the README says"
            return yellow("model", f"{what}; {scope.about}", remedy)
        is_slow = usual.device == "cpu" and need.parameters > BIG and BFLOAT16 & {*processor()[1]}
        return green("model", what + ("; dtype bfloat16 is faster here" if is_slow else ""))
    for dtype, quantization in PRECISIONS:
        if quantization != "none" and "quantization_config" in config:
            continue
        if _fits(headers, stock, settle(LoadOptions(dtype=dtype, quantization=quantization))):
            how = f"dtype: {dtype}" if quantization == "none" else f"quantization: {quantization}"
            lacks = [package for package in QUANTIZING if not importlib.util.find_spec(package)]
            extra = f" (pip install {' '.join(lacks)})" if quantization != "none" and lacks else ""
            return red("model", f"{what}: too big", f"{how}{extra} makes it fit; or end other programs")
    return red(
        "model", f"{what}: too big in any precision", "a smaller model, one that is quantised already, or a server"
    )


def _fits(headers: Any, config: Any, options: LoadOptions) -> bool:
    try:
        memory.check("it", memory.estimate(headers, config, options), options)
    except ModelOutOfMemoryError:
        return False
    return True
