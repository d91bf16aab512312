"""The classifier and the navigator and, when asked for, a camera or a simulated robot.

`ros2 launch vlm_perception bringup.launch.py` with the arguments that `--show-args` lists.
"""

import yaml
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

BOOLEAN = ["true", "false"]
TEXTS = ["model", "source"]  # source:=0 is the text that names a camera
SHARE = FindPackageShare("vlm_perception")

# An argument that is a parameter of a node overrides the parameter files when it is given, and only then.
ARGUMENTS = [
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of the nodes, e.g. robot1"),
    DeclareLaunchArgument("params_file", default_value="", description="YAML file that overrides those in config/"),
    DeclareLaunchArgument("model", default_value="", description="'nano', a model folder, a server, or a list of them"),
    DeclareLaunchArgument("image_topic", default_value="camera/image_raw", description="The camera's pictures"),
    DeclareLaunchArgument(
        "camera_topics",
        default_value="",
        description="Several cameras' pictures, the navigator's first: '[front/image_raw, left/image_raw]'",
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
    DeclareLaunchArgument("simulator", default_value="false", choices=BOOLEAN, description="Start a simulated robot"),
    DeclareLaunchArgument("seed", default_value="", description="Number of the room that it is in"),
    DeclareLaunchArgument(
        "autostart", default_value="", choices=["", *BOOLEAN], description="Configure and activate the nodes"
    ),
    DeclareLaunchArgument(
        "use_sim_time", default_value="false", choices=BOOLEAN, description="Take the time from /clock"
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


def start_nodes(context: LaunchContext) -> list[Node]:
    """The nodes for the arguments of this launch."""

    def value(argument: str) -> str:
        return LaunchConfiguration(argument).perform(context)

    def node(name: str, *parameters: str) -> Node:
        """The node `name` with the arguments that are `parameters` of it."""
        given = {
            parameter: value(parameter) if parameter in TEXTS else yaml.safe_load(value(parameter))
            for parameter in parameters
            if value(parameter)
        }
        files = [PathJoinSubstitution([SHARE, "config", f"{name}.yaml"]), *filter(None, [value("params_file")])]
        return Node(
            package="vlm_perception",
            executable=name,
            name=name,
            namespace=value("namespace"),
            parameters=[*files, given],
            remappings=[
                ("camera/image_raw", value("image_topic")),
                ("camera/image_raw/compressed", value("image_topic") + "/compressed"),
                ("cmd_vel", value("cmd_vel_topic")),
            ],
            ros_arguments=["--log-level", value("log_level")],
            respawn=value("use_respawn") == "true",
            respawn_delay=2.0,
            output="screen",
        )

    nodes = [
        node("classifier", "model", "camera_topics", "autostart", "use_sim_time"),
        node("navigator", "enable_stamped_cmd_vel", "autostart", "use_sim_time"),
    ]
    if value("camera") == "true":
        nodes.append(node("camera", "source", "use_sim_time"))
    if value("simulator") == "true":
        nodes.append(node("simulator", "seed"))
    return nodes


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            # Without it most pictures are lost on the way, see the file; a user's own settings stay.
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
