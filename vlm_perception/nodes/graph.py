"""Which node offers what, by the graph of ROS."""

from __future__ import annotations

from rclpy._rclpy_pybind11 import RCLError
from rclpy.node import Node, NodeNameNonExistentError


def services_of(node: Node, name: str, namespace: str) -> dict[str, list[str]]:
    """Return the services that another node offers, with their types, as `node` knows it; none if it is not known.

    Between machines the middleware may tell of an endpoint before it knows the name of its node. It then gives a
    placeholder that is no name, at which rcl raises its own error.
    """
    try:
        return dict(node.get_service_names_and_types_by_node(name, namespace))
    except (NodeNameNonExistentError, RCLError):  # it has just come, or just gone
        return {}
