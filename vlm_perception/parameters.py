"""Parameters, declared once by the dataclass that uses them. No ROS.

    @dataclass(frozen=True)
    class Smoothing:
        window: float = parameter(2.0, "How long an image counts", unit="s", minimum=0.0, maximum=60.0)

    @dataclass(frozen=True)
    class Parameters:
        model: str = parameter("nano", "What to load", when=CONFIGURE)
        smoothing: Smoothing = group(Smoothing)

`declared(Parameters)` then has `model` and `smoothing.window`. A field without `parameter()` or `group()` is a
constant of the package. Checks of several fields belong into the dataclass's `__post_init__`, which raises ValueError.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

Values = TypeVar("Values")

START, CONFIGURE, LIVE = "start", "configure", "live"
"""Times at which a parameter takes effect: the start of the node; configure, so it cannot change while the node is
configured; at once."""
INT64 = (-(2**63), 2**63 - 1)
TYPES = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a text",
    tuple[str, ...]: "a list of texts",
    tuple[float, ...]: "a list of numbers",
}


class ParameterError(ValueError):
    """Parameters that cannot be used; the text names each one and what was expected."""


def parameter(
    default: Any,
    description: str,
    *,
    unit: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Sequence[str] = (),
    when: str = LIVE,
    shown: Callable[[str], str] | None = None,
) -> Any:
    """Return a dataclass field that is a parameter.

    `minimum` and `maximum` are inclusive and hold for every element of a list. `when` it takes effect is START,
    CONFIGURE or LIVE. `shown` returns a value without its secrets.
    """
    about = {
        "description": description,
        "unit": unit,
        "minimum": minimum,
        "maximum": maximum,
        "choices": tuple(choices),
        "when": when,
        "shown": shown,
    }
    return dataclasses.field(default=default, metadata=about)


def group(definition: Callable[[], Any], prefix: str | None = None) -> Any:
    """Return a dataclass field that holds the parameters of another dataclass.

    Their names begin with the field's own name and a dot, or with `prefix`.
    """
    return dataclasses.field(default_factory=definition, metadata={"prefix": prefix})


class Declared(NamedTuple):
    """One parameter: its dotted `name`, the `path` of fields that leads to it, its field and its type."""

    name: str
    path: tuple[str, ...]
    field: dataclasses.Field
    type: Any

    def value_in(self, values: Any) -> Any:
        """Return its value in an instance of the dataclass that declares it."""
        for step in self.path:
            values = getattr(values, step)
        return values


def declared(definition: type) -> dict[str, Declared]:
    """Return the parameters of a dataclass and of its groups, by dotted name, in their order."""
    return {one.name: one for one in _declared(definition, "", ())}


def _declared(definition: type, prefix: str, path: tuple[str, ...]) -> Iterable[Declared]:
    types = typing.get_type_hints(definition)
    for field in dataclasses.fields(definition):
        if "description" in field.metadata:
            yield Declared(prefix + field.name, (*path, field.name), field, types[field.name])
        elif "prefix" in field.metadata:
            own = field.metadata["prefix"]
            inner = f"{field.name}." if own is None else own
            yield from _declared(types[field.name], prefix + inner, (*path, field.name))


def check(definition: type[Values], given: Mapping[str, Any], values: Values | None = None) -> Values:
    """Return the dataclass `definition` with the values `given` by dotted name, the others as in `values` or default.

    Raises ParameterError, which names each wrong value and what was expected.
    """
    checked, errors = {}, []
    all_of = declared(definition)
    for name, value in given.items():
        try:
            checked[name] = _check(all_of[name], value)
        except ValueError as error:
            errors.append(str(error))
    if errors:
        raise ParameterError("; ".join(errors))
    try:
        return _replace(definition() if values is None else values, {all_of[n].path: v for n, v in checked.items()})
    except ValueError as error:
        raise ParameterError(str(error)) from None


def _replace(values: Any, changes: Mapping[tuple[str, ...], Any]) -> Any:
    """Return `values` with the changes at each path, made at once."""
    first: dict[str, dict[tuple[str, ...], Any]] = {}
    for path, value in changes.items():
        first.setdefault(path[0], {})[path[1:]] = value
    new = {name: rest[()] if () in rest else _replace(getattr(values, name), rest) for name, rest in first.items()}
    return dataclasses.replace(values, **new)


def suggestion(name: str, names: Iterable[str], renamed: Mapping[str, str] | None = None) -> str:
    """Return a hint for a parameter's `name` that is none of `names`; `renamed` has the new names of old ones."""
    if renamed and name in renamed:
        return renamed[name]
    similar = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {similar[0]!r}?" if similar else "ros2 param list shows the names"


def shown(field: dataclasses.Field, value: Any) -> Any:
    """Return `value` without its secrets."""
    hide = field.metadata["shown"]
    return hide(value) if hide and isinstance(value, str) else value


def listed(definition: type) -> str:
    """Return the parameters of the dataclass `definition` in words, one per line, for --help."""
    return "\n".join(
        f"  {one.name} ({in_words(one)}): {one.field.metadata['description']}" for one in declared(definition).values()
    )


def in_words(one: Declared) -> str:
    """Return a parameter's default with its unit."""
    default, unit = one.field.default, one.field.metadata["unit"]
    words = str(default).lower() if isinstance(default, bool) else repr(as_list(default))
    return f"{words}{f' {unit}' if unit else ''}"


def as_list(value: Any) -> Any:
    """Return a tuple as a list, which YAML and ROS support; anything else as it is."""
    return list(value) if isinstance(value, tuple) else value


def fits(type_: Any, value: Any) -> bool:
    """Whether `value`, from YAML or rclpy, can become a `type_` without loss."""
    if type_ in (tuple[str, ...], tuple[float, ...]):
        element_type = typing.get_args(type_)[0]
        is_sequence = not isinstance(value, (str, bytes)) and hasattr(value, "__len__")
        return is_sequence and all(
            isinstance(element, str) if element_type is str else fits(float, element) for element in value
        )
    if isinstance(value, bool):
        return type_ is bool
    # YAML reads 5 as an integer, also for a float or a text: the first webcam is source:=0.
    return isinstance(value, (int, type_) if type_ in (float, str) else type_)


def converted(type_: Any, value: Any) -> Any:
    """Return a fitting `value` as a `type_`, with a list for a tuple."""
    if type_ in (tuple[str, ...], tuple[float, ...]):
        return [typing.get_args(type_)[0](element) for element in value]
    return type_(value)


def _example(type_: Any, default: Any, value: Any) -> str:
    """Return an example of a value: a list given without brackets, with brackets, else the default."""
    if type_ == tuple[str, ...]:
        items = [part.strip() for part in value.split(",")] if isinstance(value, str) else default
        return f"[{', '.join(items):.200}]"
    return str(default).lower() if type_ is bool else repr(as_list(default))


def _check(one: Declared, value: Any) -> Any:
    """Return `value` as the parameter's own type; ValueError says what is wrong and what was expected."""
    name, type_, about = one.name, one.type, one.field.metadata
    if not fits(type_, value):
        example = _example(type_, one.field.default, value)
        raise ValueError(f"parameter {name} is {value!r:.200}, expected {TYPES[type_]}, for example {example}")
    try:
        value = converted(type_, value)
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
