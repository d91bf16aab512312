"""The navigator: a target in, velocity out. It asks the classifier about the newest picture and acts on the answers.

Everything happens in the executor's one thread. Velocity is published by the control timer only, and by what
stops the robot at once when the node is deactivated or ends.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from builtin_interfaces.msg import Time
from geometry_msgs.msg import Twist, TwistStamped
from nav_msgs.msg import Odometry
from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import NodeNameNonExistentError
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.task import Future
from sensor_msgs.msg import Image, LaserScan
from std_msgs.msg import Header

from vlm_perception.action import SearchTarget
from vlm_perception.models.scope import unknown_target
from vlm_perception.msg import Answer as AnswerMessage
from vlm_perception.msg import ModelScope, NavigationState, TargetSighting
from vlm_perception.navigation.behaviours import Tuning
from vlm_perception.navigation.depth import DepthSensor, Points, UnusableDepth
from vlm_perception.navigation.motion import Command
from vlm_perception.navigation.pilot import MODES, Pilot
from vlm_perception.navigation.settings import NavigationSettings
from vlm_perception.navigation.sighting import (
    Sighting,
    UnusableAnswer,
    check_target,
)
from vlm_perception.nodes.conversions import answer_from_message, question_to_message
from vlm_perception.nodes.diagnostics import Diagnostics, Health, Level, without_numbers
from vlm_perception.nodes.faults import one_line
from vlm_perception.nodes.parameters import ParameterTable
from vlm_perception.nodes.run import run
from vlm_perception.nodes.services import create_service
from vlm_perception.parameters import START, group, parameter
from vlm_perception.questions import Answer
from vlm_perception.srv import Ask, SetNavigationMode, SetSearchTarget

STATE_PERIOD = 1.0
"""[s] between two messages about a state that stays as it is."""
TOLD_AGAIN = 5.0
"""[s] until the log tells a state again that comes and goes."""
CONTROL_RATE = 20.0
"""How often [Hz] velocity is published."""
NEW_NAMES = {
    "label_prompt": "surroundings.prompt",
    "label_options": "surroundings.options",
    "obstacle_labels": "surroundings.obstacles",
    "wall_labels": "surroundings.walls",
    "passage_labels": "surroundings.passages",
    "way_prompt": "way.prompt",
    "way_options": "way.options",
    "blocked": "way.blocked_threshold",
    "target_prompt": "target.prompt",
    "target_options": "target.options",
    "mirror_check": "target.mirror_check",
    "see": "target.seen_threshold",
    "field_of_view": "camera.field_of_view",
    "camera_height": "camera.height",
    "camera_pitch": "camera.pitch",
    "depth_image": "depth.image",
    "laser_scan": "depth.scan",
    "scan_pose": "depth.scan_pose",
    "stop_distance": "depth.stop_distance",
    "near_distance": "depth.near_distance",
    "robot_width": "robot.width",
    "robot_height": "robot.height",
    "forward_speed": "limits.forward_speed",
    "turn_speed": "limits.turn_speed",
    "forward_acceleration": "limits.forward_acceleration",
    "turn_acceleration": "limits.turn_acceleration",
    "braking": "limits.braking",
}
CONSTANTS = (
    "arrive",
    "arrive_answers",
    "control_rate",
    "creep_speed",
    "detour_distance",
    "lost_wait",
    "max_depth_age",
    "memory",
    "near",
    "viewpoint_distance",
)
LAST_WORD_TIMEOUT = 0.5
"""How long the end of the node waits [s] until everybody on cmd_vel has the last zero."""


@dataclass(frozen=True)
class Parameters:
    """The parameters of the navigator."""

    autostart: bool = parameter(True, "Configure and activate without being told to", when=START)
    ask_rate: float = parameter(
        10.0,
        "How often to ask the classifier; 0: about every image, as far as the model keeps up",
        unit="Hz",
        minimum=0.0,
        maximum=100.0,
    )
    ask_timeout: float = parameter(
        2.0,
        "Without an answer for so long the question counts as lost; with ask_rate 0 that waits for an image, too",
        unit="s",
        minimum=0.1,
        maximum=120.0,
    )
    navigation: NavigationSettings = group(NavigationSettings, prefix="")
    search_time_limit: float = parameter(
        0.0, "A search set by service gives up after so long; 0: never", unit="s", minimum=0.0, maximum=86400.0
    )
    enable_stamped_cmd_vel: bool = parameter(False, "Publish TwistStamped instead of Twist on cmd_vel", when=START)
    base_frame: str = parameter("base_link", "frame_id of a TwistStamped", when=START)
    allow_nano: bool = parameter(
        False,
        "Drive even on answers that the model was not taught to give, as nano's about any but the simulator's images; "
        "for experiments",
    )

    RENAMED: ClassVar[Mapping[str, str]] = {
        **{old: f"its name is {new!r}" for old, new in NEW_NAMES.items()},
        "clear": "it is 0.2 below 'way.blocked_threshold'",
        "lose": "it is 0.3 below 'target.seen_threshold'",
        "target_meanings": "write 'target.options' in their usual order",
        "watched_distance": "it is twice 'blind_distance'",
        **dict.fromkeys(CONSTANTS, "it is a constant now"),
    }


class VelocityPublisher:
    """Publishes commands on `cmd_vel`, as Twist or as TwistStamped."""

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
        """Wait until everybody who listens reliably has what was published, for a moment at most."""
        self._publisher.wait_for_all_acked(Duration(seconds=LAST_WORD_TIMEOUT))

    def problem(self) -> str:
        """Return why nobody acts on the commands, or an empty text."""
        if self._publisher.get_subscription_count():
            return ""
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


@dataclass
class Goal:
    """A search that was asked for through the action; `started` by the pilot's time. `done` gets the result."""

    handle: ServerGoalHandle
    started: float
    done: Future


class Navigator(LifecycleNode):
    """See the module. Modes, targets and goals all come down to `_start`."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__("navigator", **arguments)
        self._table: ParameterTable[Parameters] = ParameterTable(self, Parameters, self._adopt)
        values = self._table.values
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._active = False
        period = 1.0 / CONTROL_RATE
        settings = values.navigation
        self._pilot = Pilot(period, Tuning.of(settings), settings.limits, settings.max_answer_age)
        self._announced: tuple[str, ...] = ()
        self._told: dict[tuple[str, ...], float] = {}
        self._goal: Goal | None = None
        self._question: Future | None = None
        self._asked = -math.inf
        self._seen = Time()  # when the picture of the newest answer was taken
        self._answered = 0
        self._answered_before = (time.monotonic(), 0)

        self._velocity = VelocityPublisher(self, values.enable_stamped_cmd_vel, values.base_frame)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._states = self.create_publisher(NavigationState, "navigation_state", latched)
        self._sightings = self.create_publisher(TargetSighting, "target_sighting", 10)
        self._ask = self.create_client(Ask, "ask")
        self._scope = ModelScope()
        self.create_subscription(ModelScope, "model_scope", self._take_scope, latched)
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
        self._action = ActionServer(
            self,
            SearchTarget,
            "search_target",
            self._execute,
            cancel_callback=lambda _: CancelResponse.ACCEPT,
        )
        # Steady time: the wheels must be stopped even when a simulated clock stands still.
        self.create_timer(period, self._guarded(self._control), clock=self._steady)
        # A subscriber that is volatile, as rqt is, hears the state too, however long it stays the same.
        self.create_timer(STATE_PERIOD, self._publish_state, clock=self._steady)
        self._diagnostics = Diagnostics(self, self._check)
        self._announce()

    # Life

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
        """Stop the robot while publishing is still possible; the last message is a zero."""
        self._halt("the navigator ended")

    def _halt(self, reason: str) -> None:
        """Stop at once and leave the mode."""
        was_active, self._active = self._active, False
        self._start("idle", self._pilot.target, reason)
        self._announce()
        if was_active:
            self._velocity.publish(self._pilot.stop())
            self._velocity.flush()

    def _adopt(self, values: Parameters) -> None:
        """Take new parameters; everything about them has been checked."""
        settings = values.navigation
        self._pilot.adopt(Tuning.of(settings), settings.limits, settings.max_answer_age)

    def _guarded(self, callback: Callable[..., None]) -> Callable[..., None]:
        """Whatever goes wrong inside stops the robot, is told, and leaves the node running."""

        def guarded(*arguments: Any) -> None:
            try:
                callback(*arguments)
            except Exception as error:
                self._stop_after(error)

        return guarded

    def _stop_after(self, error: Exception) -> None:
        words = one_line(repr(error))
        self.get_logger().error(f"stopped after an error of the navigator itself: {words}")
        self._pilot.evidence.faults["error"] += 1
        self._start("idle", self._pilot.target, f"stopped after an error: {words}")
        self._velocity.publish(self._pilot.stop())

    # What to do

    def _start(self, mode: str, target: str, reason: str, time_limit: float = 0.0) -> None:
        """Begin with `mode` anew; a running goal is preempted."""
        if self._goal:
            self._end_goal(ServerGoalHandle.abort, False, f"preempted: {reason}")
        self._pilot.start(mode, target, reason, time_limit)
        self._drop_question()

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
                target = self._check_target(request.target)
                mode = "follow" if self._pilot.mode == "follow" else "search"
                self._start(mode, target, f"the new target is {target}", self._table.values.search_time_limit)
                response.message = f"{mode}: {target}"
            response.success = True
        except ValueError as error:
            response.success, response.message = False, str(error)
        self._announce()
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
        self._announce()
        return response

    def _check_target(self, given: str) -> str:
        """Return the name of the target that is meant; ValueError says why it is none, or none that the model knows."""
        target = check_target(given)
        if self._scope.targets and target not in self._scope.targets:
            raise ValueError(unknown_target(target, self._scope.targets, self._scope.about))
        return target

    def _take_scope(self, message: ModelScope) -> None:
        self._scope = message

    def _check_active(self) -> None:
        if not self._active:
            name = self.get_fully_qualified_name()
            raise ValueError(f"the navigator is not active: ros2 lifecycle set {name} activate")

    async def _execute(self, handle: ServerGoalHandle) -> SearchTarget.Result:
        """Search for the goal's target until it is found, cancelled, preempted or out of time."""
        limit = handle.request.time_limit
        try:
            self._check_active()
            target = self._check_target(handle.request.target)
            if not (math.isfinite(limit) and limit >= 0.0):
                raise ValueError(f"the time limit is {limit} s, expected 0 (none) or more")
        except ValueError as error:
            self.get_logger().warning(f"search_target: {error}")
            handle.abort()
            return SearchTarget.Result(found=False, message=str(error))
        self._start("search", target, f"the new goal is {target}", limit)
        self._goal = Goal(handle, self._pilot.time, Future())
        self._announce()
        return await self._goal.done

    def _end_goal(self, finish: Callable[[ServerGoalHandle], None], found: bool, message: str) -> None:
        assert self._goal is not None
        goal, self._goal = self._goal, None
        if goal.handle.is_active:
            finish(goal.handle)
        took = max(0.0, self._pilot.time - goal.started)
        goal.done.set_result(SearchTarget.Result(found=found, time=took, message=message))

    # Asking

    def _ask_when_due(self) -> None:
        values, steady = self._table.values, time.monotonic()
        if not self._active or not self._pilot.is_busy:
            return
        if self._question is not None:
            if steady - self._asked < values.ask_timeout:
                return
            self._drop_question()
            limit = f"{values.ask_timeout:g} s (ask_timeout)"
            self._pilot.fail(
                "time-out",
                f"the classifier did not answer within {limit}: does it hang, or is its model or the camera slower?",
            )
        if values.ask_rate > 0.0 and steady - self._asked < 1.0 / values.ask_rate:
            return
        self._asked = steady
        if not self._ask.service_is_ready():
            self._pilot.fail("no classifier", self._no_classifier())
            return
        if self._are_several():
            return
        questions = values.navigation.questions("" if self._pilot.mode == "explore" else self._pilot.target)
        request = Ask.Request(questions=[question_to_message(*named) for named in questions.items()])
        if not values.ask_rate:
            request.newer_than = self._seen
        self._question = self._ask.call_async(request)
        self._question.add_done_callback(self._guarded(lambda future: self._take_answers(future, questions)))

    def _no_classifier(self) -> str:
        return f"no classifier: nobody offers {self.resolve_service_name(self._ask.service_name)}; does it run?"

    def _are_several(self) -> bool:
        """Stand still when more than one classifier could answer: whose answer comes first is chance."""
        service = self._ask.service_name
        if (count := self.count_services(service)) < 2:
            return False
        self._pilot.fail(
            "several classifiers",
            f"{count} nodes offer {service}: {', '.join(self._nodes_with(service))}; end all but one, or remap. One "
            "that was killed still counts for some seconds",
        )
        return True

    def _nodes_with(self, service: str) -> list[str]:
        """Return the full names of the nodes that offer `service`, as far as they can be found out."""
        names = []
        for name, namespace in sorted(self.get_node_names_and_namespaces()):
            with contextlib.suppress(NodeNameNonExistentError):  # it has just gone
                if service in dict(self.get_service_names_and_types_by_node(name, namespace)):
                    names.append(f"{namespace.rstrip('/')}/{name}")
        return names

    def _drop_question(self) -> None:
        """What it answers, if ever, is not wanted any more."""
        if self._question is not None:
            self._ask.remove_pending_request(self._question)
            self._question = None

    def _take_answers(self, future: Future, questions: Iterable[str]) -> None:
        if future is not self._question:
            return
        self._question = None
        if self._are_several():
            return
        if future.exception() is not None:
            self._pilot.fail("failure", f"asking the classifier failed: {future.exception()}")
            return
        response = future.result()
        if not response.success:
            self._pilot.fail("failure", f"the classifier cannot answer: {response.message or 'it does not say why'}")
            return
        self._seen = response.header.stamp
        if response.out_of_scope and not self._table.values.allow_nano:
            self._pilot.fail("out of scope", f"{response.out_of_scope} (or set allow_nano)")
            return
        try:
            stamp = response.header.stamp.sec + response.header.stamp.nanosec * 1e-9
            answers = _answers_to(questions, response.answers)
            settings = self._table.values.navigation
            surroundings = settings.surroundings_reading().read(answers["label"], answers["way"], stamp)
            sighting = settings.target_reading().read(answers["target"], stamp) if "target" in answers else None
            if "mirrored target" in answers:
                settings.target_reading().check_mirrored(answers["target"], answers["mirrored target"])
        except UnusableAnswer as error:
            self._pilot.fail("unusable answer", f"the classifier's answer is not usable: {error}")
            return
        if not self._pilot.take(surroundings, sighting, self._now(), time.monotonic(), response.unchanged):
            return
        self._answered += 1
        if sighting is not None:
            assert self._pilot.evidence.sighting is not None
            message = _sighting_message(response.header, self._pilot.target, self._pilot.evidence.sighting)
            self._sightings.publish(message)
            self._give_feedback(message)
        self._ask_when_due()

    # Moving

    def _control(self) -> None:
        """One step: look at the evidence, decide, limit, publish."""
        if self._goal and self._goal.handle.is_cancel_requested:
            self._end_goal(ServerGoalHandle.canceled, False, "cancelled")
            self._start("idle", self._pilot.target, "the goal was cancelled")
        self._ask_when_due()
        command = self._pilot.step(self._now(), time.monotonic())
        if command is not None:
            self._velocity.publish(command)
        decision = self._pilot.decision
        if self._goal and decision.found is not None:
            finish = ServerGoalHandle.succeed if decision.found else ServerGoalHandle.abort
            self._end_goal(finish, decision.found, decision.reason)
        self._announce()

    def _take_odometry(self, message: Odometry) -> None:
        self._pilot.track.take(message, self._now())

    def _take_depth_image(self, message: Image) -> None:
        self._take_depth(self._pilot.depth_image, self._table.values.navigation.depth_reading().read_image, message)

    def _take_laser_scan(self, message: LaserScan) -> None:
        self._take_depth(self._pilot.laser_scan, self._table.values.navigation.depth_reading().read_scan, message)

    def _take_depth(
        self, sensor: DepthSensor, read: Callable[[Any, float], Points], message: Image | LaserScan
    ) -> None:
        try:
            points = read(message, message.header.stamp.sec + message.header.stamp.nanosec * 1e-9)
        except UnusableDepth as error:
            sensor.fail(str(error))
            return
        self._pilot.see(sensor, points, time.monotonic())

    # Telling

    def _announce(self) -> None:
        """Publish the state if it changed, by more than a number in its reason."""
        pilot, decision = self._pilot, self._pilot.decision
        state = (pilot.mode, pilot.target, decision.state, without_numbers(decision.reason))
        if state == self._announced:
            return
        # While a target is looked for the reason changes often; what is wrong then, the diagnostics log.
        told = state if pilot.mode == "idle" else state[:3]
        now = time.monotonic()
        if told != self._announced[: len(told)] and now - self._told.get(told, -math.inf) > TOLD_AGAIN:
            self._told = {each: at for each, at in self._told.items() if now - at < TOLD_AGAIN} | {told: now}
            target = f" {pilot.target!r}" if pilot.target else ""
            self.get_logger().info(f"{pilot.mode}{target}: {decision.state}: {decision.reason}")
        self._announced = state
        self._publish_state()

    def _publish_state(self) -> None:
        pilot, decision = self._pilot, self._pilot.decision
        message = NavigationState(mode=pilot.mode, target=pilot.target, state=decision.state, reason=decision.reason)
        message.header.stamp = self.get_clock().now().to_msg()
        self._states.publish(message)

    def _give_feedback(self, sighting: TargetSighting) -> None:
        if self._goal and self._goal.handle.is_active:
            self._goal.handle.publish_feedback(
                SearchTarget.Feedback(state=self._pilot.decision.state, sighting=sighting)
            )

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
            "picture age [s]": pilot.evidence.age(now),
            "time between answers [s]": pilot.evidence.period,
            "forward [m/s]": pilot.sent.forward,
            "turn [rad/s]": pilot.sent.turn,
            "odometry": self._odometry_in_words(now),
            "free ahead [m]": "no depth" if pilot.free is None else pilot.free,
        }
        faults = pilot.evidence.faults + pilot.depth_image.faults + pilot.laser_scan.faults
        values |= {f"faults, {kind}": count for kind, count in faults.items()}
        if not self._active:
            return Health(Level.WARN, decision.reason, values)
        if not pilot.is_busy:
            if not self._ask.service_is_ready():
                return Health(Level.WARN, self._no_classifier(), values)
            return Health(Level.OK, f"{decision.state}: {decision.reason}", values)
        doubt = pilot.doubt(now, steady)
        if doubt:
            return Health(Level.ERROR, f"the robot stands still: {doubt}", values)
        problem = self._velocity.problem() or self._missing_depth() or self._doubtful_odometry(now)
        if problem:
            return Health(Level.WARN, problem, values)
        return Health(Level.OK, f"{decision.state}: {decision.reason}", values)

    def _missing_depth(self) -> str:
        """Return which sensor is meant to be used and is not, or an empty text."""
        depth = self._table.values.navigation.depth
        wanted = ((depth.image, self._pilot.depth_image), (depth.scan, self._pilot.laser_scan))
        missing = [sensor.name for used, sensor in wanted if used and not sensor.in_use]
        return f"driving as without depth: no {' and no '.join(missing)} comes" if missing else ""

    def _doubtful_odometry(self, now: float) -> str:
        """Return why odometry that comes is not used, or an empty text."""
        problem = self._pilot.track.odometry_problem(now)
        return f"driving by the commands, as odometry is not usable: {problem}" if problem else ""

    def _odometry_in_words(self, now: float) -> str:
        if self._pilot.track.has_odometry(now):
            return "yes"
        problem = self._pilot.track.odometry_problem(now)
        return f"not used, the commands are integrated: {problem}" if problem else "no, the commands are integrated"

    def _now(self) -> float:
        """The clock of the stamps [s]."""
        return self.get_clock().now().nanoseconds * 1e-9


def _answers_to(questions: Iterable[str], answers: Sequence[AnswerMessage]) -> dict[str, Answer]:
    """Return the answers by name; raises UnusableAnswer unless there is one to each of the named questions."""
    expected, given = list(questions), [answer.name for answer in answers]
    if given != expected:
        raise UnusableAnswer(f"there are answers to {given}, asked was {expected}")
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
