"""The node `navigator`: asks the classifier about the newest image, and publishes velocity to find a target.

All code runs in the executor's single thread. Only the control timer publishes velocity, except for the zero that stops
the robot when the node is deactivated or ends.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from nav_msgs.msg import Odometry
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.task import Future
from sensor_msgs.msg import Image, LaserScan
from std_msgs.msg import Header

from vlm_perception.action import SearchTarget
from vlm_perception.msg import Answer as AnswerMessage
from vlm_perception.msg import TargetSighting
from vlm_perception.navigation.answer_monitor import LONGEST
from vlm_perception.navigation.depth import DepthSensor, Points, UnusableDepthError
from vlm_perception.navigation.map_view import remains, seen_area
from vlm_perception.navigation.pilot import MODES, Pilot
from vlm_perception.navigation.sighting import Sighting, UnusableAnswerError
from vlm_perception.navigation.tuning import Tuning
from vlm_perception.nodes.classifier_client import AskError, ClassifierClient
from vlm_perception.nodes.conversions import answer_from_message
from vlm_perception.nodes.diagnostics import Diagnostics, Health, Level
from vlm_perception.nodes.faults import one_line
from vlm_perception.nodes.map_publisher import MapPublisher
from vlm_perception.nodes.navigator_parameters import CONTROL_RATE, Parameters
from vlm_perception.nodes.parameters import ParameterTable
from vlm_perception.nodes.run import run
from vlm_perception.nodes.search_action import NOTHING_KNOWN, Knowledge, SearchAction
from vlm_perception.nodes.sensor_geometry import SensorGeometry
from vlm_perception.nodes.services import create_service
from vlm_perception.nodes.state_publisher import StatePublisher
from vlm_perception.nodes.transforms import Transforms
from vlm_perception.nodes.velocity_publisher import VelocityPublisher
from vlm_perception.questions import Answer
from vlm_perception.srv import SetNavigationMode, SetSearchTarget


class Navigator(LifecycleNode):
    """The node. Modes, targets and goals all start in `_start`."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__("navigator", **arguments)
        self._table: ParameterTable[Parameters] = ParameterTable(self, Parameters, self._use)
        values = self._table.values
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._active = False
        period = 1.0 / CONTROL_RATE
        self._settings = settings = values.navigation
        self._pilot = Pilot(period, Tuning.of(settings), settings.limits, settings.max_answer_age)
        self._answered = 0
        self._answered_before = (time.monotonic(), 0)

        use = self._guarded(lambda: self._use(self._table.values))
        self._classifier = ClassifierClient(self, use)
        transforms = Transforms(self)
        self._geometry = SensorGeometry(self, transforms, values.base_frame, use)
        self._map_publisher = MapPublisher(self, self._pilot, transforms, self._now, self._guarded)
        self._velocity = VelocityPublisher(self, values.enable_stamped_cmd_vel, values.base_frame)
        self._state_publisher = StatePublisher(self, self._pilot)
        self._sightings = self.create_publisher(TargetSighting, "target_sighting", 10)
        self.create_subscription(Odometry, "odom", self._take_odometry, qos_profile_sensor_data)
        newest = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        if settings.depth.image:
            self.create_subscription(Image, "camera/depth/image_raw", self._take_depth_image, newest)
        if settings.depth.scan:
            self.create_subscription(LaserScan, "scan", self._take_laser_scan, newest)
        for kind, name, callback in (
            (SetSearchTarget, "set_search_target", self._set_search_target),
            (SetNavigationMode, "set_navigation_mode", self._set_navigation_mode),
        ):
            create_service(self, kind, name, callback, self._stop_after)
        self._search = SearchAction(self, self._start_goal, lambda: self._pilot.time)
        # Steady time: the robot must stop even if a simulated clock stands still.
        self.create_timer(period, self._guarded(self._control), clock=self._steady)
        self._diagnostics = Diagnostics(self, self._check)
        self._use(values)
        self._state_publisher.announce()

    # Lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._halt("configured, not active")
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._active = True
        self._start("idle", "", "no target yet: set one (set_search_target)")
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._halt("the navigator was deactivated")
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._halt("the navigator is not configured")
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._halt("the navigator was shut down")
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._halt("a lifecycle transition failed")
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """Stop the robot while publishing is still possible. The last message is a zero."""
        self._halt("the navigator ended")

    def _halt(self, reason: str) -> None:
        """Stop the robot at once and leave the mode."""
        was_active, self._active = self._active, False
        self._start("idle", self._pilot.target, reason)
        self._state_publisher.announce()
        if was_active:
            self._velocity.publish(self._pilot.stop())
            self._velocity.flush()

    def _use(self, values: Parameters) -> None:
        """Use the checked parameters `values`, the geometry of the sensors by ROS, and what the model means."""
        settings = self._geometry.apply(values.navigation).for_model(self._classifier.scope.clear_distance)
        if settings != self._settings:
            self._settings = settings
            self._pilot.adopt(Tuning.of(settings), settings.limits, settings.max_answer_age)

    def _guarded(self, callback: Callable[..., None]) -> Callable[..., None]:
        """Stop the robot after any exception inside, report it, and keep the node running."""

        def guarded(*arguments: Any) -> None:
            try:
                callback(*arguments)
            except Exception as error:
                self._stop_after(error)

        return guarded

    def _stop_after(self, error: Exception) -> None:
        words = one_line(repr(error))
        self.get_logger().error(f"stopped after an error of the navigator itself: {words}")
        self._pilot.answers.faults["error"] += 1
        self._start("idle", self._pilot.target, f"stopped after an error: {words}")
        self._velocity.publish(self._pilot.stop())

    # Modes, targets and goals

    def _start(self, mode: str, target: str, reason: str, time_limit: float = 0.0) -> None:
        """Start `mode` anew. A running goal is preempted."""
        self._search.abort(f"preempted: {reason}")
        self._pilot.start(mode, target, reason, time_limit)
        self._classifier.drop()

    def _set_search_target(
        self, request: SetSearchTarget.Request, response: SetSearchTarget.Response
    ) -> SetSearchTarget.Response:
        try:
            self._check_active()
            if not request.target.strip():
                ended = self._pilot.decision.found is not None
                self._start("idle", "", "search ended" if ended else "the target was taken away")
                response.message = "stopped"
            else:
                target = self._classifier.check_target(request.target)
                mode = "follow" if self._pilot.mode == "follow" else "search"
                self._start(mode, target, f"the new target is {target}", self._table.values.search_time_limit)
                response.message = f"{mode}: {target}"
            response.success = True
        except ValueError as error:
            response.success, response.message = False, str(error)
        self._state_publisher.announce()
        return response

    def _set_navigation_mode(
        self, request: SetNavigationMode.Request, response: SetNavigationMode.Response
    ) -> SetNavigationMode.Response:
        mode = request.mode
        try:
            self._check_active()
            if mode not in MODES:
                raise ValueError(f"the mode {mode!r:.100} is unknown, expected one of {', '.join(MODES)}")
            if mode in ("search", "follow") and not self._pilot.target:
                raise ValueError(f"there is no target to {mode}: set one first (set_search_target)")
            self._start(mode, self._pilot.target, f"the mode is {mode}", self._table.values.search_time_limit)
            response.success, response.message = True, f"the mode is {mode}"
        except ValueError as error:
            response.success, response.message = False, str(error)
        self._state_publisher.announce()
        return response

    def _check_active(self) -> None:
        if not self._active:
            name = self.get_fully_qualified_name()
            raise ValueError(f"the navigator is not active: ros2 lifecycle set {name} activate")

    def _start_goal(self, goal: SearchTarget.Goal) -> None:
        """Start the search of an action's goal. Raises ValueError if it cannot start."""
        limit = goal.time_limit
        self._check_active()
        target = self._classifier.check_target(goal.target)
        if not (math.isfinite(limit) and limit >= 0.0):
            raise ValueError(f"the time limit is {limit} s, expected 0 (none) or more")
        self._start("search", target, f"the new goal is {target}", limit)
        self._state_publisher.announce()

    # Questions

    def _ask_when_due(self) -> None:
        values, classifier = self._table.values, self._classifier
        if not self._active or not self._pilot.is_busy:
            return
        try:
            classifier.drop_late(max(LONGEST, self._settings.max_answer_age))
        except AskError as error:
            self._pilot.fail(error.kind, str(error))
        steady = time.monotonic()
        if not classifier.is_due(values.ask_rate) or not self._pilot.wants_image(steady):
            return
        questions = self._settings.questions("" if self._pilot.mode == "explore" else self._pilot.target)
        try:
            future = classifier.ask(questions, newer=not values.ask_rate)
        except AskError as error:
            self._pilot.fail(error.kind, str(error))
            return
        self._pilot.asked(self._now(), steady)
        future.add_done_callback(self._guarded(partial(self._take_answers, list(questions))))

    def _take_answers(self, questions: Sequence[str], future: Future) -> None:
        try:
            response = self._classifier.response(future)
        except AskError as error:
            self._pilot.fail(error.kind, str(error))
            return
        if response is None:
            return
        self._geometry.see_image(response.header.frame_id)
        if response.out_of_scope and not self._table.values.allow_nano:
            self._pilot.fail("out of scope", f"{response.out_of_scope} (or set allow_nano)")
            return
        try:
            stamp = response.header.stamp.sec + response.header.stamp.nanosec * 1e-9
            answers = _answers_to(questions, response.answers)
            surroundings, sighting = self._settings.read(answers, stamp)
        except UnusableAnswerError as error:
            self._pilot.fail("unusable answer", f"the classifier's answer is not usable: {error}")
            return
        if not self._pilot.take(surroundings, sighting, self._now(), time.monotonic(), response.unchanged):
            return
        self._answered += 1
        if sighting is not None:
            assert self._pilot.answers.sighting is not None
            message = _sighting_message(response.header, self._pilot.target, self._pilot.answers.sighting)
            self._sightings.publish(message)
            self._search.give_feedback(self._pilot.decision.state, message)
            self._map_publisher.tell_target(response.header.stamp)
        self._ask_when_due()

    # Motion

    def _control(self) -> None:
        """Do one control step: read the answers, decide, limit, publish."""
        if self._search.is_cancel_requested:
            self._search.cancel(self._knowledge())
            self._start("idle", self._pilot.target, "the goal was cancelled")
        self._ask_when_due()
        command = self._pilot.step(self._now(), time.monotonic())
        if command is not None:
            self._velocity.publish(command)
        decision = self._pilot.decision
        if decision.found is not None and self._search.goal is not None:
            (self._search.succeed if decision.found else self._search.abort)(decision.reason, self._knowledge())
        self._state_publisher.announce()

    def _knowledge(self) -> Knowledge:
        """Return how much was searched, and what was not, for the result of a goal."""
        known = self._pilot.remembered(self._now())
        return NOTHING_KNOWN if known is None else Knowledge(known.searched, remains(known, self._pilot.odometry.pose))

    def _take_odometry(self, message: Odometry) -> None:
        self._map_publisher.odometry_frame = message.header.frame_id
        self._pilot.odometry.take(message, self._now())

    def _take_depth_image(self, message: Image) -> None:
        self._take_depth(self._pilot.depth_image, self._settings.depth_reading().read_image, message)

    def _take_laser_scan(self, message: LaserScan) -> None:
        self._geometry.see_scan(message.header.frame_id)
        self._take_depth(self._pilot.laser_scan, self._settings.depth_reading().read_scan, message)

    def _take_depth(
        self, sensor: DepthSensor, read: Callable[[Any, float], Points], message: Image | LaserScan
    ) -> None:
        try:
            points = read(message, message.header.stamp.sec + message.header.stamp.nanosec * 1e-9)
        except UnusableDepthError as error:
            sensor.fail(str(error))
            return
        self._pilot.see(sensor, points, time.monotonic())

    # Reports

    def _check(self) -> Health:
        pilot, decision = self._pilot, self._pilot.decision
        now, steady = self._now(), time.monotonic()
        since, before = self._answered_before
        self._answered_before = (steady, self._answered)
        values: dict[str, object] = {
            "mode": pilot.mode,
            "target": pilot.target,
            "state": decision.state,
            "reason": decision.reason,
            "answers per second": (self._answered - before) / max(steady - since, 1e-3),
            "image age [s]": pilot.answers.age(now),
            "time between answers [s]": pilot.answers.period,
            "forward [m/s]": pilot.sent.forward,
            "turn [rad/s]": pilot.sent.turn,
            "odometry": self._odometry_in_words(now),
            **self._memory_in_words(now),
            "free ahead [m]": "no depth" if pilot.free is None else pilot.free,
            **self._geometry.values,
        }
        faults = pilot.answers.faults + pilot.depth_image.faults + pilot.laser_scan.faults
        values |= {f"faults, {kind}": count for kind, count in faults.items()}
        if not self._active:
            return Health(Level.WARN, decision.reason, values)
        if not pilot.is_busy:
            if problem := self._classifier.missing() or self._geometry.problem:
                return Health(Level.WARN, problem, values)
            return Health(Level.OK, f"{decision.state}: {decision.reason}", values)
        doubt = pilot.doubt(now, steady)
        if doubt:
            return Health(Level.ERROR, f"the robot stands still: {doubt}", values)
        problem = self._velocity.problem() or self._missing_depth() or self._doubtful_odometry(now)
        problem = problem or self._geometry.problem
        if problem:
            return Health(Level.WARN, problem, values)
        return Health(Level.OK, f"{decision.state}: {decision.reason}", values)

    def _missing_depth(self) -> str | None:
        """Return a message about a sensor that should be used and is not, or None."""
        depth = self._settings.depth
        wanted = ((depth.image, self._pilot.depth_image), (depth.scan, self._pilot.laser_scan))
        missing = [sensor.name for used, sensor in wanted if used and not sensor.in_use]
        return f"driving as without depth: no {' and no '.join(missing)} comes" if missing else None

    def _doubtful_odometry(self, now: float) -> str | None:
        """Return why received odometry is not used, or None."""
        problem = self._pilot.odometry.odometry_problem(now)
        return f"driving by the commands, as odometry is not usable: {problem}" if problem else None

    def _odometry_in_words(self, now: float) -> str:
        if self._pilot.odometry.has_odometry(now):
            return "yes"
        problem = self._pilot.odometry.odometry_problem(now)
        return f"not used, the commands are integrated: {problem}" if problem else "no, the commands are integrated"

    def _memory_in_words(self, now: float) -> dict[str, object]:
        known = self._pilot.remembered(now)
        if known is None:
            answered = self._pilot.odometry.has_odometry(now)
            why = "nothing was answered yet" if answered else "without odometry it drives by the newest images alone"
            return {"remembers": f"no, {why}"}
        return {
            "remembers": "yes",
            "seen floor [m2]": seen_area(known),
            "searched": known.searched,
            "probability of absent": known.absent,
        }

    def _now(self) -> float:
        """Return the time by the clock of the stamps [s]."""
        return self.get_clock().now().nanoseconds * 1e-9


def _answers_to(questions: Iterable[str], answers: Sequence[AnswerMessage]) -> dict[str, Answer]:
    """Return the answers by name. Raises UnusableAnswerError unless each of the named questions has one."""
    expected, given = list(questions), [answer.name for answer in answers]
    if given != expected:
        raise UnusableAnswerError(f"there are answers to {given}, expected answers to {expected}")
    return {answer.name: answer_from_message(answer) for answer in answers}


def _sighting_message(header: Header, target: str, sighting: Sighting) -> TargetSighting:
    visible = bool(sighting.direction)
    return TargetSighting(
        header=header,
        target=target,
        visible=visible,
        direction=sighting.direction,
        range=sighting.range,
        bearing=sighting.bearing if visible else math.nan,
        distance=sighting.distance,
        confidence=sighting.confidence,
    )


def main() -> int:
    """Run the node."""
    return run(Navigator)
