"""A model that was taught little says so: what it cannot know is refused by name, and no robot drives on it."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from vlm_perception.models.base import ModelError
from vlm_perception.models.loader import NANO_FOLDER, load_first
from vlm_perception.models.scope import FILE, Scope
from vlm_perception.questions import Choice, Text, YesNo

SCOPE = Scope("it knows kitchens", {"is {target} on?": ("yes", "no"), "which?": ("a", "b", "c"), "say": ()}, ("light",))


def test_nano_says_what_its_training_taught():
    from vlm_perception.training.nano import SCOPE as TAUGHT

    assert Scope.from_folder(NANO_FOLDER) == TAUGHT
    assert TAUGHT.simulator_only and "red ball" in TAUGHT.targets and TAUGHT.clear_distance == 1.5


@pytest.mark.parametrize(
    ("question", "words"),
    [
        (Choice("which?", ("c", "a")), ""),
        (YesNo("is light on?"), ""),
        (Text("say"), ""),
        (YesNo("is heating on?"), "the target 'heating', expected one of light (it knows kitchens)"),
        (Choice("which?", ("a", "kitchen")), "the answers ['kitchen'] to 'which?', expected some of a, b, c"),
        (Choice("which", ("a", "b")), "the question 'which', expected one of 'is {target} on?', 'which?', 'say'"),
        (Text("is light on?"), ""),
    ],
)
def test_what_a_model_was_not_taught_is_named_with_what_it_knows(question, words):
    unknown = SCOPE.unknown(question)
    assert words in unknown if words else unknown is None
    assert (SCOPE.unknown_target(question) is not None) == ("target" in words.split("expected")[0])


def test_a_scope_is_kept_in_the_models_folder(tmp_path):
    assert Scope.from_folder(tmp_path) is None
    for scope in (SCOPE, replace(SCOPE, clear_distance=2.0)):
        scope.save(tmp_path)
        assert Scope.from_folder(tmp_path) == scope


@pytest.mark.parametrize(
    "content",
    [
        *(
            f'{{"about": "x", "questions": {{"a": []}}, "clear_distance": {bad}}}'
            for bad in ('"far"', "0", "NaN", "[1]")
        ),
        "",
        "[]",
        "{}",
        '{"about": 1, "questions": {"a": []}}',
        '{"about": "x", "questions": {"a": "b"}}',
        "[" * 9999,
    ],
)
def test_a_scope_that_cannot_be_read_is_an_error_of_the_model(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(ModelError, match=r"scope\.json cannot be used"):
        Scope.from_folder(tmp_path)


@pytest.fixture
def photographs(tmp_path):
    """A folder with a photograph and noise."""
    cbook = pytest.importorskip("matplotlib.cbook")
    with cbook.get_sample_data("grace_hopper.jpg") as photograph:
        (tmp_path / "0.jpg").write_bytes(photograph.read())
    cv2.imwrite(str(tmp_path / "1.png"), np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8))
    return tmp_path


def test_a_robot_stands_still_where_nano_looks_at_anything_but_the_simulator(ros, photographs):
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
    from geometry_msgs.msg import Twist
    from rclpy.parameter import Parameter

    from vlm_perception.msg import NavigationState, Question
    from vlm_perception.nodes.camera import CameraNode
    from vlm_perception.nodes.classifier import Classifier
    from vlm_perception.nodes.navigator import Navigator
    from vlm_perception.nodes.run import autostart
    from vlm_perception.nodes.simulator import Simulator
    from vlm_perception.srv import Ask, SetSearchTarget

    twists, states = ros.collect(Twist, "cmd_vel"), ros.collect(NavigationState, "navigation_state")
    health = ros.collect(DiagnosticArray, "/diagnostics")
    overrides = [Parameter("source", value=str(photographs)), Parameter("loop", value=True)]
    camera = ros.add(CameraNode(parameter_overrides=overrides))
    classifier = ros.add(Classifier(load_first, parameter_overrides=[Parameter("description.rate", value=0.0)]))
    navigator = ros.add(Navigator())
    for node in (classifier, navigator):
        autostart(node)

    def set_target(target):
        return ros.call(SetSearchTarget, "set_search_target", SetSearchTarget.Request(target=target))

    def health_of(name):
        return next((s for m in reversed(health) for s in m.status if s.name == name), None)

    def moves():
        return any(twist != Twist() for twist in twists)

    ros.until(lambda: navigator._classifier.scope.targets, "what the model knows", 60)
    refused = set_target("red motorcycle")
    assert not refused.success and "'red motorcycle'" in refused.message and "red ball" in refused.message
    refused = ros.set_parameter("classifier", "label.options", ["kitchen", "office"])
    assert not refused.successful and "'kitchen', 'office'" in refused.reason and "corridor" in refused.reason

    def ask(prompt, *options):
        return ros.call(Ask, "ask", Ask.Request(questions=[Question(name="q", prompt=prompt, options=options)]))

    ros.until(lambda: ask("which way is clear?", "left", "none").success, "an answer")
    assert "these images are not the simulator's" in ask("which way is clear?", "left", "none").out_of_scope
    assert "the target 'person'" in ask("is there a person?", "yes", "no").message

    assert set_target("The Red  ball").success
    ros.until(lambda: navigator._pilot.answers.faults["out of scope"] >= 8, "answers about the photographs")
    assert not moves()
    assert states[-1].target == "red ball" and "nano knows this package's simulator only" in states[-1].reason
    doubtful = ros.until(lambda: (s := health_of("classifier")) and "simulator" in s.message and s, "health")
    assert doubtful.level == DiagnosticStatus.WARN

    assert ros.set_parameter("navigator", "allow_nano", True).successful  # or the test would show nothing
    ros.until(moves, "motion")
    assert ros.set_parameter("navigator", "allow_nano", False).successful
    ros.until(lambda: not twists.clear() and not ros.spin(0.3) and not moves(), "standstill")

    ros.remove(camera)
    ros.add(Simulator(parameter_overrides=[Parameter("width", value=320), Parameter("height", value=240)]))
    ros.until(moves, "motion in the simulator")
    ros.until(lambda: health_of("classifier").level == DiagnosticStatus.OK, "health without a warning")
    assert ask("which way is clear?", "left", "none").out_of_scope == ""
    assert "the question 'is it warm?'" in ask("is it warm?", "yes", "no").out_of_scope


def test_labels_that_a_model_cannot_know_are_not_loaded_with_it(ros):
    from diagnostic_msgs.msg import DiagnosticArray
    from rclpy.parameter import Parameter

    from vlm_perception.nodes.classifier import Classifier
    from vlm_perception.nodes.run import autostart

    health = ros.collect(DiagnosticArray, "/diagnostics")
    autostart(
        ros.add(Classifier(load_first, parameter_overrides=[Parameter("label.options", value=["clear", "office"])]))
    )
    ros.until(lambda: "'office'" in str(health) and "change the labels" in str(health), "refusal by name", 60)
