"""The launch files start the real nodes with the names, topics and parameters that were asked for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT

launch_pytest = pytest.importorskip("launch_pytest", reason="needs launch_pytest, as in a ROS 2 distribution")

from launch import LaunchContext, LaunchDescription, LaunchService
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, RegisterEventHandler
from launch.event_handlers import OnProcessExit
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.logging import get_logger
from rcl_interfaces.srv import GetParameters
from rclpy.parameter import parameter_value_to_python
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

from vlm_perception.msg import SceneLabel

LAUNCH = ROOT / "launch"
EXIT_CODES: dict[str, int] = {}


def source(file: str) -> PythonLaunchDescriptionSource:
    return PythonLaunchDescriptionSource(str(LAUNCH / file))


def parameters(ros: Any, node: str, *names: str) -> list[Any]:
    response = ros.call(GetParameters, f"{node}/get_parameters", GetParameters.Request(names=list(names)))
    return [parameter_value_to_python(value) for value in response.values]


def processes(name: str) -> list[Path]:
    """The /proc folders of the processes of this run that are the node `name` of the namespace /r1."""
    wanted = (f"__node:={name}".encode(), b"__ns:=/r1")
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended
        if all(word in words for word in wanted):
            found.append(folder)
    return found


def on_exit(event: Any, context: LaunchContext) -> None:
    EXIT_CODES[event.process_name.rpartition("-")[0]] = event.returncode


@launch_pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> LaunchDescription:
    from vlm_perception.training import nano

    folder = tmp_path_factory.mktemp("demo")
    processor = nano.build_processor()
    nano.save(nano.build_model(processor, seed=1), processor, folder / "untrained")
    own = folder / "own.yaml"
    own.write_text(
        "/**:\n"
        "  simulator: {ros__parameters: {seed: 3, width: 320, height: 240}}\n"
        "  classifier: {ros__parameters: {label.rate: 2.5}}\n"
    )
    arguments = {
        "namespace": "r1",
        "params_file": str(own),
        "seed": "5",
        "model": str(folder / "untrained"),
        "image_topic": "front/image",
        "camera_topics": "[/r1/camera/image_raw]",
        "cmd_vel_topic": "base/cmd_vel",
        "enable_stamped_cmd_vel": "true",
    }
    return LaunchDescription(
        [
            RegisterEventHandler(OnProcessExit(on_exit=on_exit)),
            IncludeLaunchDescription(source("demo.launch.py"), launch_arguments=arguments.items()),
        ]
    )


def test_every_argument_is_declared_once_and_explained():
    for file in ("bringup.launch.py", "demo.launch.py"):
        description = source(file).try_get_launch_description_without_context()
        arguments = description.get_launch_arguments()
        names = [argument.name for argument in arguments]
        assert {"model", "params_file", "image_topic", "cmd_vel_topic", "namespace", "use_sim_time"} <= set(names)
        assert len(set(names)) == len(names)
        for argument in arguments:
            assert isinstance(argument, DeclareLaunchArgument) and argument.description != "no description given"


FAST = "/**: {navigator: {ros__parameters: {limits.forward_speed: fast}}}"
ELSEWHERE = "/r2: {navigator: {ros__parameters: {limits.forward_speed: 0.2}}}"


@pytest.mark.parametrize(
    ("arguments", "content", "words"),
    [
        ({}, FAST, "/r1/navigator: parameter limits.forward_speed is 'fast', expected a number"),
        ({}, ELSEWHERE, "reach no navigator"),
        ({}, None, "own.yaml': it does not exist"),
        ({"camera_topics": "front/image_raw"}, FAST.replace("fast", "0.2"), "for example [front/image_raw]"),
        ({"source": "film.mp4"}, FAST.replace("fast", "0.2"), "add camera:=true"),
        ({"seed": "1", "simulator": "false"}, FAST.replace("fast", "0.2"), "add simulator:=true"),
    ],
)
def test_what_would_be_ignored_stops_the_launch_in_words(tmp_path, caplog, arguments, content, words):
    if content:
        (tmp_path / "own.yaml").write_text(content)
    arguments = {"namespace": "r1", "params_file": str(tmp_path / "own.yaml"), **arguments}
    service = LaunchService(noninteractive=True)
    include = IncludeLaunchDescription(source("demo.launch.py"), launch_arguments=arguments.items())
    service.include_launch_description(LaunchDescription([include]))
    logger = get_logger("launch")  # hands nothing to the root logger
    logger.addHandler(caplog.handler)
    try:
        assert service.run() == 1
    finally:
        logger.removeHandler(caplog.handler)
    assert words in caplog.text


@pytest.mark.launch(fixture=demo)
def test_an_argument_overrides_the_users_file_and_that_overrides_ours(ros):
    assert parameters(ros, "/r1/simulator", "seed", "width", "camera_rate") == [5, 320, 30.0]
    model, rate, labels, topics = parameters(
        ros, "/r1/classifier", "model", "label.rate", "label.options", "camera_topics"
    )
    assert (Path(model).name, rate, labels[0]) == ("untrained", 2.5, "clear")
    assert list(topics) == ["/r1/camera/image_raw"]
    assert parameters(ros, "/r1/navigator", "enable_stamped_cmd_vel") == [True]


@pytest.mark.launch(fixture=demo)
def test_images_go_where_they_were_sent(ros):
    images = ros.collect(Image, "/r1/front/image", qos_profile_sensor_data)
    ros.until(lambda: images, "image")
    assert (images[0].width, images[0].height) == (320, 240)
    for ends in (ros.node.get_publishers_info_by_topic, ros.node.get_subscriptions_info_by_topic):
        ros.until(lambda ends=ends: ends("/r1/front/camera_info"), "simulator and navigator beside the images")
    assert not ros.node.get_publishers_info_by_topic("/r1/camera/image_raw")


@pytest.mark.launch(fixture=demo)
def test_the_classifier_starts_by_itself_and_labels_them(ros):
    labels = ros.collect(SceneLabel, "/r1/scene_label")
    ros.until(lambda: labels, "label", seconds=60.0)
    assert labels[0].header.frame_id == "camera_optical_frame"
    assert labels[0].raw_label in labels[0].choices and sum(labels[0].probabilities) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.launch(fixture=demo)
def test_commands_go_where_they_were_sent_and_are_stamped(ros):
    (navigator,) = ros.until(lambda: ros.node.get_publishers_info_by_topic("/r1/base/cmd_vel"), "navigator")
    assert navigator.topic_type == "geometry_msgs/msg/TwistStamped"


@pytest.mark.launch(fixture=demo)
def test_every_node_has_the_profile_for_images(ros):
    for name in ("simulator", "classifier", "navigator"):
        (process,) = ros.until(lambda name=name: processes(name), f"process of {name}")
        assert re.search(
            r"^FASTRTPS_DEFAULT_PROFILES_FILE=.+/share/vlm_perception/config/fastdds.xml$",
            (process / "environ").read_text().replace("\0", "\n"),
            re.MULTILINE,
        )


@pytest.mark.launch(fixture=demo, shutdown=True)
def test_all_nodes_end_cleanly():
    assert EXIT_CODES == {"simulator": 0, "classifier": 0, "navigator": 0}
