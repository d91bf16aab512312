"""Velocity on `cmd_vel`, as Twist or as TwistStamped, and its subscribers."""

from __future__ import annotations

from geometry_msgs.msg import Twist, TwistStamped
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import Header

from vlm_perception.navigation.motion import Command

LAST_WORD_TIMEOUT = 0.5
"""Longest time that the end of the node waits until all subscribers have the last zero [s]."""


class VelocityPublisher:
    """The publisher of commands on `cmd_vel`, as Twist or as TwistStamped."""

    TYPES = (Twist, TwistStamped)

    def __init__(self, node: LifecycleNode, stamped: bool, frame: str) -> None:
        self._node = node
        self._stamped = stamped
        self._frame = frame
        self._publisher = node.create_publisher(self.TYPES[stamped], "cmd_vel", 1)

    def publish(self, command: Command) -> None:
        twist = Twist()
        twist.linear.x, twist.angular.z = float(command.forward), float(command.turn)
        if self._stamped:
            header = Header(stamp=self._node.get_clock().now().to_msg(), frame_id=self._frame)
            self._publisher.publish(TwistStamped(header=header, twist=twist))
        else:
            self._publisher.publish(twist)

    def flush(self) -> None:
        """Wait until all reliable subscribers have the last command, at most for a moment."""
        self._publisher.wait_for_all_acked(Duration(seconds=LAST_WORD_TIMEOUT))

    def problem(self) -> str | None:
        """Return why no subscriber acts on the commands, or None."""
        if self._publisher.get_subscription_count():
            return None
        topic = self._publisher.topic_name
        name = self.TYPES[self._stamped].__name__
        others = {info.topic_type.split("/")[-1] for info in self._node.get_subscriptions_info_by_topic(topic)}
        if self.TYPES[not self._stamped].__name__ in others:
            other = self.TYPES[not self._stamped].__name__
            flag = str(not self._stamped).lower()
            return f"{topic} is listened to as {other}, not as {name}: set enable_stamped_cmd_vel to {flag}"
        return (
            f"nobody listens to {topic}: start the robot's base, or name its topic (ros2 launch: "
            "cmd_vel_topic:=/your/topic; ros2 run: -r cmd_vel:=/your/topic)"
        )
