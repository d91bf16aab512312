"""The reference pages of interfaces and commands, in Markdown, made from their declarations."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from vlm_perception.tools import cli

GENERATED = "Written by `vlm_perception parameters --write .`; do not edit."
KINDS = {"msg": ("Messages", ("",)), "srv": ("Services", ("Request", "Response"))}
KINDS["action"] = ("Actions", ("Goal", "Result", "Feedback"))
FIELD = re.compile(r"(?P<type>\S+)\s+(?P<name>\w+(?:\s*=\s*[^#\s]+)?)\s*(?:#\s*(?P<about>.*))?")


def interfaces(root: Path) -> str:
    """Return the page of all messages, services and actions below the `root` of the package."""
    lines = ["# Messages, services and actions", "", GENERATED, ""]
    lines += ["The node and the topic that use each one are in the README's table of interfaces.", ""]
    for kind, (title, parts) in KINDS.items():
        lines += [f"## {title}", ""]
        for file in sorted((root / kind).glob(f"*.{kind}")):
            lines += _interface(file, kind, parts)
    return "\n".join(lines)


def _interface(file: Path, kind: str, parts: Iterable[str]) -> Iterator[str]:
    text = file.read_text(encoding="utf-8")
    about = re.match(r"(?:#.*\n)*", text)
    assert about is not None
    yield from (f"### {file.stem}", "", f"`vlm_perception/{kind}/{file.stem}`", "")
    if about[0]:
        yield from (" ".join(line.lstrip("# ") for line in about[0].splitlines()), "")
    for part, fields in zip(parts, re.split(r"^---\n", text[about.end() :], flags=re.MULTILINE), strict=True):
        yield from ([f"{part}:", ""] if part else [])
        yield from _fields(fields)
        yield ""


def _fields(text: str) -> Iterator[str]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        yield "No fields."
        return
    yield from ("| field | type | about |", "| --- | --- | --- |")
    for line in lines:
        if line.startswith("#"):  # about the fields below it
            yield f"| | | {_cell(line.lstrip('# '))} |"
        elif field := FIELD.fullmatch(line):
            yield f"| `{field['name']}` | `{field['type']}` | {_cell(field['about'] or '')} |"
        else:
            raise ValueError(f"{line!r} is no field of an interface")


def commands() -> str:
    """Return the page of all commands with their arguments."""
    lines = ["# Commands", "", GENERATED, ""]
    lines += ["Without a ROS distribution, the command is `.venv/bin/vlm_perception`. `--help` explains each one.", ""]
    for name, words in cli.COMMANDS.items():
        parser = argparse.ArgumentParser(prog=f"vlm_perception {name}", add_help=False)
        importlib.import_module(f"vlm_perception.tools.{name}").add_arguments(parser)
        lines += [f"## vlm_perception {name}", "", f"{words[0].upper()}{words[1:]}.", ""]
        lines += ["| argument | about |", "| --- | --- |", *map(_argument, parser._actions), ""]
    return "\n".join(lines)


def _argument(action: argparse.Action) -> str:
    name = action.option_strings[-1] if action.option_strings else str(action.metavar or action.dest).upper()
    if action.option_strings and action.nargs != 0:
        value = str(action.metavar or action.dest.upper())
        if action.choices is not None and action.metavar is None:
            value = "{" + ",".join(map(str, action.choices)) + "}"
        name += f" {value}" + (" ..." if action.nargs in ("+", "*") else "")
    about = (action.help or "") % {**vars(action), "prog": "vlm_perception"}
    return f"| `{name}` | {_cell(about)}{' (required)' if action.required and action.option_strings else ''} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
