"""A dataclass of parameters as the ROS parameters of a node, declared, checked and changed as a whole.

table = ParameterTable(node, Parameters, on_change=self.adopt)
table.values.smoothing.window
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import ParameterNotDeclaredException
from rclpy.node import Node
from rclpy.parameter import Parameter

from vlm_perception.parameters import (
    CONFIGURE,
    INT64,
    START,
    Declared,
    ParameterError,
    as_list,
    check,
    converted,
    declared,
    fits,
    shown,
    suggestion,
)

Values = TypeVar("Values")

TYPES = {
    bool: Parameter.Type.BOOL,
    int: Parameter.Type.INTEGER,
    float: Parameter.Type.DOUBLE,
    str: Parameter.Type.STRING,
    tuple[str, ...]: Parameter.Type.STRING_ARRAY,
    tuple[float, ...]: Parameter.Type.DOUBLE_ARRAY,
}


class ParameterTable(Generic[Values]):
    """The parameters of `node` by the dataclass `definition`, and their `values`, an instance of it.

    A change of one or several parameters is validated as a whole. Then `on_change(new_values)` is called, which may
    refuse it by a ValueError. Only then it becomes `values`. While `is_configured()`, parameters that take effect at
    configure cannot change. Raises ParameterError for wrong values at start.
    """

    def __init__(
        self,
        node: Node,
        definition: type[Values],
        on_change: Callable[[Values], None] | None = None,
        is_configured: Callable[[], bool] = lambda: False,
    ) -> None:
        self._node = node
        self._definition = definition
        self._declared = declared(definition)
        self._renamed = getattr(definition, "RENAMED", {})
        self._on_change = on_change
        self._is_configured = is_configured
        self._look_at_unknown_names(node)
        self.values: Values = self._declare(node)
        node.add_pre_set_parameters_callback(partial(self._prepare, node))
        node.add_on_set_parameters_callback(self._change)

    def _declare(self, node: Node) -> Values:
        given = {}
        for name, one in self._declared.items():
            # First declare them without a type, so that our check reports every wrong value and accepts 5 for 5.0.
            value = _declare(node, one)
            # An empty list in a parameters file has no type and arrives as no value.
            given[name] = [] if value is None and isinstance(one.field.default, tuple) else value
        instance = check(self._definition, given)
        for name, one in self._declared.items():
            value = Parameter(name, TYPES[one.type], as_list(shown(one.field, one.value_in(instance))))
            node.set_descriptor(name, _descriptor(one), value.get_parameter_value())
        return instance

    def _prepare(self, node: Node, parameters: list[Parameter]) -> list[Parameter]:
        """Return an integer as a number and an empty list as a list of any type, as users of YAML expect.

        Raises ParameterNotDeclaredException with a suggestion for an unknown name. The service answers with it.
        """
        for name in (p.name for p in parameters if p.name not in self._declared and not node.has_parameter(p.name)):
            error = ParameterNotDeclaredException(name)
            error.args = (f"there is no parameter {name!r}: {suggestion(name, self._declared, self._renamed)}",)
            raise error
        return [
            Parameter(p.name, TYPES[one.type], converted(one.type, p.value))
            if (one := self._declared.get(p.name)) and p.value is not None and fits(one.type, p.value)
            else p
            for p in parameters
        ]

    def _change(self, parameters: list[Parameter]) -> SetParametersResult:
        try:
            changes = {p.name: p.value for p in parameters if p.name in self._declared}
            if changes:
                values = check(self._definition, changes, self.values)
                self._refuse_while_configured(changes, values)
                if self._on_change:
                    self._on_change(values)
                self.values = values
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _refuse_while_configured(self, names: Any, values: Values) -> None:
        fixed = [
            name
            for name in names
            if (one := self._declared[name]).field.metadata["when"] == CONFIGURE
            if one.value_in(values) != one.value_in(self.values)
        ]
        if fixed and self._is_configured():
            raise ValueError(
                f"{' and '.join(fixed)} cannot change while the node is configured: ros2 lifecycle set "
                f"{self._node.get_fully_qualified_name()} deactivate and cleanup before, configure and activate after"
            )

    def _look_at_unknown_names(self, node: Node) -> None:
        """Warn of unknown names; raise ParameterError for names of earlier versions, whose users rely on them."""
        old = []
        for name in getattr(node, "_parameter_overrides", {}):
            if name in self._declared or node.has_parameter(name) or name.startswith("qos_overrides."):
                continue
            words = f"there is no parameter {name!r}: {suggestion(name, self._declared, self._renamed)}"
            if name in self._renamed:
                old.append(words)
            else:
                node.get_logger().warning(f"{words}; its value is not used")
        if old:
            raise ParameterError("; ".join(old))


def _declare(node: Node, one: Declared) -> Any:
    """Declare the parameter and return the value given for it. Secrets in that value are declared hidden."""
    descriptor = ParameterDescriptor(dynamic_typing=True)
    override = getattr(node, "_parameter_overrides", {}).get(one.name)
    if override is None or shown(one.field, override.value) == override.value:
        return node.declare_parameter(one.name, as_list(one.field.default), descriptor).value
    node.declare_parameter(one.name, shown(one.field, override.value), descriptor, ignore_override=True)
    return override.value


def _descriptor(one: Declared) -> ParameterDescriptor:
    about = one.field.metadata
    descriptor = ParameterDescriptor(
        name=one.name,
        type=TYPES[one.type].value,
        description=about["description"] + (f" [{about['unit']}]" if about["unit"] else ""),
        read_only=about["when"] == START,
        additional_constraints=f"one of {', '.join(about['choices'])}" if about["choices"] else "",
    )
    if about["minimum"] is not None or about["maximum"] is not None:
        low, high = INT64 if one.type is int else (-math.inf, math.inf)
        low = low if about["minimum"] is None else about["minimum"]
        high = high if about["maximum"] is None else about["maximum"]
        if one.type is int:
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=0)]
        elif one.type is float:
            descriptor.floating_point_range = [FloatingPointRange(from_value=float(low), to_value=float(high))]
    return descriptor
