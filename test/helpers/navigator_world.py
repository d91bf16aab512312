"""A navigator node, a scripted classifier, and what comes out."""

from __future__ import annotations

from geometry_msgs.msg import Twist, TwistStamped
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile

from vlm_perception.msg import Answer, NavigationState, TargetSighting
from vlm_perception.nodes.navigator import Navigator
from vlm_perception.nodes.run import autostart
from vlm_perception.perception.frame import nanoseconds
from vlm_perception.srv import Ask, SetNavigationMode, SetSearchTarget

LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class ScriptedClassifier(Node):
    """Offers `ask` and answers what the test says."""

    def __init__(self, name: str = "classifier") -> None:
        super().__init__(name)
        self.answers = {"target": "no", "label": "clear", "way": "center"}
        self.sure = 0.94
        self.age = 0.05
        self.stamp = None
        self.failure = ""
        self.questions: list[str] = []
        self.newer_than: list[int] = []
        self.stamps: list[int] = []
        self.service = self.create_service(Ask, "ask", self.answer)

    def answer(self, request: Ask.Request, response: Ask.Response) -> Ask.Response:
        self.questions = [question.prompt for question in request.questions]
        response.success, response.message = not self.failure, self.failure
        now = self.get_clock().now().nanoseconds
        stamp = self.stamp if self.stamp is not None else now - int(self.age * 1e9)
        response.header.stamp.sec, response.header.stamp.nanosec = divmod(stamp, 10**9)
        self.newer_than.append(nanoseconds(request.newer_than))
        self.stamps.append(stamp)
        response.header.frame_id = "camera_optical_frame"
        if response.success:
            response.answers = [self.one(question) for question in request.questions]
        return response

    def one(self, question) -> Answer:
        value = self.answers[question.name]
        rest = (1.0 - self.sure) / (len(question.options) - 1)
        probabilities = [self.sure if option == value else rest for option in question.options]
        return Answer(
            name=question.name,
            value=value,
            confidence=self.sure,
            options=question.options,
            probabilities=probabilities,
        )


class World:
    """A navigator under test, its classifier and all that it says."""

    def __init__(self, ros, **parameters) -> None:
        self.ros = ros
        self.classifier = ros.add(ScriptedClassifier())
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        self.navigator = ros.add(Navigator(parameter_overrides=overrides))
        autostart(self.navigator)
        stamped = parameters.get("enable_stamped_cmd_vel", False)
        self.twists = ros.collect(TwistStamped if stamped else Twist, "cmd_vel")
        self.states = ros.collect(NavigationState, "navigation_state", LATCHED)
        self.sightings = ros.collect(TargetSighting, "target_sighting")
        ros.until(lambda: self.states and self.states[-1].reason.startswith("no target yet"), "start of the navigator")
        ros.until(lambda: not self.navigator._classifier.missing(), "classifier")
        ros.until(lambda: self.ros.node.count_publishers("cmd_vel"), "cmd_vel")

    def set_target(self, target):
        return self.ros.call(SetSearchTarget, "set_search_target", SetSearchTarget.Request(target=target))

    def set_mode(self, mode):
        return self.ros.call(SetNavigationMode, "set_navigation_mode", SetNavigationMode.Request(mode=mode))

    def until_twist(self, condition, what):
        del self.twists[:]
        return self.ros.until(lambda: next((twist for twist in self.twists if condition(twist)), None), what)

    def until_state(self, state):
        return self.ros.until(lambda: self.states[-1].state == state and self.states[-1], f"state {state}")

    def until_still(self, seconds=5.0):
        """Wait until the newest twist is zero and stays so."""
        self.ros.until(lambda: self.twists and is_zero(self.twists[-1]), "zero twist", seconds)
        del self.twists[:]
        self.ros.spin(0.5)
        assert all(is_zero(twist) for twist in self.twists)


def is_zero(twist) -> bool:
    return twist == Twist()


def driving(world):
    world.classifier.answers["target"] = "center far"
    world.set_target("red ball")
    world.until_twist(lambda t: t.linear.x > 0.1, "drive")
