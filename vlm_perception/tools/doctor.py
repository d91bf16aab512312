"""Report what this machine has and lacks, one line each; the exit status is 1 when something is missing."""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="nano", help="'nano' or the folder of a model (default: %(default)s)")


def main(arguments: argparse.Namespace) -> int:
    checks: dict[str, Callable[[], str]] = {
        "versions": _versions,
        "devices": _devices,
        "ROS": _ros,
        "Fast DDS": _fast_dds,
        "renderer": _renderer,
        "model": lambda: _model(arguments.model),
    }
    healthy = True
    for name, check in checks.items():
        try:
            print(f"ok       {name}: {check()}")
        except Exception as error:  # a report goes on, whatever is broken
            healthy = False
            print(f"MISSING  {name}: {' '.join(str(error).split())}")
    return 0 if healthy else 1


def _versions() -> str:
    def of(package: str) -> str:
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            return f"no {package}"

    packages = ("torch", "transformers", "numpy", "mujoco", "vlm_perception")
    return ", ".join([f"Python {platform.python_version()}", *map(of, packages)])


def _devices() -> str:
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join([f"{os.cpu_count()} CPU cores", *gpus])


def _ros() -> str:
    import rclpy
    from ament_index_python.packages import get_package_prefix

    return f"{rclpy.get_rmw_implementation_identifier()}, vlm_perception in {get_package_prefix('vlm_perception')}"


def _fast_dds() -> str:
    profile = os.environ.get("FASTRTPS_DEFAULT_PROFILES_FILE")
    if profile is None:
        return "no profile is set; demo and the launch files set ours, other processes lose most images without it"
    if not os.path.isfile(profile):
        raise FileNotFoundError(f"FASTRTPS_DEFAULT_PROFILES_FILE is {profile!r}, expected a file")
    return profile


def _renderer() -> str:
    from vlm_perception.simulation.room import make_room
    from vlm_perception.simulation.world import World

    world = World(make_room(1), 320, 240)
    try:
        return f"drew a room of {world.picture().shape[1]} pixels width"
    finally:
        world.close()


def _model(name: str) -> str:
    from vlm_perception.models.loader import load_model

    started = time.monotonic()
    model = load_model(name)
    facts = ", ".join(f"{key} {value}" for key, value in model.describe_self().items())
    return f"{facts}; loaded in {time.monotonic() - started:.1f} s"
