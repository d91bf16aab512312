"""A user's parameters file, read and checked before a node starts.

If two files give a parameter values of different types, rcl keeps the first without a warning. So the launch files give
each node a single file, made of the user's file and the arguments of the launch, with the right types.
"""

from __future__ import annotations

import importlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vlm_perception.parameters import ParameterError, check, declared, suggestion

LARGEST = 1 << 20
"""Largest parameters file [bytes]."""
OF_EVERY_NODE = {"use_sim_time": bool, "start_type_description_service": bool}
"""Parameters that rclpy declares, with their types. rclpy declares qos_overrides.* too."""
BOOLEANS = {
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False),
}
NUMBERS = {".inf": math.inf, "+.inf": math.inf, "-.inf": -math.inf, ".nan": math.nan}
WILDCARDS = {"**": r"(/\w+)*", "*": r"/\w+"}


@dataclass(frozen=True)
class Section:
    """One `ros__parameters` of a file, from `line` on: the `values` by name, for the nodes that match `pattern`."""

    pattern: str
    line: int
    values: Mapping[str, Any]

    def holds_for(self, node: str) -> bool:
        """Return whether rcl gives these values to `node`, a full name such as /robot1/navigator."""
        parts = self.pattern.strip("/").split("/")
        return bool(re.fullmatch("".join(WILDCARDS.get(part, "/" + re.escape(part)) for part in parts), node))

    @property
    def called(self) -> str:
        """The last segment of the pattern: the name of a node, or a wildcard."""
        return self.pattern.rpartition("/")[2]


def read_sections(file: Path) -> list[Section]:
    """Return the sections of a parameters file in their order; raise ParameterError for a file that rcl cannot read."""
    try:
        if not file.is_file():
            raise ParameterError("it does not exist" if not file.exists() else "it is no regular file")
        if (size := file.stat().st_size) > LARGEST:
            raise ParameterError(f"it has {size} bytes, expected at most {LARGEST}")
        root = yaml.compose(file.read_bytes(), Loader=yaml.SafeLoader)
        sections = list(_sections(root, "", set())) if root else []
    except ParameterError as error:
        raise ParameterError(f"params_file {str(file)!r:.300}: {error}") from None
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        words = " ".join(str(error).split()) or type(error).__name__
        raise ParameterError(f"params_file {str(file)!r:.300} cannot be read: {words:.500}") from None
    if not sections:
        raise ParameterError(
            f"params_file {str(file)!r:.300} has no parameters, expected /**: and in it, indented, navigator: (a "
            "node's name) and in that ros__parameters:"
        )
    return sections


def _sections(node: yaml.Node, pattern: str, seen: set[int]) -> Iterator[Section]:
    for key, value in _pairs(node, seen):
        if key == "ros__parameters" and pattern:
            yield Section(pattern, value.start_mark.line + 1, dict(_values(value, "", seen)))
        elif isinstance(value, yaml.MappingNode):
            yield from _sections(value, f"{pattern}/{key.strip('/')}", seen)
        else:
            raise ParameterError(
                f"line {value.start_mark.line + 1} has {key!r:.100} outside of a ros__parameters, expected the name of "
                "a namespace or a node and, in it, ros__parameters"
            )


def _values(node: yaml.Node, prefix: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    if isinstance(node, yaml.ScalarNode) and node.value in ("", "~", "null"):
        return  # all parameters are commented out
    for key, value in _pairs(node, seen):
        if isinstance(value, yaml.MappingNode):
            yield from _values(value, f"{prefix}{key}.", seen)
        elif isinstance(value, yaml.SequenceNode):
            _once(value, seen)
            yield f"{prefix}{key}", [_scalar(item, f"{prefix}{key}") for item in value.value]
        else:
            yield f"{prefix}{key}", _scalar(value, f"{prefix}{key}")


def _pairs(node: yaml.Node, seen: set[int]) -> list[tuple[str, yaml.Node]]:
    line = node.start_mark.line + 1
    if not isinstance(node, yaml.MappingNode) or not all(isinstance(key, yaml.ScalarNode) for key, _ in node.value):
        raise ParameterError(f"line {line} is not 'name: value'")
    _once(node, seen)
    return [(key.value, value) for key, value in node.value]


def _once(node: yaml.Node, seen: set[int]) -> None:
    if id(node) in seen:
        line = node.start_mark.line + 1
        raise ParameterError(f"line {line} is used again by an alias (*name), which ROS does not read")
    seen.add(id(node))


def _scalar(node: yaml.Node, name: str) -> Any:
    """Return the value as rcl reads it. Unlike for PyYAML, 1e-3 is a number and 2026-01-01 is a text."""
    if not isinstance(node, yaml.ScalarNode):
        raise ParameterError(f"line {node.start_mark.line + 1}: the list {name!r:.100} has lists or mappings in it")
    text = node.value
    if node.style:  # in quotes
        return text
    if text in ("", "~", "null"):
        raise ParameterError(f"line {node.start_mark.line + 1}: the parameter {name!r:.100} has no value")
    if text in BOOLEANS:
        return BOOLEANS[text]
    if re.fullmatch(r"[+-]?(0x[0-9a-fA-F]{1,30}|\d{1,30})", text, re.ASCII):
        return int(text, 16 if "x" in text else 10)
    if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", text, re.ASCII | re.IGNORECASE):
        return float(text)
    return NUMBERS.get(text.lower(), text)


def check_sections(sections: Sequence[Section], nodes: Sequence[str], ours: Sequence[str]) -> list[str]:
    """Return a line about each section that matches none of `nodes`, the full names of the nodes that start.

    Raises ParameterError if no section matches any node. It does so too if the sections with the name of one of `ours`
    all miss that node, since their user expects that they take effect.
    """
    unused = [section for section in sections if not any(section.holds_for(node) for node in nodes)]
    words = [f"line {section.line}: {section.pattern} is none of {', '.join(nodes)}" for section in unused]
    missed = {
        section.called
        for node in nodes
        if not any(section.holds_for(node) for section in sections if section.called == node.rpartition("/")[2])
        for section in unused
        if section.called == node.rpartition("/")[2]
    }
    if missed or len(unused) == len(sections):
        raise ParameterError(
            f"the file's parameters reach no {' and no '.join(sorted(missed)) or 'node of this launch'}: "
            f"{'; '.join(words):.500}. A section /**: holds in any namespace"
        )
    return [line for line, section in zip(words, unused, strict=True) if section.called not in ours]


def definition(name: str) -> type:
    """Return the dataclass of the parameters of the node `name` of this package."""
    return importlib.import_module(f"vlm_perception.nodes.{name}").Parameters


def merge(
    definition: type, node: str, sections: Sequence[Section] = (), given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the values of `sections` for `node` (a full name), overridden by those `given`, with the right types.

    A later section overrides an earlier one, as in rcl. Raises ParameterError with all problems: values of a wrong type
    or range, and unknown names in a section that names the node.
    """
    fields, renamed = declared(definition), getattr(definition, "RENAMED", {})
    values: dict[str, Any] = {}
    errors = []
    for section in sections:
        if section.holds_for(node):
            for name, value in section.values.items():
                if name in fields or name in OF_EVERY_NODE or name.startswith("qos_overrides."):
                    values[name] = value
                elif section.called not in WILDCARDS:
                    errors.append(f"there is no parameter {name!r:.100}: {suggestion(name, fields, renamed)}")
    values.update(given or {})
    for name, type_ in OF_EVERY_NODE.items():
        if name in values and not isinstance(values[name], type_):
            errors.append(f"parameter {name} is {values[name]!r:.200}, expected true or false")
    try:
        checked: Any = check(definition, {name: value for name, value in values.items() if name in fields})
    except ParameterError as error:
        raise ParameterError(f"{node}: {'; '.join([*errors, str(error)])}") from None
    if errors:
        raise ParameterError(f"{node}: {'; '.join(errors)}")
    return {name: fields[name].value_in(checked) if name in fields else value for name, value in values.items()}


def read_arguments(definition: type, given: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of the arguments `given` on a command line: a text for a text, else as in a file."""
    types = {name: one.type for name, one in declared(definition).items()}
    return {name: text if types.get(name) is str else _read_value(text, name) for name, text in given.items()}


def _read_value(text: str, name: str) -> Any:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return text
    if isinstance(node, yaml.SequenceNode):
        return [_scalar(item, name) for item in node.value]
    return _scalar(node, name) if isinstance(node, yaml.ScalarNode) else text


def as_yaml(values: Mapping[str, Any]) -> str:
    """Return a parameters file with `values` for any node. It is JSON, so that a text has quotes.

    Raises ParameterError for a text that ROS cannot carry.
    """
    for name, value in values.items():
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and ("\0" in text or not text.encode(errors="ignore").decode() == text):
                raise ParameterError(f"parameter {name} is {text!r:.200}, expected Unicode text without NUL")
    words = json.dumps({"/**": {"ros__parameters": values}}, ensure_ascii=False)
    # libyaml reads some characters as the end of a line, and cannot read surrogate pairs.
    return re.sub(r"[^\x20-\x7e]", lambda found: f"\\U{ord(found[0]):08X}", words)
