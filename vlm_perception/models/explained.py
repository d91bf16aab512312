"""The place where every error of a model becomes a ModelError that says what to do.

The first model of a list that can be loaded is used. So no error of one model may end the list: neither of the system
or a library, nor a panic of Rust code, which is not an `Exception`.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vlm_perception.models.base import ModelError, ModelOutOfMemoryError
from vlm_perception.packages import needs

COMPLETE = "is the download complete?"


@contextmanager
def explained(name: str | Path, what: str = "cannot be loaded", remedy: str = COMPLETE) -> Iterator[None]:
    """Turn every error raised within, except KeyboardInterrupt, into a ModelError of one line.

    It says that the model `name` `what`, why, and what to do: the `remedy`, if nothing better is known.
    """
    try:
        yield
    except (ModelError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # a library may exit, or panic in Rust
        raise _in_words(f"{name!s:.200}", what, remedy, error) from error


def _in_words(name: str, what: str, remedy: str, error: BaseException) -> ModelError:
    words = " ".join(str(error).split()) or type(error).__name__
    lower = words.lower()
    if isinstance(error, MemoryError) or "out of memory" in lower or "can't allocate memory" in lower:
        return ModelOutOfMemoryError(f"{name} does not fit into memory: choose a smaller model, dtype or quantization")
    if isinstance(error, RecursionError):
        return ModelError(f"{name} {what}, as what it holds is nested too deeply; {remedy}")
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return ModelError(f"{name} is no path, as it has a part that is longer than any file's name")
    if isinstance(error, PermissionError) or "permission denied" in lower:
        file = getattr(error, "filename", None) or name
        return ModelError(
            f"{file} may not be read by user {os.getuid()}: give that user the right, e.g. `chmod -R a+rX FOLDER` by "
            "its owner; the folders above it count too"
        )
    if isinstance(error, OSError) and error.errno is not None and error.filename:
        return ModelError(f"{error.filename} cannot be read: {error.strerror}")
    if package := _package(error, words):
        said = "" if isinstance(error, ModuleNotFoundError) else f" ({words:.200})"
        return ModelError(f"{name} {needs(package)}{said}")
    if type(error).__module__.startswith("jinja2"):
        remedy = "its chat template (chat_template.jinja) is at fault: take the one from the model's page"
    return ModelError(f"{name} {what}: {words:.300}; {remedy}")


def _package(error: BaseException, words: str) -> str | None:
    """Return the package that is missing, None when that is not the reason."""
    if found := re.search(r"pip install (?:-U |--upgrade )?[`'\"]*([A-Za-z][\w.\-\[\]]*)", words):
        return found[1]
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("vlm_perception"):
        return error.name
    if found := re.search(r"requires the (\w+) library but it was not found", words):
        return found[1].lower()
    return None
