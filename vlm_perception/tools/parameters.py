"""Print the tables of all nodes' parameters, or write all generated files: config/ and the pages of reference."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from vlm_perception.parameters import CONFIGURE, LIVE, Declared, as_list, declared
from vlm_perception.tools.reference import GENERATED, commands, interfaces

NODES = ("classifier", "navigator", "camera", "simulator")
WIDTH = 100
INTRODUCTION = f"""# Parameters

{GENERATED}

Every parameter has the default below, and `config/` holds a commented file per node with these defaults. The last
column says when a parameter takes effect:

- *live*: at once; `ros2 param set` changes it while the node runs. A change is checked as a whole before anything is
  applied.
- *configure*: when the node is configured. To change it, deactivate and clean up the node first (`ros2 lifecycle set`).
- *start*: at the start of the node only.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--write", type=Path, metavar="ROOT", help="write all generated files there")


def main(arguments: argparse.Namespace) -> int:
    """Print the tables, or write the files below the root of the package."""
    if arguments.write is None:
        print(page())
        return 0
    for path, text in files(arguments.write).items():
        (arguments.write / path).write_text(text, encoding="utf-8")
    return 0


def files(root: Path) -> dict[str, str]:
    """Return what is generated, by its path below the `root` of the package."""
    pages = {
        "docs/parameters.md": page(),
        "docs/interfaces.md": interfaces(root),
        "docs/commands.md": commands(),
    }
    return pages | {f"config/{node}.yaml": parameter_file(node) for node in NODES}


def page() -> str:
    """Return the page of all parameters, in Markdown."""
    return INTRODUCTION + "".join(f"\n## {node}\n\n{table(node)}" for node in NODES)


def table(node: str) -> str:
    """Return the table of a node's parameters, in Markdown."""
    rows = [f"| `{one.name}` | {_default(one)} | {_about(one)} | {_when(one)} |" for one in _parameters(node)]
    return "\n".join(["| parameter | default | about | when |", "| --- | --- | --- | --- |", *rows, ""])


def parameter_file(node: str) -> str:
    """Return a commented file of a node's parameters with their defaults."""
    lines = [
        f"# Parameters of the {node}, with their defaults. `/**` makes them hold in any namespace.",
        "# (live) may change while the node runs, (configure) while it is unconfigured, (start) not at all.",
        "/**:",
        f"  {node}:",
        "    ros__parameters:",
    ]
    above: list[str] = []
    for one in _parameters(node):
        *groups, name = one.name.split(".")
        for depth, part in enumerate(groups):
            if groups[: depth + 1] != above[: depth + 1]:
                lines.append(f"{_indent(depth)}{part}:")
        above = groups
        indent = _indent(len(groups))
        unit = one.field.metadata["unit"]
        about = f"{_about(one)}{f' [{unit}]' if unit else ''} ({_when(one)})"
        lines += [f"{indent}# {line}" for line in textwrap.wrap(about, WIDTH)]
        lines.append(f"{indent}{name}: {_yaml(one.field.default)}")
    return "\n".join(lines) + "\n"


def _parameters(node: str) -> list[Declared]:
    from vlm_perception.nodes.parameter_file import definition

    return list(declared(definition(node)).values())


def _indent(depth: int) -> str:
    return "  " * (3 + depth)


def _yaml(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _default(one: Declared) -> str:
    value = as_list(one.field.default)
    words = ", ".join(map(str, value)) if isinstance(value, list) else _yaml(value).strip('"')
    unit = one.field.metadata["unit"]
    return f"{words or 'none'} {unit}".strip()


def _about(one: Declared) -> str:
    about = one.field.metadata["description"]
    low, high = one.field.metadata["minimum"], one.field.metadata["maximum"]
    if low is not None and high is not None:
        about += f" ({low:g} to {high:g})"
    if one.field.metadata["choices"]:
        about += f" ({', '.join(one.field.metadata['choices'])})"
    return about


def _when(one: Declared) -> str:
    when = one.field.metadata["when"]
    return when if when in (LIVE, CONFIGURE) else "start"
