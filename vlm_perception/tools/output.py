"""Where a command writes: found out before it works, not after hours."""

from __future__ import annotations

import tempfile
from pathlib import Path


def check_output(folder: Path) -> None:
    """Make `folder`; raise OSError, in words, when nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise OSError(f"the output folder {str(folder)!r} cannot be written: {why}") from error
