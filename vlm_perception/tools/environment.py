"""The ROS settings of commands that start nodes of their own."""

from __future__ import annotations

import os
import random
import signal
import socket

from vlm_perception.nodes.profile import use_profile

# Domains that users (mostly 0) and the tests (40 to 99) do not use.
DOMAINS = range(10, 40)


def prepare_environment(domain: int | None = None) -> str:
    """Set the environment of this process and its children, before the first node; return the ROS domain in words.

    Images over DDS need the shipped Fast DDS profile in every process. A demonstration must not hear or move a real
    robot. So it uses `domain`, else a free one, and stays on this machine, whatever the shell has set.
    """
    use_profile()
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ["ROS_DOMAIN_ID"] = str(free_domains(1)[0] if domain is None else domain)
    return f"ROS_DOMAIN_ID={os.environ['ROS_DOMAIN_ID']} ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST"


def end_as_if_interrupted() -> None:
    """Make SIGHUP and SIGTERM end this process as Ctrl-C does, so that no node is left behind."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)


def free_domains(count: int) -> list[int]:
    """Return `count` ROS domains that no process of this machine uses. Raises RuntimeError if there are fewer."""
    free = []
    for domain in random.sample(DOMAINS, len(DOMAINS)):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", 7410 + 250 * domain))  # where the first participant of a domain listens
            except OSError:
                continue
        free.append(domain)
        if len(free) == count:
            return free
    raise RuntimeError(
        f"of the ROS domains from {DOMAINS[0]} to {DOMAINS[-1]} {len(free)} are free, expected {count}: "
        "choose one with --domain"
    )
