"""The Fast DDS profile without which big messages, as images are, get lost between processes."""

from __future__ import annotations

import os
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
"""Fast DDS 2 and 3 read the first, 3 the second, too."""
IN_FOLDER = ("DEFAULT_FASTRTPS_PROFILES.xml", "DEFAULT_FASTDDS_PROFILES.xml")
"""What Fast DDS reads from the folder where it starts."""


def shipped_profile() -> str | None:
    """Return the absolute path of the package's profile, None when the package is not installed."""
    try:
        return str(Path(get_package_share_directory("vlm_perception"), "config", "fastdds.xml").absolute())
    except PackageNotFoundError:
        return None


def use_profile() -> None:
    """Have this process and its children use the package's profile, unless the user has another."""
    if any(os.environ.get(name) for name in VARIABLES) or any(map(os.path.isfile, IN_FOLDER)):
        return
    if profile := shipped_profile():
        os.environ[VARIABLES[0]] = profile
