"""The parameter files say what the nodes have: every parameter, with its default, in any namespace."""

from __future__ import annotations

import dataclasses
import importlib
import re

import pytest
from paths import ROOT

pytest.importorskip("rclpy")

import yaml
from rclpy.node import Node

from vlm_perception.nodes.parameters import ParameterTable
from vlm_perception.parameters import as_list, declared
from vlm_perception.tools import parameters as generated

CONFIG = ROOT / "config"
NODES = ["camera", "classifier", "navigator", "simulator"]


def definition(name):
    """The parameter dataclass of a node; a node that cannot be imported here is skipped."""
    try:
        module = importlib.import_module(f"vlm_perception.nodes.{name}")
    except ImportError as error:
        pytest.skip(f"{name} cannot be imported: {error}")
    return module.Parameters


@pytest.mark.parametrize("name", NODES)
def test_every_parameter_is_in_the_file_with_its_default(name):
    values = yaml.safe_load((CONFIG / f"{name}.yaml").read_text())["/**"][name]["ros__parameters"]
    defaults = {one.name: as_list(one.field.default) for one in declared(definition(name)).values()}
    assert flat(values) == defaults
    assert list(flat(values)) == list(defaults), "in the order of the dataclass"


def flat(values, prefix=""):
    found = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def test_what_is_generated_is_as_the_code_has_it():
    for path, text in generated.files(CONFIG.parent).items():
        same = (CONFIG.parent / path).read_text(encoding="utf-8") == text
        assert same, f"{path} is old; run: .venv/bin/vlm_perception parameters --write ."


@pytest.mark.parametrize(("name", "most"), [("classifier", 32), ("navigator", 36)])
def test_there_are_no_more_parameters_than_a_user_can_read(name, most):
    assert len(declared(definition(name))) <= most


def test_no_old_name_is_a_name_now():
    for name in ("classifier", "navigator"):
        table = definition(name)
        names = declared(table)
        assert not set(table.RENAMED) & set(names)
        for words in table.RENAMED.values():
            for new in re.findall(r"'([^']+)'", words):
                assert new in names, new


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
