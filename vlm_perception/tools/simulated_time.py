"""Searches on a simulated clock, without ROS and as fast as the processor can: equal seeds give equal episodes.

The nodes' own parts run here, on events in the order of the simulated time: the world and its camera as the simulator
steps them, a controller at its rate, and the model, which answers one request after the other.
"""

from __future__ import annotations

import functools
import math
import multiprocessing
import signal
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from typing import NamedTuple, Protocol

import numpy as np

from vlm_perception.models.base import Model
from vlm_perception.models.loader import load_model
from vlm_perception.models.scope import unknown_target
from vlm_perception.navigation.answer_monitor import LONGEST
from vlm_perception.navigation.map_view import GridView, belief_grid
from vlm_perception.navigation.motion import Command, Pose, placed, seen_from
from vlm_perception.navigation.pilot import Pilot
from vlm_perception.navigation.sighting import UnusableAnswerError
from vlm_perception.navigation.tuning import Tuning
from vlm_perception.nodes.navigator_parameters import CONTROL_RATE, SHORTEST_WAIT
from vlm_perception.nodes.navigator_parameters import Parameters as NavigatorParameters
from vlm_perception.nodes.simulator_parameters import Parameters as SimulatorParameters
from vlm_perception.parameters import check
from vlm_perception.patience import Patience
from vlm_perception.perception.frame import Frame
from vlm_perception.perception.inference import Job, OomBackoff, answer
from vlm_perception.questions import Answer
from vlm_perception.simulation.room import Room
from vlm_perception.simulation.world import World
from vlm_perception.tools.baseline_law import BaselineLaw
from vlm_perception.tools.episode import AT_REST, NOT_FOUND, Episode, EpisodeRecord
from vlm_perception.tools.evaluation import BASELINE, OURS, Setting, Visit

SERVICE = (0.035, 0.01)
"""From a question to its answer [s], delay apart: at least, and how much more on average. Measured with the real nodes
and the nano model: the way of the image to the classifier (0.006 s), that of question and answer, and the model."""
LATE = 0.0005
"""How late [s] the navigator's timer is on average."""
ASKING = 0.0004
"""From its look at the clock to its question [s]. With LATE the navigator asks 7.2 times a second, as the real one."""


class Controller(Protocol):
    """What steers the robot, as its node calls it. Times [s] are of the simulated clock."""

    @property
    def state(self) -> str:
        """What it does, as in `NavigationState`."""

    @property
    def reason(self) -> str:
        """Why it does that."""

    @property
    def is_busy(self) -> bool:
        """Does it need answers?"""

    def wants_image(self, now: float) -> bool:
        """Is it worth while to ask now?"""

    def asked(self, now: float) -> None:
        """Take that a question was sent."""

    def see_odometry(self, stamp: float, pose: Pose) -> None:
        """Take where the wheels say that the robot was at `stamp`."""

    def take(self, answers: Mapping[str, Answer], stamp: float, now: float) -> None:
        """Take the answers about the image of `stamp`."""

    def belief(self) -> GridView | None:
        """Return where the target may be, as the robot sees it, None without a map."""

    def fail(self, kind: str, reason: str) -> None:
        """Take why there is no answer."""

    def step(self, now: float) -> Command | None:
        """Return what is sent to the wheels now, None to be silent."""


class PilotController:
    """The `Pilot` that searches, as the navigator calls it."""

    def __init__(self, target: str, values: NavigatorParameters) -> None:
        self._settings = settings = values.navigation
        self.pilot = Pilot(1.0 / CONTROL_RATE, Tuning.of(settings), settings.limits, settings.max_answer_age)
        self.pilot.start("search", target, f"the new target is {target}")
        self.see_odometry, self.fail = self.pilot.odometry.add_odometry, self.pilot.fail

    @property
    def state(self) -> str:
        decision = self.pilot.decision
        return NOT_FOUND if decision.found is False else decision.state

    @property
    def reason(self) -> str:
        return self.pilot.decision.reason

    @property
    def is_busy(self) -> bool:
        return self.pilot.is_busy

    def wants_image(self, now: float) -> bool:
        return self.pilot.wants_image(now)

    def asked(self, now: float) -> None:
        self.pilot.asked(now, now)

    def take(self, answers: Mapping[str, Answer], stamp: float, now: float) -> None:
        try:
            surroundings, sighting = self._settings.read(answers, stamp)
        except UnusableAnswerError as error:
            self.fail("unusable answer", f"the classifier's answer is not usable: {error}")
            return
        self.pilot.take(surroundings, sighting, now, now)

    def belief(self) -> GridView | None:
        grid = belief_grid(self.pilot.map)
        return replace(grid, corner=seen_from(self.pilot.odometry.pose, grid.corner))

    def step(self, now: float) -> Command | None:
        return self.pilot.step(now, now)


class LawController:
    """The `BaselineLaw`, as its node calls it."""

    def __init__(self, target: str, values: NavigatorParameters) -> None:
        self._law = BaselineLaw(values.navigation)
        self._law.start(target)

    @property
    def state(self) -> str:
        return self._law.state

    @property
    def reason(self) -> str:
        return self._law.reason

    @property
    def is_busy(self) -> bool:
        return self._law.is_busy

    def wants_image(self, now: float) -> bool:
        return True

    def asked(self, now: float) -> None:
        pass

    def see_odometry(self, stamp: float, pose: Pose) -> None:
        pass

    def take(self, answers: Mapping[str, Answer], stamp: float, now: float) -> None:
        self._law.take(answers["target"].value)

    def fail(self, kind: str, reason: str) -> None:
        pass

    def belief(self) -> GridView | None:
        return None

    def step(self, now: float) -> Command | None:
        return self._law.command


CONTROLLERS: Mapping[str, Callable[[str, NavigatorParameters], Controller]] = {
    OURS: PilotController,
    BASELINE: LawController,
}


class DelayedReply(NamedTuple):
    """The `answers` to a request about the image of `stamp`, which are there at `due`."""

    request: int
    stamp: float
    answers: Mapping[str, Answer]
    due: float


class Simulation:
    """One search by a `controller` in `world`, which stands at its start; `run` returns what came of it.

    An answer comes `delay` [s] later than from a quick model, and the model is busy meanwhile.
    """

    def __init__(
        self,
        world: World,
        model: Model,
        controller: Controller,
        target: str,
        delay: float,
        simulator: SimulatorParameters,
        navigator: NavigatorParameters,
    ) -> None:
        self._world = world
        self._model = OomBackoff(model, lambda error: None)
        self._controller = controller
        self._target = target
        self._delay = delay
        self._simulator = simulator
        self._navigator = navigator
        self._questions = navigator.navigation.questions(target)
        self._record = EpisodeRecord()
        self._rng = rng = np.random.default_rng((world.room.seed, zlib.crc32(target.encode())))
        self._phases = rng.uniform(0.0, 1.0, 2).tolist()
        self._now = 0.0
        self._stamp = 0.0  # of the newest image
        self._shown = -math.inf  # stamp of the newest image that the model was asked about
        self._commanded = -math.inf
        self._asked = -math.inf
        self._requests = 0
        self._pending: int | None = None
        self._patience = Patience(SHORTEST_WAIT)
        self._waiting: deque[int] = deque()
        self._reply: DelayedReply | None = None

    def run(self, time_limit: float) -> Episode:
        """Search for at most `time_limit` [s]."""
        ticks, controls = self._times(self._simulator.camera_rate), self._times(CONTROL_RATE, LATE)
        tick, control = next(ticks), next(controls)
        record = self._record
        while True:
            due = self._reply.due if self._reply else math.inf
            self._now = min(tick, control, due)
            end = record.end_of(self._target)
            if self._now > (time_limit if end is None else end.at + AT_REST):
                episode = record.episode(self._world.room, self._target, 0.0, self._now)
                return replace(episode, belief=self._belief())
            if self._now == tick:
                self._tick()
                tick = next(ticks)
            elif self._now == due:
                self._deliver()
            else:
                self._control()
                control = next(controls)
            record.hear(self._now, self._target, self._controller.state, self._controller.reason)

    def _belief(self) -> GridView | None:
        """Return where the target may be, in the room's frame."""
        if (belief := self._controller.belief()) is None:
            return None
        pose = self._world.pose
        return replace(belief, corner=placed(Pose(pose.x, pose.y, pose.yaw), belief.corner))

    def _times(self, rate: float, late: float = 0.0) -> Iterator[float]:
        """Yield when a timer of `rate` [Hz] goes off, `late` [s] on average but not later and later."""
        time = self._phases.pop() / rate
        while True:
            yield time + min(self._rng.exponential(late), 0.5 / rate)
            time += 1.0 / rate

    def _tick(self) -> None:
        """Do what the simulator does with each image; it is rendered only if somebody asks about it."""
        world, now = self._world, self._now
        if now - self._commanded > self._simulator.cmd_vel_timeout:
            world.drive(0.0, 0.0)
        world.step(now - world.time)
        self._stamp = now
        odometry, pose = world.odometry, world.pose
        self._controller.see_odometry(now, Pose(odometry.x, odometry.y, odometry.yaw))
        self._record.see_robot(pose.x, pose.y, world.collisions)
        self._answer_next()

    def _control(self) -> None:
        self._ask_when_due()
        command = self._controller.step(self._now)
        if command is not None:
            self._world.drive(command.forward, command.turn)
            self._commanded = self._now

    def _ask_when_due(self) -> None:
        if not self._controller.is_busy:
            return
        limit = self._patience.limit(LONGEST)
        if self._pending is not None and self._now - self._asked >= limit:
            self._pending = None
            self._patience.took(limit)
            self._controller.fail("time-out", f"the classifier did not answer within {limit:g} s ")
        rate = self._navigator.ask_rate
        if self._pending is not None or (rate and self._now - self._asked < 1.0 / rate):
            return
        if not self._controller.wants_image(self._now):
            return
        self._controller.asked(self._now)
        self._asked = self._now + ASKING
        self._requests += 1
        self._pending = self._requests
        self._waiting.append(self._requests)
        self._answer_next()

    def _answer_next(self) -> None:
        """Let the model begin with the next request, if it is free, about the newest image.

        Without a rate of questions each is about a newer image than the last, and waits for it.
        """
        if self._reply is not None or not self._waiting:
            return
        if not self._navigator.ask_rate and self._stamp <= self._shown:
            return
        self._shown = self._stamp
        due = self._now + SERVICE[0] + self._rng.exponential(SERVICE[1]) + self._delay
        self._reply = DelayedReply(self._waiting.popleft(), self._stamp, self._look(), due)

    def _look(self) -> Mapping[str, Answer]:
        frame = Frame("", self._world.image(), None, self._now, self._now)
        (_, answers), *_ = answer(self._model, [Job(frame, list(self._questions.values()))])
        if isinstance(answers, Exception):
            raise answers
        assert isinstance(answers, list)  # nobody asks for a text
        return dict(zip(self._questions, answers, strict=True))

    def _deliver(self) -> None:
        reply, self._reply = self._reply, None
        assert reply is not None
        self._answer_next()
        if reply.request != self._pending:
            return
        self._pending = None
        self._patience.took(self._now - self._asked)
        self._record.ages.append(self._now - reply.stamp)
        self._controller.take(reply.answers, reply.stamp, self._now)
        self._ask_when_due()


def search(model: Model, setting: Setting, room: Room, controller: str, target: str, time_limit: float) -> Episode:
    """Let a `controller` search in `room` for `target`, for at most `time_limit` [s].

    Raises ValueError for a target that the model does not know.
    """
    if (scope := model.scope) and scope.targets and target not in scope.targets:
        raise ValueError(unknown_target(target, scope.targets, scope.about))
    parameters = setting.parameters()
    simulator = check(SimulatorParameters, parameters["simulator"])
    navigator = check(NavigatorParameters, parameters["navigator"])
    settings = navigator.navigation.for_model(scope.clear_distance if scope else None)
    navigator = replace(navigator, navigation=settings)
    with World(room, simulator.width, simulator.height, simulator.multisampling) as world:
        steered = CONTROLLERS[controller](target, navigator)
        simulation = Simulation(world, model, steered, target, setting.delay, simulator, navigator)
        return simulation.run(time_limit)


# Many rooms, in processes


def visits(setting: Setting, seeds: Sequence[int], jobs: int) -> Generator[Visit]:
    """Yield what came of each room, `jobs` rooms at a time, as they come; each process loads the model once."""
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _leave_interrupts_to_the_parent)
    try:
        for done in as_completed([pool.submit(_visit, setting, seed) for seed in seeds]):
            yield done.result()
    except BaseException:
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _visit(setting: Setting, seed: int) -> Visit:
    model = _model(setting.model)

    def search_here(room: Room, controller: str, target: str, time_limit: float) -> Episode:
        return search(model, setting, room, controller, target, time_limit)

    return setting.visit(setting.room(seed), search_here)


@functools.cache
def _model(name: str) -> Model:
    """Load a model; with one thread, as there is a process for each core."""
    import torch

    torch.set_num_threads(1)
    return load_model(name)
