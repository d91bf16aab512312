"""Everything with a simulated robot: `ros2 launch vlm_perception demo.launch.py`, arguments as for bringup.

Then `ros2 service call /set_search_target vlm_perception/srv/SetSearchTarget "{target: red ball}"`.
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription


def generate_launch_description() -> LaunchDescription:
    bringup = str(Path(__file__).parent / "bringup.launch.py")  # a plain path: --show-args looks into it
    return LaunchDescription([IncludeLaunchDescription(bringup, launch_arguments={"simulator": "true"}.items())])
