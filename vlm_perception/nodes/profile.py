"""The Fast DDS profile, without which large messages such as images get lost between processes."""

from __future__ import annotations

import os
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
"""Environment variables with the profile: Fast DDS 2 and 3 read the first, 3 reads the second too."""
IN_FOLDER = ("DEFAULT_FASTRTPS_PROFILES.xml", "DEFAULT_FASTDDS_PROFILES.xml")
"""File that Fast DDS reads from the folder where it starts."""


def shipped_profile() -> str | None:
    """Return the absolute path of the package's profile, or None if the package is not installed."""
    try:
        return str(Path(get_package_share_directory("vlm_perception"), "config", "fastdds.xml").absolute())
    except PackageNotFoundError:
        return None


def use_profile() -> None:
    """Use the package's profile in this process and its children, unless the user has set another."""
    if any(os.environ.get(name) for name in VARIABLES) or any(map(os.path.isfile, IN_FOLDER)):
        return
    if profile := shipped_profile():
        os.environ[VARIABLES[0]] = profile
