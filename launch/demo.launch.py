"""Launch file of all nodes with a simulated robot. It has the arguments of bringup.launch.py.

Usage: `ros2 launch vlm_perception demo.launch.py`, then
`ros2 service call /set_search_target vlm_perception/srv/SetSearchTarget "{target: red ball}"`.
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription


def generate_launch_description() -> LaunchDescription:
    bringup = str(Path(__file__).parent / "bringup.launch.py")  # a plain path, so that --show-args reads the file
    simulator = DeclareLaunchArgument(
        "simulator", default_value="true", choices=["true", "false"], description="Start a simulated robot"
    )
    return LaunchDescription([simulator, IncludeLaunchDescription(bringup)])
