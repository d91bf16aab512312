"""Folders of models and servers of models, for the tests of models."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the nano model that may be broken."""
    from vlm_perception.models.loader import NANO_FOLDER

    return shutil.copytree(NANO_FOLDER, tmp_path / "model")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's tiny model, made once."""
    import tiny_models

    made: dict[str, Path] = {}

    def of(family: str) -> Path:
        if family not in made:
            made[family] = tiny_models.save(family, tmp_path_factory.mktemp("tiny"))
        return made[family]

    return of


@pytest.fixture
def tidy_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses between tries, and nothing of this machine's proxies and keys."""
    from model_server import tidy

    tidy(monkeypatch)


@pytest.fixture
def serve(tidy_servers: None) -> Iterator[Callable]:
    """A function that starts a server of a model, which ends with the test."""
    from model_server import servers

    with servers() as start:
        yield start
