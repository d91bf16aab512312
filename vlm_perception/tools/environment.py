"""The ROS settings of commands that start nodes of their own."""

from __future__ import annotations

import os
import random
import socket

from ament_index_python.packages import get_package_share_directory

# Domains that neither users (mostly 0) nor the tests (40 to 99) have.
DOMAINS = range(10, 40)


def prepare_environment() -> None:
    """Set what this process and its children need, where the user has not chosen: call it before the first node.

    Images over DDS need the shipped Fast DDS profile in every process. A demonstration neither hears nor moves
    a real robot: it has a ROS domain of its own and stays on this machine.
    """
    profile = os.path.join(get_package_share_directory("vlm_perception"), "config", "fastdds.xml")
    os.environ.setdefault("FASTRTPS_DEFAULT_PROFILES_FILE", profile)
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    if "ROS_DOMAIN_ID" not in os.environ:
        os.environ["ROS_DOMAIN_ID"] = str(_free_domain())


def _free_domain() -> int:
    for domain in random.sample(DOMAINS, len(DOMAINS)):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", 7410 + 250 * domain))  # where the first participant of a domain listens
                return domain
            except OSError:
                continue
    raise RuntimeError(f"all ROS domains from {DOMAINS[0]} to {DOMAINS[-1]} are in use: choose one with ROS_DOMAIN_ID")
