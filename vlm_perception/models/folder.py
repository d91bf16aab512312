"""A model's folder, as `save_pretrained` or a hub download makes it: its path and its small files.

Its content is not trusted: files are read up to a limit, and impossible values raise ModelError with the remedy.
"""

from __future__ import annotations

import codecs
import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlm_perception.models.base import ModelError
from vlm_perception.models.explained import explained

NANO_FOLDER = Path(__file__).parent / "nano"
MAX_JSON = 100_000_000
"""Most bytes of JSON that are read; the format of safetensors has the same limit for a header."""
MAX_COUNT = 1024
"""Most layers, experts and so on of a model: they are built before the weights can show that the number is wrong."""
AGAIN = "download it again, e.g. `hf download OWNER/MODEL --local-dir FOLDER`, which goes on where it was cut"
_COUNT = re.compile(r"(layers?|depths?|blocks|experts|stages|labels)$")
_TEXT = {".json", ".jinja"}
_READ = {*_TEXT, ".model", ".safetensors", ".txt"}
_LFS_POINTER = b"version https://git-lfs.github.com/"


def check_folder(name: str) -> tuple[Path, dict[str, Any]]:
    """Return the folder of the model `name` ("nano" or a path) and the content of its config.json.

    The top folder of a model in a hub's cache stands for its snapshot main, or for its only snapshot. Raises ModelError
    when the folder is not that of a model.
    """
    with explained(name):
        folder = _snapshot(NANO_FOLDER if name == "nano" else _expanded(name))
        _check_files(folder)
        config = read_json(folder / "config.json")
        if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
            raise ModelError(f"{folder / 'config.json'} names no model_type: is it a transformers model?")
        _check_counts(folder / "config.json", config)
        return folder, config


def read_json(file: Path) -> Any:
    """Return the content of a JSON `file`, which may begin with a byte-order mark. ModelError when it is no JSON."""
    with explained(file, "cannot be read", AGAIN):
        if (size := file.stat().st_size) > MAX_JSON:
            raise ModelError(f"{file} has {size} bytes, which no model's has; {AGAIN}")
        return json.loads(file.read_text(encoding="utf-8-sig"))


@contextmanager
def without_marks(folder: Path) -> Iterator[Path]:
    """Yield `folder`, or links to its files where some begin with a byte-order mark, which transformers cannot read.

    Such files are copied without the mark. Errors raised within name `folder`.
    """
    marked = [file for file in folder.iterdir() if file.suffix in _TEXT and file.is_file() and _is_marked(file)]
    if not marked:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="model-") as links:
        for file in folder.iterdir():
            if file in marked:
                (Path(links) / file.name).write_bytes(file.read_bytes().removeprefix(codecs.BOM_UTF8))
            else:
                (Path(links) / file.name).symlink_to(file.absolute())
        try:
            yield Path(links)
        except ModelError as error:
            raise type(error)(str(error).replace(links, str(folder))) from error


def refuse_pointer(file: Path) -> None:
    """Raise ModelError when `file` is a Git LFS pointer instead of the file itself."""
    with file.open("rb") as opened:
        if opened.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise ModelError(
                f"{file} is a Git LFS pointer and not the file itself: run `git lfs install` and `git lfs pull` there, "
                "or download it with `hf download`"
            )


def _expanded(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise ModelError(
            f"{name!r:.200} begins with the home of a user who is not known: write the whole path"
        ) from None


def _snapshot(folder: Path) -> Path:
    snapshots = folder / "snapshots"
    if (folder / "config.json").exists() or not snapshots.is_dir():
        return folder
    there = {path.name: path for path in sorted(snapshots.iterdir()) if path.is_dir()}
    main = folder / "refs" / "main"
    named = main.read_text(errors="replace").strip() if main.is_file() else ""
    if named in there or len(there) == 1:
        return there.get(named) or next(iter(there.values()))
    raise ModelError(
        f"{folder} is a model in a hub's cache with {len(there)} snapshots, of which none is called main"
        + (f": name one, e.g. {next(iter(there.values()))}" if there else f": {AGAIN}")
    )


def _check_files(folder: Path) -> None:
    if not folder.is_dir():
        kind = "is a file" if folder.exists() else "does not exist"
        raise ModelError(
            f"model folder {str(folder)!r:.200} {kind}, expected 'nano' or a folder with config.json and "
            "*.safetensors. Weights are never downloaded by this package; fetch them once, e.g. "
            "`hf download google/paligemma2-3b-mix-224 --local-dir FOLDER` after accepting the licence on its page"
        )
    if models := sorted(path.name for path in folder.glob("models--*")):
        raise ModelError(f"{folder} is a whole hub's cache: name a model in it, e.g. {folder / models[0]}")
    files = [file for file in folder.iterdir() if file.is_file()]
    if not files:
        raise ModelError(
            f"model folder {str(folder)!r} is empty, expected config.json and *.safetensors: did the download end?"
        )
    if (folder / "adapter_config.json").is_file():
        raise ModelError(f"{folder} holds an adapter: merge it into its model (peft's merge_and_unload) and save that")
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"model folder {str(folder)!r} has no config.json, expected a folder made by save_pretrained or `hf "
            "download`. Is it one folder up or down? Of a gated model one gets no more than a README before `hf auth "
            "login` and accepting its licence"
        )
    for file in files:
        if file.suffix in _READ and file.stat().st_size < 1024:  # tokenizers and configurations may be pointers too
            refuse_pointer(file)


def _check_counts(file: Path, value: Any, key: str = "") -> None:
    """Raise ModelError for a number of layers, experts and so on that no model has."""
    if isinstance(value, dict):
        for inner, what in value.items():
            _check_counts(file, what, inner)
    elif isinstance(value, list):
        for what in value[: MAX_COUNT + 1]:
            _check_counts(file, what, key)
        value = len(value) if _COUNT.search(key) else 0
    if isinstance(value, (int, float)) and value > MAX_COUNT and _COUNT.search(key):
        raise ModelError(f"{file} has {key} {value}, and no model has more than {MAX_COUNT}; {AGAIN}")


def _is_marked(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
