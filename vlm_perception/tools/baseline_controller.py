"""Node `baseline_controller`: the baseline's law as a node. For comparison by the evaluation only, never for a robot.

It asks the navigator's questions through the same service. `python -m vlm_perception.tools.baseline_controller`
"""

from __future__ import annotations

import sys
import time

from geometry_msgs.msg import Twist
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.task import Future

from vlm_perception.msg import NavigationState
from vlm_perception.nodes.conversions import question_to_message
from vlm_perception.nodes.navigator_parameters import CONTROL_RATE, Parameters
from vlm_perception.nodes.run import run
from vlm_perception.srv import Ask, SetSearchTarget
from vlm_perception.tools.baseline_law import BaselineLaw

NAME = "baseline_controller"


class BaselineController(Node):
    """Offers `~/set_search_target` and `~/navigation_state`; without a target it is silent, and moves nothing."""

    def __init__(self) -> None:
        super().__init__(NAME)
        self._values = Parameters()  # the navigator's own questions
        self._law = BaselineLaw(self._values.navigation)
        self._told = ""
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
        self._question = None
        self._law.start(request.target)
        self._tell()
        self._velocity.publish(self._command)
        response.success = True
        return response

    def _control(self) -> None:
        if not self._law.target:
            return
        self._velocity.publish(self._command)
        self._ask_when_due()

    def _ask_when_due(self) -> None:
        law, due = self._law, self._asked + 1.0 / self._values.ask_rate
        if self._question or not law.is_busy or time.monotonic() < due:
            return
        self._asked = time.monotonic()
        questions = [question_to_message(*named) for named in self._values.navigation.questions(law.target).items()]
        self._question = self._ask.call_async(Ask.Request(questions=questions))
        self._question.add_done_callback(self._take_answer)

    def _take_answer(self, future: Future) -> None:
        if future is not self._question:
            return
        self._question = None
        response = future.result()
        if response.out_of_scope:
            self._law.stop("the model does not know the question")
        elif response.success:  # a failure is no answer, and the command is held
            self._law.take(next(answer for answer in response.answers if answer.name == "target").value)
        self._tell()
        self._ask_when_due()

    @property
    def _command(self) -> Twist:
        command, twist = self._law.command, Twist()
        twist.linear.x, twist.angular.z = command.forward, command.turn
        return twist

    def _tell(self) -> None:
        law = self._law
        if law.state != self._told:
            self._told = law.state
            message = NavigationState(mode="search", target=law.target, state=law.state, reason=law.reason)
            self._states.publish(message)


def main() -> int:
    return run(BaselineController)


if __name__ == "__main__":
    sys.exit(main())
