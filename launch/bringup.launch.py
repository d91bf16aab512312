"""The classifier and the navigator and, when asked for, a camera or a simulated robot.

`ros2 launch vlm_perception bringup.launch.py` with the arguments that `--show-args` lists. What is wrong with them or
with `params_file` stops the launch, in words, before anything starts.
"""

import atexit
import shutil
import tempfile
from pathlib import Path
from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from vlm_perception.nodes.parameter_file import (
    as_yaml,
    check_sections,
    definition,
    merge,
    read_arguments,
    read_sections,
)

BOOLEAN = ["true", "false"]
NODES = {
    "classifier": ["model", "camera_topics", "autostart", "use_sim_time"],
    "navigator": ["enable_stamped_cmd_vel", "autostart", "use_sim_time"],
    "camera": ["source", "loop", "use_sim_time"],
    "simulator": ["seed"],
}
"""The nodes and, of each, the arguments that are parameters of it."""
OPTIONAL = {"camera": ["source", "loop"], "simulator": ["seed"]}
"""The nodes that an argument of their name starts, and the arguments that mean nothing without them."""
IMAGES = "camera/image_raw"
"""The topic of the images, as the nodes call it."""
SHARE = FindPackageShare("vlm_perception")

# An argument that is a parameter of a node overrides the parameter files when it is given, and only then.
ARGUMENTS = [
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of the nodes, e.g. robot1"),
    DeclareLaunchArgument("params_file", default_value="", description="YAML file that overrides the defaults"),
    DeclareLaunchArgument("model", default_value="", description="'nano', a model folder, a server, or a list of them"),
    DeclareLaunchArgument("image_topic", default_value="camera/image_raw", description="The camera's images"),
    DeclareLaunchArgument(
        "camera_topics",
        default_value="",
        description="Several cameras' images, the navigator's first: '[front/image_raw, left/image_raw]'",
    ),
    DeclareLaunchArgument("cmd_vel_topic", default_value="cmd_vel", description="Where velocity commands go"),
    DeclareLaunchArgument(
        "enable_stamped_cmd_vel",
        default_value="",
        choices=["", *BOOLEAN],
        description="Commands are TwistStamped (true) or Twist (false)",
    ),
    DeclareLaunchArgument("camera", default_value="false", choices=BOOLEAN, description="Start the camera node too"),
    DeclareLaunchArgument("source", default_value="", description="Its video file, folder, device number or URL"),
    DeclareLaunchArgument(
        "loop", default_value="", choices=["", *BOOLEAN], description="Start its file or folder again at the end"
    ),
    DeclareLaunchArgument("simulator", default_value="false", choices=BOOLEAN, description="Start a simulated robot"),
    DeclareLaunchArgument("seed", default_value="", description="Number of the room that it is in"),
    DeclareLaunchArgument(
        "autostart", default_value="", choices=["", *BOOLEAN], description="Configure and activate the nodes"
    ),
    DeclareLaunchArgument(
        "use_sim_time", default_value="", choices=["", *BOOLEAN], description="Take the time from /clock"
    ),
    DeclareLaunchArgument(
        "use_respawn", default_value="false", choices=BOOLEAN, description="Start a node again when it dies"
    ),
    DeclareLaunchArgument(
        "log_level",
        default_value="info",
        choices=["debug", "info", "warn", "error", "fatal"],
        description="What is logged",
    ),
]


def start_nodes(context: LaunchContext) -> list[Any]:
    """The nodes for the arguments of this launch."""

    def value(argument: str) -> str:
        return LaunchConfiguration(argument).perform(context)

    def full(name: str) -> str:
        return "/".join(["", *filter(None, value("namespace").split("/")), name])

    for name, arguments in OPTIONAL.items():
        lost = [f"{argument}:={value(argument)}" for argument in arguments if value(argument)]
        if lost and value(name) != "true":
            raise ValueError(f"{' '.join(lost)} is for the {name}, which does not start: add {name}:=true")
    names = [name for name in NODES if name not in OPTIONAL or value(name) == "true"]
    sections, unused = [], []
    if value("params_file"):
        sections = read_sections(Path(value("params_file")).expanduser())
        unused = check_sections(sections, [full(name) for name in names], list(NODES))
    folder = Path(tempfile.mkdtemp(prefix="vlm_perception_"))  # a source may have a password: for this user only
    atexit.register(shutil.rmtree, folder, ignore_errors=True)

    def values(name: str) -> dict[str, Any]:
        # An argument overrides the parameters file when it is given, and only then.
        given = {argument: value(argument) for argument in NODES[name] if value(argument)}
        table = definition(name)
        return merge(table, full(name), sections, read_arguments(table, given))

    first = values("classifier").get("camera_topics", [IMAGES])[0]
    seen_by_navigator = value("image_topic") if first in (IMAGES, full(IMAGES)) else first

    def node(name: str) -> Node:
        parameters = folder / f"{name}.yaml"
        parameters.write_text(as_yaml(values(name)))
        return Node(
            package="vlm_perception",
            executable=name,
            name=name,
            namespace=value("namespace"),
            parameters=[str(parameters)],
            remappings=[
                (IMAGES, value("image_topic")),
                (f"{IMAGES}/compressed", value("image_topic") + "/compressed"),
                ("camera/camera_info", beside(seen_by_navigator if name == "navigator" else value("image_topic"))),
                ("cmd_vel", value("cmd_vel_topic")),
            ],
            ros_arguments=["--log-level", value("log_level")],
            respawn=value("use_respawn") == "true",
            respawn_delay=2.0,
            output="screen",
        )

    words = [LogInfo(msg=f"params_file: not used here: {line}") for line in unused]
    return [*words, *[node(name) for name in names]]


def beside(topic: str) -> str:
    """The topic of the CameraInfo for the images on `topic`, as image_transport has it."""
    return f"{topic.rpartition('/')[0]}/camera_info" if "/" in topic else "camera_info"


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            # Without it most images are lost on the way, see the file; a user's own settings stay.
            SetEnvironmentVariable(
                "FASTRTPS_DEFAULT_PROFILES_FILE",
                EnvironmentVariable(
                    "FASTRTPS_DEFAULT_PROFILES_FILE",
                    default_value=PathJoinSubstitution([SHARE, "config", "fastdds.xml"]),
                ),
            ),
            *ARGUMENTS,
            OpaqueFunction(function=start_nodes),
        ]
    )
