"""Checks of libraries, GPU, memory, disk, clock and renderer, before any node starts."""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vlm_perception.tools.checks.finding import Finding, green, red, yellow

LEAST = {
    "torch": "2.9",
    "transformers": "5",
    "numpy": "0",
    "pillow": "0",
    "simplejpeg": "0",
    "opencv-python-headless": "0",
    "pyyaml": "0",
}
"""Required packages, with the oldest version that works."""
MODULES = {"pillow": "PIL", "opencv-python-headless": "cv2", "pyyaml": "yaml"}
"""Modules of packages with another name."""
GIB = 2**30
LITTLE_MEMORY, LITTLE_DISK = 1 * GIB, 1 * GIB
BUILT = 1_760_000_000
"""Time before this package existed [s since 1970]. A clock before it was never set."""
NVIDIA_DRIVER, NVIDIA_BOARD = Path("/proc/driver/nvidia/version"), Path("/etc/nv_tegra_release")


def packages(version_of: Callable[[str], str] = version) -> list[Finding]:
    """Check that every package can be imported and is new enough; `version_of` is that of importlib.metadata."""
    findings, there = [], [f"Python {platform.python_version()}"]
    for package, least in LEAST.items():
        module, wanted = MODULES.get(package, package), package if least == "0" else f"'{package}>={least}'"
        try:
            importlib.import_module(module)
        except ImportError as error:
            missing = isinstance(error, ModuleNotFoundError) and error.name == module
            what = f"{package} is not installed" if missing else f"{package} cannot be imported: {error}"
            again = "" if missing else "--force-reinstall "
            findings.append(red("libraries", what, f"pip install {again}{wanted}"))
            continue
        try:
            found = version_of(package)
        except PackageNotFoundError:  # installed without metadata, such as Ubuntu's OpenCV
            continue
        there.append(f"{package} {found}")
        if _numbers(found) < _numbers(least):
            findings.append(
                red("libraries", f"{package} is {found}, expected {least} or newer", f"pip install {wanted}")
            )
    return findings or [green("libraries", ", ".join(there))]


def torch_and_numpy() -> list[Finding]:
    """Check that torch takes NumPy's arrays. A torch for NumPy 1 can be imported with NumPy 2, but refuses them."""
    import numpy as np
    import torch

    try:
        torch.from_numpy(np.zeros(1)).numpy()
    except RuntimeError as error:
        words = f"torch {torch.__version__} and NumPy {np.__version__} do not work together ({error})"
        return [red("libraries", words, "pip install --upgrade torch, or pip install 'numpy<2'")]
    return []


def gpu() -> list[Finding]:
    """Check that torch can use the GPU."""
    import torch

    return judge_gpu(
        torch.__version__,
        torch.version.cuda,
        [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())],
        torch.cuda.get_arch_list() if torch.cuda.is_available() else [],
        driver=NVIDIA_DRIVER.exists() or NVIDIA_BOARD.exists(),
    )


def judge_gpu(torch: str, cuda: str | None, gpus: list[Any], kernels: list[str], driver: bool) -> list[Finding]:
    """Judge the version of torch, its CUDA, its `gpus`, the architectures of its `kernels`, and the driver."""
    if not gpus and not driver:
        if cuda:
            words = f"torch {torch} is a CUDA build and there is no NVIDIA driver: models run on the CPU"
            remedy = "install the driver if there is such a GPU, else pip install torch --index-url "
            return [yellow("GPU", words, f"{remedy}https://download.pytorch.org/whl/cpu, which is smaller")]
        return [green("GPU", "none: models run on the CPU")]
    if not gpus:
        if not cuda:
            remedy = (
                "pip install torch from https://pytorch.org/get-started (on a Jetson: NVIDIA's wheel for its JetPack)"
            )
            return [yellow("GPU", f"there is an NVIDIA driver, but torch {torch} was built without CUDA", remedy)]
        words = f"there is an NVIDIA driver, but torch {torch} (CUDA {cuda}) sees no GPU"
        remedy = (
            f"update the driver for CUDA {cuda}, look at nvidia-smi and CUDA_VISIBLE_DEVICES; docker run --gpus all"
        )
        return [yellow("GPU", words, remedy)]
    findings = []
    for device in gpus:
        words = f"{device.name}, {device.total_memory / GIB:.0f} GiB, CUDA {cuda}"
        if any(_runs(kernel, device.major, device.minor) for kernel in kernels):
            findings.append(green("GPU", words))
        else:
            lacks = f"{words}: torch {torch} has no kernels for its compute capability {device.major}.{device.minor}"
            findings.append(red("GPU", lacks, "pip install a torch that was built for it, or device:=cpu"))
    return findings


def _runs(kernel: str, major: int, minor: int) -> bool:
    """Return whether code for `kernel` runs: a binary (sm_86) in its generation, PTX (compute_90) in later ones too."""
    kind, _, number = kernel.partition("_")
    built = divmod(int(re.sub(r"\D", "", number) or 0), 10)
    return built <= (major, minor) and (kind == "compute" or built[0] == major)


def images() -> list[Finding]:
    """Check that a decoder of camera messages is installed."""
    from vlm_perception.perception.colour_conversion import cv_bridge_works

    bridge, rosbags = _is_there("cv_bridge"), _is_there("rosbags.image")
    return judge_images(bridge, bridge and cv_bridge_works(), rosbags)


def judge_images(cv_bridge: bool, works: bool, rosbags: bool) -> list[Finding]:
    """Judge whether cv_bridge is there and works, and whether rosbags-image is there."""
    if works:
        return [green("images", "cv_bridge converts them")]
    if cv_bridge:
        words = "cv_bridge does not work with the NumPy that is installed (it was built for NumPy 1)"
        if rosbags:
            return [
                yellow("images", f"{words}; rosbags-image takes its place", "pip install 'numpy<2', or leave it so")
            ]
        return [red("images", words, "pip install rosbags-image, or pip install 'numpy<2'")]
    if rosbags:
        return [green("images", "rosbags-image converts them; there is no cv_bridge")]
    remedy = "pip install rosbags-image, or apt install ros-$ROS_DISTRO-cv-bridge"
    return [red("images", "there is neither cv_bridge nor rosbags-image to convert them", remedy)]


def free(folder: Path) -> list[Finding]:
    """Check the free memory, and the free space on the disk of `folder`, to which commands write."""
    from vlm_perception.models import memory  # here, since it needs packages that may be missing

    memory_left, disk_left = memory.free_memory("cpu"), shutil.disk_usage(folder).free
    findings = []
    if memory_left < LITTLE_MEMORY:
        words = f"{memory_left / GIB:.1f} GiB are free"
        findings.append(yellow("memory", words, "end other programs, or choose a small model"))
    else:
        findings.append(green("memory", f"{memory_left / GIB:.1f} GiB are free"))
    if disk_left < LITTLE_DISK:
        words = f"{disk_left / GIB:.1f} GiB are free at {folder}"
        findings.append(yellow("disk", words, "delete something: recordings, videos and builds need room"))
    else:
        findings.append(green("disk", f"{disk_left / GIB:.0f} GiB are free"))
    return findings


def clock(now: float | None = None) -> list[Finding]:
    """Check that the system's clock, `now` [s since 1970], was set."""
    now = time.time() if now is None else now
    day = time.strftime("%Y-%m-%d %H:%M", time.gmtime(now))
    if now < BUILT:
        words = f"the system's clock says {day}, it was never set: stamps of other machines lie in its future"
        return [red("clock", words, "timedatectl set-ntp true, or a battery for the board's clock")]
    return [green("clock", f"{day} UTC")]


def renderer() -> list[Finding]:
    """Check that the simulator can render."""
    try:
        from vlm_perception.simulation.room import make_room
        from vlm_perception.simulation.world import World

        with World(make_room(1), 64, 48) as world:
            world.image()
    except ImportError as error:
        return [yellow("simulator", str(error), "pip install mujoco, or do without demo and simulator")]
    except Exception as error:  # any exception of a driver
        words = f"it cannot draw: {' '.join(str(error).split())}"
        return [yellow("simulator", words, "apt install libegl1 libegl-mesa0 libgl1-mesa-dri, or do without it")]
    return [green("simulator", "draws")]


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def _numbers(words: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", words.split("+")[0])[:3])
