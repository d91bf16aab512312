"""The classifier and its model: loaded, missing, chosen from several, fixed while it is there, freed."""

from __future__ import annotations

import threading

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("vlm_perception.srv", reason="the interfaces are not built", exc_type=ImportError)

from classifier_world import SIDE, Scripted, World
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition

from vlm_perception.models.base import ModelError
from vlm_perception.models.loader import load_first
from vlm_perception.models.options import LoadOptions


def test_while_the_model_loads_asking_says_so(ros):
    gate, model = threading.Event(), Scripted()
    world = World(ros, load=lambda *_: gate.wait(20) and model)
    reply = world.ask(SIDE)
    assert not reply.success and "not there yet: loading ('nano')" in reply.message
    assert "wait for a message on model_scope" in reply.message
    world.until_health("loading", DiagnosticStatus.WARN)
    # A recording that waits for a subscriber must not be played to a model that is not there yet.
    assert not world.camera.get_subscription_count()
    gate.set()
    world.until_label("clear")
    assert world.camera.get_subscription_count() == 1


def test_a_model_that_cannot_be_loaded_leaves_a_node_that_says_why_and_can_try_again(ros):
    asked = []

    def load(name, options, passed_over):
        asked.append((name, options.device, options.dtype))
        if name == "/nowhere":
            raise ModelError("/nowhere does not exist, expected a model folder")
        return world.model

    world = World(ros, load=load, model="/nowhere", device="cpu")
    ros.until(lambda: world.state() == "unconfigured", "return to unconfigured")
    reply = world.ask(SIDE)
    assert not reply.success and "/nowhere does not exist" in reply.message
    world.until_health("/nowhere does not exist", DiagnosticStatus.ERROR)
    assert ros.set_parameter("classifier", "model", "nano").successful
    assert world.lifecycle(Transition.TRANSITION_CONFIGURE) and world.lifecycle(Transition.TRANSITION_ACTIVATE)
    world.until_label("clear")
    assert asked == [("/nowhere", "cpu", "auto"), ("nano", "cpu", "auto")]


def test_nobody_on_the_network_sends_the_images_to_a_server_that_was_not_named_at_start(ros):
    world = World(ros, start=False, model="gpu.invalid:8000, nano")
    for name in ("http://evil.invalid", "evil.invalid:80", "nano,https://user:secret@evil.invalid#m", "gpu.invalid:81"):
        result = ros.set_parameter("classifier", "model", name)
        assert not result.successful and "allow_remote_model" in result.reason and "secret" not in result.reason
    for name in ("nano", "/models/other", "nano, gpu.invalid:8000"):
        assert ros.set_parameter("classifier", "model", name).successful, name
    assert not ros.set_parameter("classifier", "allow_remote_model", True).successful
    ros.remove(world.classifier)
    World(ros, start=False, allow_remote_model=True)
    assert ros.set_parameter("classifier", "model", "http://other.invalid").successful


def test_a_real_missing_folder_is_reported_by_the_real_loader(ros):
    world = World(ros, load=load_first, model="/does/not/exist")
    world.until_health("/does/not/exist", DiagnosticStatus.ERROR)


def test_of_several_models_the_first_that_can_be_loaded_answers_and_the_diagnostics_say_why_no_other(ros):
    world = World(ros, load=load_first, model="/does/not/exist, nano", device="cpu")
    world.timer.cancel()
    ros.until(lambda: world.classifier._worker.state == "ready", "model", 60)
    values = {v.key: v.value for v in world.until_health("image").values}
    assert values["model"] == "nano" and "'/does/not/exist' does not exist" in values["passed over"]


def test_how_the_model_is_loaded_are_parameters_checked_and_fixed_while_it_is_there(ros):
    asked, model = [], Scripted()
    world = World(ros, load=lambda *a: asked.append(a[1]) or model, image_size=448, dtype="tf32")
    world.until_label("clear")
    assert asked[0] == LoadOptions(image_size=448, dtype="tf32", request_timeout=40.0)
    for name, value, word in [
        ("quantization", "int8", "quantization cannot change while the node is configured"),
        ("check_memory", False, "check_memory cannot change"),
        ("dtype", "best", "expected one of auto, float32, tf32"),
    ]:
        result = ros.set_parameter("classifier", name, value)
        assert not result.successful and word in result.reason, (name, result.reason)


def test_inactive_means_silent_and_the_model_stays(ros):
    loads, model = [], Scripted()
    world = World(ros, load=lambda *_: loads.append(1) or model)
    world.until_label("clear")
    assert world.lifecycle(Transition.TRANSITION_DEACTIVATE)
    ros.spin(0.2)
    world.labels.clear()
    reply = world.ask(SIDE)
    assert not reply.success and "not active" in reply.message
    ros.spin(0.3)
    assert not world.labels
    assert world.lifecycle(Transition.TRANSITION_ACTIVATE)
    world.until_label("clear")
    assert len(loads) == 1
    assert world.lifecycle(Transition.TRANSITION_DEACTIVATE) and world.lifecycle(Transition.TRANSITION_CLEANUP)
    assert "not configured" in world.ask(SIDE).message


def test_autostart_can_be_turned_off(ros):
    world = World(ros, autostart=False)
    assert world.state() == "unconfigured"
    assert "configure" in world.ask(SIDE).message
