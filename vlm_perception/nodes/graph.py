"""Services of other nodes, from the ROS graph."""

from __future__ import annotations

from rclpy._rclpy_pybind11 import RCLError
from rclpy.node import Node, NodeNameNonExistentError


def services_of(node: Node, name: str, namespace: str) -> dict[str, list[str]]:
    """Return the services of another node with their types; none if `node` does not know that node.

    The middleware may report an endpoint of another machine before it knows the node's name. It then gives a
    placeholder, for which rcl raises an error.
    """
    try:
        return dict(node.get_service_names_and_types_by_node(name, namespace))
    except (NodeNameNonExistentError, RCLError):  # the node is new or has just ended
        return {}
