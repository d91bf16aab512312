"""Print the tables of all nodes' parameters, as they stand in the README."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

BEGIN, END = "<!-- parameters -->\n", "<!-- end of parameters -->\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--write", type=Path, metavar="README", help="put the tables between the marks of this file")


def main(arguments: argparse.Namespace) -> int:
    """Print the tables, or write them into the README."""
    if arguments.write is None:
        print(tables())
        return 0
    text = arguments.write.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    arguments.write.write_text(f"{before}{BEGIN}{tables()}{END}{after}", encoding="utf-8")
    return 0


def tables() -> str:
    """All tables in Markdown."""
    from vlm_perception.nodes import camera, classifier, navigator, simulator

    definitions = {
        "classifier": classifier.Parameters,
        "navigator": navigator.Parameters,
        "camera": camera.Parameters,
        "simulator": simulator.Parameters,
    }
    text = ""
    for node, definition in definitions.items():
        text += f"\n**{node}**\n\n| parameter | default | about |\n| --- | --- | --- |\n"
        for field in dataclasses.fields(definition):
            text += f"| `{field.name}` | {_default(field)} | {_about(field)} |\n"
    return text + "\n"


def _default(field: dataclasses.Field) -> str:
    value = field.default
    if isinstance(value, bool):
        words = str(value).lower()
    elif isinstance(value, tuple):
        words = ", ".join(str(item) for item in value)
    else:
        words = str(value) or '""'
    unit = field.metadata["unit"]
    return f"{words} {unit}" if unit else words


def _about(field: dataclasses.Field) -> str:
    about = field.metadata["description"]
    low, high = field.metadata["minimum"], field.metadata["maximum"]
    if low is not None and high is not None:
        about += f" ({low:g} to {high:g})"
    if field.metadata["choices"]:
        about += f" ({', '.join(field.metadata['choices'])})"
    return about + (" *live*" if field.metadata["dynamic"] else "")
