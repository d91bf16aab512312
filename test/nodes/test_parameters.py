"""A node's parameters: declared with descriptors, checked as a whole, changed only when all is well."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

pytest.importorskip("rclpy")

from rcl_interfaces.srv import DescribeParameters, SetParametersAtomically
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.parameter import Parameter

from vlm_perception.nodes.parameters import ParameterTable
from vlm_perception.parameters import START, ParameterError, parameter


@dataclass(frozen=True)
class Table:
    rate: float = parameter(10.0, "How often", unit="Hz", minimum=0.0, maximum=30.0)
    count: int = parameter(3, "How many", minimum=1)
    labels: tuple[str, ...] = parameter(("a", "b"), "Words")
    weights: tuple[float, ...] = parameter((1.0, 2.0), "One per label")
    kind: str = parameter("fast", "Which", choices=("fast", "slow"))
    folder: str = parameter("", "Where", when=START)
    loud: bool = parameter(False, "Whether")

    def __post_init__(self) -> None:
        if not self.labels:
            raise ValueError("labels is empty, expected at least one")
        if len(self.labels) != len(self.weights):
            raise ValueError(f"{len(self.labels)} labels but {len(self.weights)} weights")


def make(ros, overrides=None, on_change=None, node_class=Node):
    overrides = [Parameter(name, value=value) for name, value in (overrides or {}).items()]
    node = ros.add(node_class("tested", parameter_overrides=overrides))
    return node, ParameterTable(node, Table, on_change)


@pytest.mark.parametrize("node_class", [Node, LifecycleNode])
def test_defaults_and_overrides_become_one_frozen_instance(ros, node_class):
    node, table = make(ros, {"rate": 5, "labels": ["x", "y"], "weights": [1, 2]}, node_class=node_class)
    assert table.values == Table(rate=5.0, labels=("x", "y"), weights=(1.0, 2.0))
    assert isinstance(table.values.rate, float)
    assert node.get_parameter("rate").value == 5.0


def test_a_number_is_good_for_a_text_as_yaml_cannot_know(ros):
    node, table = make(ros, {"folder": 7, "kind": "slow"})
    assert table.values.folder == "7" and node.get_parameter("folder").value == "7"


def test_descriptors_tell_description_unit_range_and_choices(ros):
    make(ros)
    request = DescribeParameters.Request(names=["rate", "count", "kind", "folder"])
    rate, count, kind, folder = ros.call(DescribeParameters, "tested/describe_parameters", request).descriptors
    assert rate.description == "How often [Hz]" and not rate.read_only
    assert (rate.floating_point_range[0].from_value, rate.floating_point_range[0].to_value) == (0.0, 30.0)
    assert count.integer_range[0].from_value == 1
    assert kind.additional_constraints == "one of fast, slow"
    assert folder.read_only


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"rate": "quick"}, ["rate", "'quick'", "a number"]),
        ({"rate": 31.0}, ["rate", "31.0", "at most 30.0 Hz"]),
        ({"rate": float("nan")}, ["rate", "nan", "finite"]),
        ({"count": 0}, ["count", "0", "at least 1"]),
        ({"count": 2.5}, ["count", "2.5", "an integer"]),
        ({"count": True}, ["count", "True", "an integer"]),
        ({"labels": "a, b"}, ["labels", "'a, b'", "a list of texts"]),
        ({"labels": [1, 2]}, ["labels", "a list of texts"]),
        ({"labels": []}, ["labels is empty"]),
        ({"labels": ["a"]}, ["1 labels but 2 weights"]),
        ({"kind": "medium"}, ["kind", "'medium'", "fast, slow"]),
        ({"rate": -1.0, "kind": "x"}, ["rate", "kind"]),
    ],
)
def test_wrong_initial_values_are_one_clear_error(ros, overrides, words):
    with pytest.raises(ParameterError) as error:
        make(ros, overrides)
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("rate", 99.0, "99"),
        ("rate", float("nan"), "nan"),
        ("rate", "quick", "type"),
        ("labels", [], "labels is empty"),
        ("labels", ["one"], "1 labels but 2 weights"),
        ("kind", "medium", "fast, slow"),
        ("folder", "/tmp", "read-only"),
    ],
)
def test_a_bad_change_is_refused_and_the_last_good_value_stays(ros, name, value, word):
    changes = []
    _, table = make(ros, on_change=changes.append)
    result = ros.set_parameter("tested", name, value)
    assert not result.successful and word in result.reason
    assert table.values == Table() and changes == []
    assert ros.set_parameter("tested", "rate", 7).successful, "the node must go on taking good values"
    assert table.values.rate == 7.0


def test_a_change_of_several_is_one_change_or_none(ros):
    changes = []
    node, table = make(ros, on_change=changes.append)

    def set_together(**values):
        parameters = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        request = SetParametersAtomically.Request(parameters=parameters)
        return ros.call(SetParametersAtomically, "tested/set_parameters_atomically", request).result

    assert set_together(labels=["x"], weights=[3]).successful
    assert changes == [Table(labels=("x",), weights=(3.0,))] and table.values == changes[0]
    assert not set_together(loud=True, kind="medium").successful
    assert table.values == changes[0] and not node.get_parameter("loud").value


def test_the_node_may_refuse(ros):
    def refuse(values):
        raise ValueError(f"kind is {values.kind!r} but the engine is cold")

    node, table = make(ros, on_change=refuse)
    result = ros.set_parameter("tested", "kind", "slow")
    assert not result.successful and "engine is cold" in result.reason
    assert table.values.kind == "fast" and node.get_parameter("kind").value == "fast"


def test_an_unknown_name_is_answered_with_the_one_that_was_meant(ros):
    make(ros)
    result = ros.set_parameter("tested", "lables", ["x", "y"])
    assert not result.successful and result.reason == "there is no parameter 'lables': did you mean 'labels'?"
    request = SetParametersAtomically.Request()
    request.parameters = [Parameter(name, value=True).to_parameter_msg() for name in ("loud", "nonsense")]
    result = ros.call(SetParametersAtomically, "tested/set_parameters_atomically", request).result
    assert not result.successful and "'nonsense': ros2 param list shows the names" in result.reason
    assert ros.set_parameter("tested", "use_sim_time", False).successful
