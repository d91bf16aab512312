"""A node's parameters as one frozen dataclass: declared, checked and changed in one place.

    @dataclass(frozen=True)
    class Parameters:
        rate: float = parameter(10.0, "How often to look", unit="Hz", minimum=0.1, maximum=30.0, dynamic=True)

    table = ParameterTable(node, Parameters, on_change=self.adopt)
    table.values.rate

What one field cannot say by itself belongs into the dataclass's `__post_init__`, as a ValueError.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import ParameterNotDeclaredException
from rclpy.node import Node
from rclpy.parameter import Parameter

Values = TypeVar("Values")

INT64 = (-(2**63), 2**63 - 1)
TYPES = {
    bool: (Parameter.Type.BOOL, "true or false"),
    int: (Parameter.Type.INTEGER, "an integer"),
    float: (Parameter.Type.DOUBLE, "a number"),
    str: (Parameter.Type.STRING, "a text"),
    tuple[str, ...]: (Parameter.Type.STRING_ARRAY, "a list of texts"),
    tuple[float, ...]: (Parameter.Type.DOUBLE_ARRAY, "a list of numbers"),
}


class ParameterError(ValueError):
    """The parameters given at start cannot be used; the message names each one and what was expected."""


def parameter(
    default: Any,
    description: str,
    *,
    unit: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Sequence[str] = (),
    dynamic: bool = False,
    shown: Callable[[str], str] | None = None,
) -> Any:
    """A dataclass field that is a ROS parameter.

    `minimum` and `maximum` are inclusive and hold for every element of a list. `dynamic`: it may
    change while the node runs; otherwise it is read-only. `shown` returns a value as others may read
    it, without what is secret in it; the node itself has the whole.
    """
    return dataclasses.field(
        default=default,
        metadata={
            "description": description,
            "unit": unit,
            "minimum": minimum,
            "maximum": maximum,
            "choices": tuple(choices),
            "dynamic": dynamic,
            "shown": shown,
        },
    )


class ParameterTable(Generic[Values]):
    """Declares the fields of the dataclass `definition` on `node` and keeps `values`, an instance of it.

    A change of one or several parameters is validated as a whole; then `on_change(new_values)` is
    called, which may refuse with a ValueError; only then does it become `values`. Raises
    ParameterError when the values given at start are wrong.
    """

    def __init__(self, node: Node, definition: type[Values], on_change: Callable[[Values], None] | None = None) -> None:
        self._definition = definition
        self._fields = field_types(definition)
        self._on_change = on_change
        self._warn_of_unknown_names(node)
        self.values: Values = self._declare(node)
        node.add_pre_set_parameters_callback(partial(self._prepare, node))
        node.add_on_set_parameters_callback(self._change)

    def _declare(self, node: Node) -> Values:
        given = {}
        for name, (field, _) in self._fields.items():
            # Declared without a type at first, so that every wrong value gets our one error, and 5 is good for 5.0.
            value = _declare(node, field)
            # The empty list of a parameter file has no type and arrives as nothing.
            given[name] = [] if value is None and isinstance(field.default, tuple) else value
        instance = check(self._definition, given)
        for name, (field, type_) in self._fields.items():
            value = Parameter(name, TYPES[type_][0], _to_ros(_shown(field, getattr(instance, name))))
            node.set_descriptor(name, _descriptor(field, type_), value.get_parameter_value())
        return instance

    def _prepare(self, node: Node, parameters: list[Parameter]) -> list[Parameter]:
        """Take an integer for a number and an empty list for a list of any type, as YAML users expect.

        Raises ParameterNotDeclaredException, with a suggestion, for a name that there is not; the service answers it.
        """
        for name in (p.name for p in parameters if p.name not in self._fields and not node.has_parameter(p.name)):
            error = ParameterNotDeclaredException(name)
            error.args = (f"there is no parameter {name!r}: {suggestion(name, self._fields)}",)
            raise error
        return [
            Parameter(p.name, TYPES[self._fields[p.name][1]][0], _convert(self._fields[p.name][1], p.value))
            if p.name in self._fields and p.value is not None and _is(self._fields[p.name][1], p.value)
            else p
            for p in parameters
        ]

    def _change(self, parameters: list[Parameter]) -> SetParametersResult:
        try:
            changes = {p.name: _check(*self._fields[p.name], p.value) for p in parameters if p.name in self._fields}
            if changes:
                values = dataclasses.replace(self.values, **changes)  # type: ignore[type-var]
                if self._on_change:
                    self._on_change(values)
                self.values = values
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _warn_of_unknown_names(self, node: Node) -> None:
        for name in getattr(node, "_parameter_overrides", {}):
            if name not in self._fields and not node.has_parameter(name) and "." not in name:
                hint = suggestion(name, self._fields)
                node.get_logger().warning(f"there is no parameter {name!r}, its value is not used: {hint}")


def field_types(definition: type) -> dict[str, tuple[dataclasses.Field, Any]]:
    """The fields of a dataclass of parameters and their types, by name."""
    types = typing.get_type_hints(definition)
    return {field.name: (field, types[field.name]) for field in dataclasses.fields(definition)}


def check(definition: type[Values], given: Mapping[str, Any]) -> Values:
    """Return the dataclass `definition` with the values `given`, the others by default.

    Raises ParameterError, which names each wrong value and what was expected.
    """
    values, errors = {}, []
    fields = field_types(definition)
    for name, value in given.items():
        try:
            values[name] = _check(*fields[name], value)
        except ValueError as error:
            errors.append(str(error))
    if errors:
        raise ParameterError("; ".join(errors))
    try:
        return definition(**values)
    except ValueError as error:
        raise ParameterError(str(error)) from None


def suggestion(name: str, names: Iterable[str]) -> str:
    """What to say of a parameter's name that is none of `names`."""
    similar = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {similar[0]!r}?" if similar else "ros2 param list shows the names"


def _declare(node: Node, field: dataclasses.Field) -> Any:
    """Declare the parameter and return what was given for it; what is secret in that is declared hidden."""
    descriptor = ParameterDescriptor(dynamic_typing=True)
    override = getattr(node, "_parameter_overrides", {}).get(field.name)
    if override is None or _shown(field, override.value) == override.value:
        return node.declare_parameter(field.name, _to_ros(field.default), descriptor).value
    node.declare_parameter(field.name, _shown(field, override.value), descriptor, ignore_override=True)
    return override.value


def _shown(field: dataclasses.Field, value: Any) -> Any:
    hide = field.metadata["shown"]
    return hide(value) if hide and isinstance(value, str) else value


def listed(definition: Any) -> str:
    """Return the parameters of the dataclass `definition` in words, one a line, for --help."""
    lines = []
    for field in dataclasses.fields(definition):
        value, unit = field.default, field.metadata["unit"]
        words = str(value).lower() if isinstance(value, bool) else repr(_to_ros(value))
        lines.append(f"  {field.name} ({words}{f' {unit}' if unit else ''}): {field.metadata['description']}")
    return "\n".join(lines)


def _to_ros(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _descriptor(field: dataclasses.Field, type_: Any) -> ParameterDescriptor:
    about = field.metadata
    descriptor = ParameterDescriptor(
        name=field.name,
        type=TYPES[type_][0].value,
        description=about["description"] + (f" [{about['unit']}]" if about["unit"] else ""),
        read_only=not about["dynamic"],
        additional_constraints=f"one of {', '.join(about['choices'])}" if about["choices"] else "",
    )
    if about["minimum"] is not None or about["maximum"] is not None:
        low, high = INT64 if type_ is int else (-math.inf, math.inf)
        low = low if about["minimum"] is None else about["minimum"]
        high = high if about["maximum"] is None else about["maximum"]
        if type_ is int:
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=0)]
        elif type_ is float:
            descriptor.floating_point_range = [FloatingPointRange(from_value=float(low), to_value=float(high))]
    return descriptor


def _is(type_: Any, value: Any) -> bool:
    """Whether `value`, as rclpy gives it, can be a `type_` without a loss."""
    if type_ in (tuple[str, ...], tuple[float, ...]):
        element_type = typing.get_args(type_)[0]
        is_sequence = not isinstance(value, (str, bytes)) and hasattr(value, "__len__")
        return is_sequence and all(
            isinstance(element, str) if element_type is str else _is(float, element) for element in value
        )
    if isinstance(value, bool):
        return type_ is bool
    # YAML reads 5 as an integer where a number is meant, or a text: the first webcam is source:=0.
    return isinstance(value, (int, type_) if type_ in (float, str) else type_)


def _convert(type_: Any, value: Any) -> Any:
    if type_ in (tuple[str, ...], tuple[float, ...]):
        return [typing.get_args(type_)[0](element) for element in value]
    return type_(value)


def _example(type_: Any, default: Any, value: Any) -> str:
    """How to write a parameter: of a list what was given without its brackets, else the default."""
    if type_ == tuple[str, ...]:
        items = [part.strip() for part in value.split(",")] if isinstance(value, str) else default
        return f"[{', '.join(items):.200}]"
    return str(default).lower() if type_ is bool else repr(_to_ros(default))


def _check(field: dataclasses.Field, type_: Any, value: Any) -> Any:
    """Return `value` as the field's own type; ValueError says what is wrong and what was expected."""
    about, name = field.metadata, field.name
    if not _is(type_, value):
        example = _example(type_, field.default, value)
        raise ValueError(f"parameter {name} is {value!r:.200}, expected {TYPES[type_][1]}, for example {example}")
    try:
        value = _convert(type_, value)
    except OverflowError:
        raise ValueError(f"parameter {name} is {value!r:.200}, which is too large for a number") from None
    if type_ is int and not INT64[0] <= value <= INT64[1]:
        raise ValueError(f"parameter {name} is {value!r:.200}, expected an integer of at most 64 bits")
    value = tuple(value) if isinstance(value, list) else value
    for element in value if isinstance(value, tuple) else (value,):
        if isinstance(element, float) and not math.isfinite(element):
            raise ValueError(f"parameter {name} is {value!r:.200}, expected a finite number")
        low, high = about["minimum"], about["maximum"]
        if (low is not None and element < low) or (high is not None and element > high):
            limits = " and ".join(
                words for words, limit in ((f"at least {low}", low), (f"at most {high}", high)) if limit is not None
            )
            unit = f" {about['unit']}" if about["unit"] else ""
            raise ValueError(f"parameter {name} is {value!r:.200}, expected {limits}{unit}")
        if about["choices"] and element not in about["choices"]:
            raise ValueError(f"parameter {name} is {value!r:.200}, expected one of {', '.join(about['choices'])}")
    return value
