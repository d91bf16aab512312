"""Node `baseline_controller`: what one usually writes first. For comparison by the evaluation only, never for a robot.

It asks the navigator's questions through the same service and obeys each answer until the next one comes. It knows
neither delay nor doubt nor the way ahead. `python -m vlm_perception.tools.baseline_controller`
"""

from __future__ import annotations

import sys
import time

from geometry_msgs.msg import Twist
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.task import Future

from vlm_perception.msg import NavigationState
from vlm_perception.navigation.settings import MEANINGS
from vlm_perception.navigation.sighting import ABSENT
from vlm_perception.nodes.conversions import question_to_message
from vlm_perception.nodes.navigator import Parameters
from vlm_perception.nodes.run import run
from vlm_perception.srv import Ask, SetSearchTarget

NAME = "baseline_controller"
SEARCHING_TURN = 0.3  # [rad/s]
ALIGNING_TURN = 0.5  # [rad/s]
FORWARD = 0.3  # [m/s]
CONTROL_RATE = 20.0  # [Hz] how often the command is sent again: bases stop when none comes


def obey(meaning: str) -> tuple[str, float, float]:
    """Return state, speed [m/s] and turning speed [rad/s] for "absent", "left near", "center far" and so on."""
    if meaning == ABSENT:
        return "searching", 0.0, SEARCHING_TURN
    direction, distance = meaning.split()
    if distance == "near":
        return "arrived", 0.0, 0.0
    if direction == "center":
        return "approaching", FORWARD, 0.0
    return "aligning", 0.0, ALIGNING_TURN if direction == "left" else -ALIGNING_TURN


class BaselineController(Node):
    """Offers `~/set_search_target` and `~/navigation_state`; without a target it is silent, and moves nothing."""

    def __init__(self) -> None:
        super().__init__(NAME)
        self._values = Parameters()  # the navigator's own questions
        self._target = ""
        self._state = "stopped"
        self._command = Twist()
        self._question: Future | None = None
        self._asked = 0.0
        self._velocity = self.create_publisher(Twist, "cmd_vel", 1)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._states = self.create_publisher(NavigationState, "~/navigation_state", latched)
        self._ask = self.create_client(Ask, "ask")
        self.create_service(SetSearchTarget, "~/set_search_target", self._set_target)
        self.create_timer(1.0 / CONTROL_RATE, self._control)

    def _set_target(
        self, request: SetSearchTarget.Request, response: SetSearchTarget.Response
    ) -> SetSearchTarget.Response:
        self._target = request.target
        self._question = None
        self._take("", "stopped", 0.0, 0.0)
        self._velocity.publish(self._command)
        response.success = True
        return response

    def _control(self) -> None:
        if not self._target:
            return
        self._velocity.publish(self._command)
        self._ask_when_due()

    def _ask_when_due(self) -> None:
        if self._question or self._state == "arrived" or time.monotonic() < self._asked + 1.0 / self._values.ask_rate:
            return
        self._asked = time.monotonic()
        questions = [question_to_message(*named) for named in self._values.navigation.questions(self._target).items()]
        self._question = self._ask.call_async(Ask.Request(questions=questions))
        self._question.add_done_callback(self._take_answer)

    def _take_answer(self, future: Future) -> None:
        if future is not self._question:
            return
        self._question = None
        response = future.result()
        if response.out_of_scope:
            self._take("", "stopped", 0.0, 0.0)
        elif response.success:  # a failure is no answer, and the command is held
            answer = next(answer for answer in response.answers if answer.name == "target")
            meanings = dict(zip(self._values.navigation.target.options, MEANINGS, strict=True))
            self._take(answer.value, *obey(meanings[answer.value]))
        self._ask_when_due()

    def _take(self, answer: str, state: str, forward: float, turn: float) -> None:
        self._command.linear.x, self._command.angular.z = forward, turn
        if state != self._state:
            self._state = state
            reason = f"the answer is {answer!r}" if answer else "there is a new target, or none"
            self._states.publish(NavigationState(mode="search", target=self._target, state=state, reason=reason))


def main() -> int:
    return run(BaselineController)


if __name__ == "__main__":
    sys.exit(main())
