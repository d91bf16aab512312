"""The output folder of a command, checked before the work begins."""

from __future__ import annotations

import tempfile
from pathlib import Path


def check_output(folder: Path) -> None:
    """Make `folder`. Raises OSError with an explanation if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise OSError(f"the output folder {str(folder)!r} cannot be written: {why}") from error
