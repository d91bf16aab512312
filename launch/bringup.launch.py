"""Launch file of the classifier and the navigator, optionally with a camera or a simulated robot.

Usage: `ros2 launch vlm_perception bringup.launch.py`, with the arguments that `--show-args` lists. An error in them or
in `params_file` ends the launch with a message before any node starts.
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
"""The nodes, each with the arguments that are its parameters."""
OPTIONAL = {"camera": ["source", "loop"], "simulator": ["seed"]}
"""The nodes that start only by an argument of their name, each with the arguments that need it."""
IMAGES = "camera/image_raw"
"""The topic of the images in the nodes."""
SHARE = FindPackageShare("vlm_perception")

ARGUMENTS = [
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of the nodes, e.g. robot1"),
    DeclareLaunchArgument("params_file", default_value="", description="YAML file that overrides the defaults"),
    DeclareLaunchArgument("model", default_value="", description="'nano', a model folder, a server, or a list of them"),
    DeclareLaunchArgument("image_topic", default_value="camera/image_raw", description="Topic of the camera's images"),
    DeclareLaunchArgument(
        "camera_topics",
        default_value="",
        description="Image topics of several cameras, the navigator's first: '[front/image_raw, left/image_raw]'",
    ),
    DeclareLaunchArgument("cmd_vel_topic", default_value="cmd_vel", description="Topic of the velocity commands"),
    DeclareLaunchArgument(
        "enable_stamped_cmd_vel",
        default_value="",
        choices=["", *BOOLEAN],
        description="Publish commands as TwistStamped (true) or Twist (false)",
    ),
    DeclareLaunchArgument("camera", default_value="false", choices=BOOLEAN, description="Start the camera node"),
    DeclareLaunchArgument("source", default_value="", description="Its video file, folder, device number or URL"),
    DeclareLaunchArgument("loop", default_value="", choices=["", *BOOLEAN], description="Repeat its file or folder"),
    DeclareLaunchArgument("simulator", default_value="false", choices=BOOLEAN, description="Start a simulated robot"),
    DeclareLaunchArgument("seed", default_value="", description="Number of the simulated room"),
    DeclareLaunchArgument(
        "autostart", default_value="", choices=["", *BOOLEAN], description="Configure and activate the nodes"
    ),
    DeclareLaunchArgument(
        "use_sim_time", default_value="", choices=["", *BOOLEAN], description="Take the time from /clock"
    ),
    DeclareLaunchArgument(
        "use_respawn", default_value="false", choices=BOOLEAN, description="Restart a node that has died"
    ),
    DeclareLaunchArgument(
        "log_level",
        default_value="info",
        choices=["debug", "info", "warn", "error", "fatal"],
        description="Lowest severity in the log",
    ),
]


def start_nodes(context: LaunchContext) -> list[Any]:
    """Return the nodes for the arguments of this launch.

    Raises ValueError or ParameterError if the arguments or the parameters file are wrong.
    """

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
    # Only this user can read the folder: a source may contain a password.
    folder = Path(tempfile.mkdtemp(prefix="vlm_perception_"))
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
    """Return the topic of the CameraInfo for the images on `topic`, by the rule of image_transport."""
    return f"{topic.rpartition('/')[0]}/camera_info" if "/" in topic else "camera_info"


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            # Without this profile Fast DDS loses most images, see the file. A profile of the user has priority.
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
