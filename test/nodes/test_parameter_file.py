"""A user's parameters file counts, or the launch stops in words: nothing of it is ignored in silence."""

from __future__ import annotations

import dataclasses
import string

import pytest
from paths import ROOT

pytest.importorskip("rclpy")

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.node import Node

from vlm_perception.nodes import navigator
from vlm_perception.nodes.parameter_file import (
    as_yaml,
    check_sections,
    definition,
    merge,
    read_arguments,
    read_sections,
)
from vlm_perception.parameters import ParameterError, check, declared

OURS = ["classifier", "navigator", "camera", "simulator"]
STARTED = ["/r1/classifier", "/r1/navigator"]


def sections_of(folder, text):
    file = folder / "own.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_sections(file)


def merged(folder, text, node="/r1/navigator", name="navigator", **arguments):
    """What the launch files would give the node."""
    sections = sections_of(folder, text)
    check_sections(sections, STARTED, OURS)
    return merge(definition(name), node, sections, read_arguments(definition(name), arguments))


def overrides(folder, text, namespace, node="navigator"):
    """What rcl itself gives a node of this name."""
    (folder / "rcl.yaml").write_text(text)
    arguments = ["--ros-args", "--params-file", str(folder / "rcl.yaml"), "-r", f"__ns:={namespace}"]
    made = Node(node, cli_args=arguments, start_parameter_services=False, enable_rosout=False)
    try:
        return {name: value.value for name, value in made._parameter_overrides.items()}
    finally:
        made.destroy_node()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("limits.forward_speed: fast", ["limits.forward_speed is 'fast'", "a number, for example 0.7"]),
        ('limits: {forward_speed: "0.5"}', ["limits.forward_speed is '0.5'", "a number"]),
        ("arrive_answers: 2.5", ["no parameter 'arrive_answers'", "it is a constant now"]),
        ("limits: {forward_speed: 99}", ["limits.forward_speed is 99", "at most 2.0 m/s"]),
        ("limits: {forward_speed: }", ["'limits.forward_speed' has no value"]),
        ("surroundings.options: 'clear, wall'", ["surroundings.options", "a list of texts, for example [clear, wall]"]),
        ("surroundings.options: [[a]]", ["line", "'surroundings.options'", "lists"]),
        ("depth.scan_pose: [1, east, 0]", ["scan_pose", "a list of numbers"]),
        ("limits.forward_sped: 0.2", ["no parameter 'limits.forward_sped'", "did you mean 'limits.forward_speed'"]),
        ("forward_speed: 0.2", ["no parameter 'forward_speed'", "its name is 'limits.forward_speed'"]),
        ("use_sim_time: 'true'", ["use_sim_time", "true or false"]),
        ("see: 0.5, lose: 0.6", ["'target.seen_threshold'", "0.3 below"]),
        ("base_frame: 1, base_frame: 2, ask_rate: 1e999", ["ask_rate"]),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_by_name(tmp_path, values, words):
    with pytest.raises(ParameterError) as error:
        merged(tmp_path, f"/**: {{navigator: {{ros__parameters: {{{values}}}}}}}")
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["no parameters", "/**:"]),
        ("# all of it\n", ["no parameters"]),
        ("navigator: {forward_speed: 0.2}", ["'forward_speed' outside of a ros__parameters"]),
        ("ros__parameters: {forward_speed: 0.2}", ["outside of a ros__parameters"]),
        ("just words", ["line 1", "name: value"]),
        ("a: [", ["cannot be read", "line 1"]),
        ("[" * 500, ["cannot be read"]),
        ("a: &x {ros__parameters: {b: 1}}\nc: *x", ["alias"]),
        (b"a: \xff\xfe", ["cannot be read"]),
        ("#" * (1 << 21), ["bytes, expected at most"]),
        ("/r2: {navigator: {ros__parameters: {ask_rate: 0.7}}}", ["no navigator", "/r2/navigator", "/**:"]),
        ("navigator: {ros__parameters: {ask_rate: 0.7}}", ["no navigator", "/navigator is none of", "/r1/navigator"]),
        ("/**: {navigatr: {ros__parameters: {ask_rate: 0.7}}}", ["no node of this launch", "/**/navigatr"]),
        (
            "/**: {classifier: {ros__parameters: {}}}\n/r2: {navigator: {ros__parameters: {ask_rate: 0.7}}}",
            ["no navigator", "line 2: /r2/navigator"],
        ),
    ],
)
def test_a_file_that_reaches_nobody_is_refused(tmp_path, text, words):
    with pytest.raises(ParameterError) as error:
        merged(tmp_path, text)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_file_that_is_none_is_refused(tmp_path):
    for file, word in ((tmp_path / "nowhere.yaml", "does not exist"), (tmp_path, "no regular file")):
        with pytest.raises(ParameterError, match=word):
            read_sections(file)


def test_arguments_win_over_the_file_and_what_nobody_gave_is_left_out(tmp_path):
    text = "/**: {camera: {ros__parameters: {source: 0, rate: 5, loop: false}}}"
    sections = sections_of(tmp_path, text)
    arguments = read_arguments(definition("camera"), {"source": "film.mp4", "loop": "true"})
    assert merge(definition("camera"), "/camera", sections, arguments) == {
        "source": "film.mp4",
        "rate": 5.0,
        "loop": True,
    }
    assert merge(definition("camera"), "/camera", sections) == {"source": "0", "rate": 5.0, "loop": False}
    assert merge(definition("camera"), "/camera") == {}


def test_one_file_for_a_whole_robot_and_for_a_fleet(tmp_path):
    """Sections of nodes that others start, that do not start now or that are another robot's are no mistake."""
    text = (
        "amcl: {ros__parameters: {anything: 1}}\n"
        "/**: {ros__parameters: {use_sim_time: true, robot.width: 0.6, of_another_node: 1}}\n"
        "/**: {simulator: {ros__parameters: {seed: 3}}}\n"
        "/r1: {navigator: {ros__parameters: {ask_rate: 0.7}}}\n"
        "/r2: {navigator: {ros__parameters: {ask_rate: 0.8}}}\n"
    )
    assert merged(tmp_path, text) == {"use_sim_time": True, "robot.width": 0.6, "ask_rate": 0.7}
    unused = check_sections(sections_of(tmp_path, text), STARTED, OURS)
    assert [words.partition(" is ")[0] for words in unused] == ["line 1: /amcl"]


PATTERNS = (
    "/**: {navigator: {ros__parameters: {x: 1}}}",
    "navigator: {ros__parameters: {x: 1}}",
    "r1: {navigator: {ros__parameters: {x: 1}}}",
    "/*/navigator: {ros__parameters: {x: 1}}",
    "/**: {ros__parameters: {x: 1}}",
    "/*: {ros__parameters: {x: 1}}",
    "/r1/**: {ros__parameters: {x: 1}}",
    "/r1: {'*': {ros__parameters: {x: 1}}}",
    "/**/r1/navigator: {ros__parameters: {x: 1}}",
    "navigator: {r1: {ros__parameters: {x: 1}}}",
    "/r1/navigator: {ros__parameters: {x: 2}}\n/**: {navigator: {ros__parameters: {x: 1}}}",
    "/**: {navigator: {ros__parameters: {x: 1}}}\n/**: {navigator: {ros__parameters: {y: 1}}}",
)
SCALARS = (
    "{a: y, b: 'y', c: On, d: 1e-3, e: 1.e-7, f: 007, g: 0x1f, h: 2026-01-01, j: 1_000, "
    "k: .5, l: +5, m: -.5E3, n: '', o: 5., q: NO}"
)


def test_sections_and_values_are_read_as_rcl_reads_them(ros, tmp_path):
    for text in PATTERNS:
        for namespace in ("/", "/r1", "/fleet/r1"):
            node = f"{namespace.rstrip('/')}/navigator"
            ours = {}
            for section in sections_of(tmp_path, text):
                if section.holds_for(node):
                    ours |= section.values
            assert ours == overrides(tmp_path, text, namespace), (text, namespace)
    text = f"/**: {{ros__parameters: {SCALARS}}}"
    (section,) = sections_of(tmp_path, text)
    theirs = overrides(tmp_path, text, "/")
    assert section.values == theirs
    assert {name: type(value) for name, value in theirs.items()} == {n: type(v) for n, v in section.values.items()}


NASTY = (
    "",
    "y",
    "no",
    "5",
    "1e3",
    "~",
    "a: b",
    "- x",
    "'\"",
    "#",
    "grün 😀",
    "\t\n\r",
    "\x1b\x7f\x85\u2028\ufeff",
    " x ",
)


def test_what_the_launch_files_write_arrives_as_it_was(ros, tmp_path):
    values = {"labels": NASTY, "scan_pose": (1e-7, 1.0, -3e300), "n": -(2**63), "on": True, "empty": (), "half": 0.5}
    arrived = overrides(tmp_path, as_yaml(values), "/r1")
    assert arrived == {**values, "labels": list(NASTY), "scan_pose": [1e-7, 1.0, -3e300], "empty": None}
    for text in ("\udc80", "a\0b"):
        with pytest.raises(ParameterError, match="Unicode text without NUL"):
            as_yaml({"model": text})


@pytest.mark.parametrize("name", OURS)
def test_the_shipped_file_is_good_as_a_users_file(name):
    table = definition(name)
    values = merge(table, f"/{name}", read_sections(ROOT / "config" / f"{name}.yaml"))
    assert check(table, values) == table() and len(values) == len(declared(table))


NAMES = st.sampled_from([field.name for field in dataclasses.fields(navigator.Parameters)]) | st.text(max_size=5)
SCALAR = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["fast", "5.0", "[", "{a", "*x", "&x", "!!python/object:os.system", "1e999", "0x", "."])
)
VALUES = SCALAR | st.lists(SCALAR, max_size=4) | st.dictionaries(NAMES, SCALAR, max_size=2)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_any_value_is_taken_with_its_type_or_refused_in_words(values):
    """Through the check of a launch and through that of a running node: only the documented error."""
    from vlm_perception.nodes.parameter_file import Section
    from vlm_perception.parameters import declared

    try:
        taken = merge(navigator.Parameters, "/navigator", [Section("/**/navigator", 1, values)])
    except ParameterError as error:
        assert str(error).startswith("/navigator: ") and len(str(error)) < 5000
        return
    types = {name: one.type for name, one in declared(navigator.Parameters).items()}
    for name, value in taken.items():
        if name in types:
            assert isinstance(value, tuple if types[name] not in (bool, int, float, str) else types[name])


@settings(max_examples=150, deadline=None)
@given(
    st.text(alphabet=string.printable + "ä\ud800\u2028", max_size=60)
    | st.text(alphabet="/*ab: {}[],'\"&\n-", max_size=60)
)
def test_any_text_is_a_file_or_refused_in_words(tmp_path_factory, text):
    folder = tmp_path_factory.getbasetemp()
    for content in (text, "/**: {navigator: {ros__parameters: {ask_rate: " + text + "}}}", "/**:\n  " + text):
        try:
            merged(folder, content.encode(errors="surrogatepass"))
        except ParameterError as error:
            assert len(str(error)) < 5000
    with contextlib.suppress(ParameterError):
        as_yaml(read_arguments(navigator.Parameters, {"base_frame": text, "ask_rate": text}))
