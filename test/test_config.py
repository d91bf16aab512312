"""The parameter files say what the nodes have: every parameter, with its default, in any namespace."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

import yaml
from rclpy.node import Node

from vlm_perception.nodes.parameters import ParameterTable

CONFIG = Path(__file__).parents[1] / "config"
NODES = ["camera", "classifier", "navigator", "simulator"]


def definition(name):
    """The parameter dataclass of a node; a node that cannot be imported here is skipped."""
    try:
        module = importlib.import_module(f"vlm_perception.nodes.{name}")
    except ImportError as error:
        pytest.skip(f"{name} cannot be imported: {error}")
    tables = [
        value
        for key, value in vars(module).items()
        if key.endswith("Parameters") and value.__module__ == module.__name__
    ]
    assert len(tables) == 1
    return tables[0]


@pytest.mark.parametrize("name", NODES)
def test_every_parameter_is_in_the_file_with_its_default(name):
    values = yaml.safe_load((CONFIG / f"{name}.yaml").read_text())["/**"][name]["ros__parameters"]
    defaults = {
        field.name: list(field.default) if isinstance(field.default, tuple) else field.default
        for field in dataclasses.fields(definition(name))
    }
    assert values == defaults
    assert list(values) == list(defaults), "in the order of the dataclass"


def test_the_classifiers_file_describes_each_parameter_as_the_node_does():
    lines = [line.strip() for line in (CONFIG / "classifier.yaml").read_text().splitlines()]
    for field in dataclasses.fields(definition("classifier")):
        line = next(n for n, line in enumerate(lines) if line.startswith(f"{field.name}:"))
        mark = "* " if field.metadata["dynamic"] else ""
        assert lines[line - 1].startswith(f"# {mark}{field.metadata['description']}")


@pytest.mark.parametrize("namespace", ["", "/robot", "/fleet/robot7"])
@pytest.mark.parametrize("name", NODES)
def test_the_file_reaches_the_node_in_any_namespace(ros, tmp_path, name, namespace):
    parameters = definition(name)
    field = next(f for f in dataclasses.fields(parameters) if type(f.default) is bool or type(f.default) is int)
    changed = not field.default if type(field.default) is bool else field.default + 1
    content = yaml.safe_load((CONFIG / f"{name}.yaml").read_text())
    content["/**"][name]["ros__parameters"][field.name] = changed
    file = tmp_path / "changed.yaml"
    file.write_text(yaml.safe_dump(content))
    arguments = ["--ros-args", "--params-file", str(file), "-r", f"__ns:={namespace or '/'}"]
    node = ros.add(Node(name, cli_args=arguments))
    expected = dataclasses.replace(parameters(), **{field.name: changed})
    assert ParameterTable(node, parameters).values == expected


def test_the_aggregators_file_has_a_place_for_whatever_the_nodes_say():
    """As diagnostic_aggregator reads it: an analyzer takes the names that it contains or that start so."""
    ((_, section),) = yaml.safe_load((CONFIG / "diagnostics_aggregator.yaml").read_text()).items()
    analyzers = {name: values for name, values in section["ros__parameters"].items() if isinstance(values, dict)}
    for name in ("classifier", "r1/classifier", "classifier: front", "navigator", "camera"):
        taken = [
            path["path"]
            for path in analyzers.values()
            if any(part in name for part in path.get("contains", []))
            or any(name.startswith(part) for part in path.get("startswith", []))
        ]
        assert taken == [name.partition(":")[0].rpartition("/")[2].capitalize()]
