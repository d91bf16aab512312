"""Checks of ROS, its middleware, and the settings for the transport of images."""

from __future__ import annotations

import ctypes
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

from vlm_perception.tools.checks.finding import Finding, green, red, yellow

DISTRIBUTIONS = Path("/opt/ros")
SHARED_MEMORY = Path("/dev/shm")
RECEIVE_BUFFER = Path("/proc/sys/net/core/rmem_max")
MIB = 2**20
SEGMENT, LARGEST_MESSAGE = 64 * MIB, 16 * MIB
"""Shared memory of each process by our profile, and the largest message [bytes]."""
ENOUGH_BUFFER = 4 * MIB
"""UDP receive buffer for images, which arrive in thousands of packets [bytes]."""
SAFE_DOMAINS = range(0, 102)
"""ROS domains whose ports lie below those that Linux gives to other programs."""
RANGES = ("", "SUBNET", "LOCALHOST", "OFF", "SYSTEM_DEFAULT")


def ros(environment: Mapping[str, str]) -> list[Finding]:
    """Check that ROS is installed, sourced and has this package's messages."""
    if wanted := environment.get("RMW_IMPLEMENTATION"):
        try:
            ctypes.CDLL(f"lib{wanted}.so")  # rclpy would end the process
        except OSError as error:
            return [_no_middleware(wanted, error)]
    try:
        import rclpy
    except ImportError as error:
        return [_no_ros(error)]
    where = Path(rclpy.__file__)
    name = environment.get("ROS_DISTRO") or "from wheels"
    findings = []
    sourced = [
        path for path in environment.get("AMENT_PREFIX_PATH", "").split(":") if path.startswith(str(DISTRIBUTIONS))
    ]
    if sourced and where.is_relative_to(sys.prefix) and not where.is_relative_to(DISTRIBUTIONS):
        words = f"rclpy comes from {sys.prefix} and {sourced[0]} is sourced: libraries of two ROS mix"
        findings.append(
            yellow("ROS", words, "a shell that has not sourced the other one, or leave the virtual environment")
        )
    try:
        import vlm_perception.msg  # noqa: F401
    except ImportError as error:
        words = f"the messages of this package are not there ({error})"
        remedy = "colcon build and source install/setup.bash; without a ROS distribution: make setup"
        return [*findings, red("ROS", words, remedy)]
    used = rclpy.get_rmw_implementation_identifier()
    return findings or [green("ROS", f"{name}, {used}, Python {sys.version_info.major}.{sys.version_info.minor}")]


def _no_ros(error: ImportError) -> Finding:
    distributions = sorted(folder.name for folder in DISTRIBUTIONS.glob("*") if (folder / "setup.bash").is_file())
    if isinstance(error, ModuleNotFoundError) and error.name == "rclpy":
        if not distributions:
            return red(
                "ROS", "there is no rclpy and no ROS distribution", "make setup, or install ROS 2 Jazzy (docs.ros.org)"
            )
        words = f"there is no rclpy: ROS {', '.join(distributions)} is installed, and not sourced"
        return red("ROS", words, f"source {DISTRIBUTIONS}/{distributions[-1]}/setup.bash")
    words = f"rclpy cannot be imported by Python {sys.version_info.major}.{sys.version_info.minor}: {error}"
    return red(
        "ROS", words, "the Python that this ROS was made for (Jazzy: 3.12), without a virtual environment of another"
    )


def _no_middleware(wanted: str, error: OSError) -> Finding:
    words = f"RMW_IMPLEMENTATION is {wanted!r}, which cannot be loaded ({' '.join(str(error).split()):.200})"
    package = f"apt install ros-$ROS_DISTRO-{wanted.replace('_', '-')}"
    return red("middleware", words, f"unset RMW_IMPLEMENTATION, or {package} (the wheels have rmw_fastrtps_cpp only)")


def domain(environment: Mapping[str, str]) -> list[Finding]:
    """Check which nodes can be discovered at all."""
    number = environment.get("ROS_DOMAIN_ID", "") or "0"
    if not number.isdecimal() or int(number) > 232:
        return [
            red("domain", f"ROS_DOMAIN_ID is {number!r}, expected a number from 0 to 101", "export ROS_DOMAIN_ID=0")
        ]
    findings = []
    if int(number) not in SAFE_DOMAINS:
        words = f"ROS_DOMAIN_ID is {number}, whose ports Linux gives to other programs"
        findings.append(yellow("domain", words, "a number from 0 to 101, the same in every process"))
    reach = environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "").upper()
    if reach not in RANGES:
        words = f"ROS_AUTOMATIC_DISCOVERY_RANGE is {reach!r}, which is none: no other machine is heard"
        findings.append(yellow("domain", words, f"export it as one of {', '.join(RANGES[1:])}"))
    if reach == "OFF":
        words = "ROS_AUTOMATIC_DISCOVERY_RANGE is OFF: nodes do not find each other, on this machine either"
        findings.append(red("domain", words, "export ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST, or SUBNET"))
    if environment.get("ROS_LOCALHOST_ONLY") == "1":
        words = (
            "ROS_LOCALHOST_ONLY is 1, which is deprecated and wins over the other settings: no other machine is heard"
        )
        findings.append(
            yellow("domain", words, "unset ROS_LOCALHOST_ONLY; export ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST")
        )
    reaches = "this machine" if reach == "LOCALHOST" else "this network"
    return findings or [green("domain", f"ROS_DOMAIN_ID {number}, {reaches}")]


def transport(environment: Mapping[str, str]) -> list[Finding]:
    """Check that images get from one process to another without loss."""
    import rclpy

    if "fastrtps" not in (used := rclpy.get_rmw_implementation_identifier()):
        return network_buffer(used, RECEIVE_BUFFER)
    findings = [*profile(environment), *shared_memory(SHARED_MEMORY)]
    if environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "").upper() != "LOCALHOST":
        findings += network_buffer(f"{used}, between machines", RECEIVE_BUFFER)
    return findings


def profile(environment: Mapping[str, str]) -> list[Finding]:
    """Check that Fast DDS has a profile with enough shared memory for images."""
    from vlm_perception.nodes.profile import VARIABLES  # here, since this module must work without ROS

    name = next((name for name in VARIABLES if environment.get(name)), "")
    if not name:
        # Lost images show whether the camera's process has one.
        words = "none in this shell; the launch files and this examination use the package's. For other cameras:"
        return [green("profile", f"{words} {_use_ours()}")]
    file = Path(environment[name])
    try:
        transports = [
            {element.tag.rpartition("}")[2]: (element.text or "").strip() for element in transport}
            for transport in ElementTree.parse(file).iter()
            if transport.tag.rpartition("}")[2] == "transport_descriptor"
        ]
    except (OSError, ElementTree.ParseError) as error:
        return [red("profile", f"{name} is {file}, which cannot be read: {error}", _use_ours())]
    shared = [one for one in transports if one.get("type", "").upper() == "SHM"]
    segment = max((_number(one.get("segment_size")) for one in shared), default=0)
    largest = max((_number(one.get("maxMessageSize")) for one in shared), default=0)
    if segment < SEGMENT or largest < LARGEST_MESSAGE:
        words = (
            f"{file} gives a process {segment // MIB} MiB of shared memory and a message {largest // MIB} MiB of it: "
        )
        words += f"large images are lost, expected {SEGMENT // MIB} and {LARGEST_MESSAGE // MIB}"
        return [yellow("profile", words, _use_ours())]
    return [green("profile", f"{file}: {segment // MIB} MiB of shared memory")]


def shared_memory(folder: Path) -> list[Finding]:
    """Check that there is enough shared memory for a few processes."""
    try:
        total, _, left = shutil.disk_usage(folder)
    except OSError as error:
        words = f"there is no shared memory ({error})"
        return [yellow("shared memory", words, "mount -t tmpfs tmpfs /dev/shm; in a container: docker run --ipc=host")]
    words = f"{left // MIB} of {total // MIB} MiB of {folder} are free"
    if left < 4 * SEGMENT:
        again = "docker run --shm-size=1g or --ipc=host, for containers that talk to each other the latter"
        needs = f"{words}, each process takes {SEGMENT // MIB}"
        stale = f"{again}; rm {folder}/fastrtps_* when no ROS runs removes what crashed processes left"
        return [(red if left < SEGMENT else yellow)("shared memory", needs, stale)]
    return [green("shared memory", words)]


def network_buffer(middleware: str, file: Path) -> list[Finding]:
    """Check the buffer for images in UDP packets: those of other machines, or all with another middleware."""
    try:
        size = int(file.read_text())
    except (OSError, ValueError):
        return []
    words = f"{middleware}; UDP packets have a buffer of {size // 1024} KiB"
    if size < ENOUGH_BUFFER:
        words += " (net.core.rmem_max), an image is more: of 640x480 at 30 Hz a third and more are lost"
        return [yellow("middleware", words, "sudo sysctl -w net.core.rmem_max=33554432, and a file in /etc/sysctl.d")]
    return [green("middleware", words)]


def _use_ours() -> str:
    from vlm_perception.nodes.profile import VARIABLES, shipped_profile

    return f"export {VARIABLES[0]}={shipped_profile() or 'config/fastdds.xml of this package'}"


def _number(words: str | None) -> int:
    return int(words) if words and words.isdecimal() else 0
