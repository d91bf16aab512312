"""Searches on a simulated clock: the same every time, and late, stopped and lost as the nodes would have it."""

import functools
import itertools

import pytest

from vlm_perception.models.loader import load_model
from vlm_perception.navigation.motion import STOP, Command
from vlm_perception.nodes.navigator_parameters import Parameters as NavigatorParameters
from vlm_perception.nodes.simulator_parameters import Parameters as SimulatorParameters
from vlm_perception.questions import Answer
from vlm_perception.simulation.room import make_room
from vlm_perception.simulation.world import World
from vlm_perception.tools import simulated_time
from vlm_perception.tools.evaluation import Setting
from vlm_perception.tools.simulated_time import SERVICE, PilotController, Simulation

CAMERA_PERIOD = 0.05
SETTING = Setting(0.0, 120.0, 30.0, ("ours", "baseline"), True, "nano")


class Sure:
    """A model that is sure of the first option, whatever it is shown; `calls` counts how often that is."""

    name, scope = "sure", None
    calls = 0

    def answer(self, image, questions):
        self.calls += 1
        return [Answer(q.options[0], 1.0, q.options, (1.0, *[0.0] * (len(q.options) - 1))) for q in questions]


class Controller:
    """Sends `command` for `seconds`, then nothing; says `not_found` after `patience` [s]; keeps what it is told."""

    def __init__(self, command=STOP, seconds=100.0, patience=100.0):
        self.state, self.reason, self.is_busy = "searching", "", True
        self.command, self.seconds, self.patience = command, seconds, patience
        self.taken, self.failed, self.poses, self.questions = [], [], [], []

    def wants_image(self, now):
        return True

    def asked(self, now):
        self.questions.append(now)

    def see_odometry(self, stamp, pose):
        self.poses.append((stamp, pose))

    def take(self, answers, stamp, now):
        self.taken.append((stamp, now, {name: answer.value for name, answer in answers.items()}))

    def fail(self, kind, reason):
        self.failed.append(kind)

    def belief(self):
        return None

    def step(self, now):
        if now > self.patience:
            self.state = "not_found"
        return self.command if now < self.seconds else None


def simulate(controller, time_limit, delay=0.0, model=None, **parameters):
    """Return the episode of a search in room 3."""
    simulator = SimulatorParameters(width=64, height=48, multisampling=0, camera_rate=1.0 / CAMERA_PERIOD)
    with World(make_room(3), 64, 48, 0) as world:
        navigator = NavigatorParameters(**parameters)
        return Simulation(world, model or Sure(), controller, "red ball", delay, simulator, navigator).run(time_limit)


@functools.cache
def nano():
    return load_model("nano")


def test_equal_seeds_give_equal_episodes_to_the_bit():
    room = make_room(200000)
    for controller in SETTING.controllers:
        first, second = (
            simulated_time.search(nano(), SETTING, room, controller, room.things[0].name, 2.0) for _ in range(2)
        )
        assert repr(first) == repr(second)
        assert first.driven > 0.0 or len(first.states) > 1


# Without delay: 10 Hz at most, when a timer of 20 Hz goes off; or all images.
@pytest.mark.parametrize(("delay", "rate", "number"), [(0.0, 10.0, (43, 6)), (0.0, 0.0, (112, 8)), (1.0, 10.0, (5, 0))])
def test_answers_are_as_late_as_they_should_be_and_about_the_newest_image_when_the_model_began(delay, rate, number):
    controller = Controller()
    episode = simulate(controller, 6.0, delay, ask_rate=rate)
    least = SERVICE[0] + delay
    ages = [now - stamp for stamp, now, _ in controller.taken]
    assert len(ages) == pytest.approx(number[0], abs=number[1])
    assert all(least <= age <= least + CAMERA_PERIOD + 12 * SERVICE[1] for age in ages)
    assert ages == episode.image_ages
    between = [after[1] - before[1] for before, after in itertools.pairwise(controller.taken)]
    assert min(between) >= (0.1 - 7 * SERVICE[1] if rate and not delay else least)
    stamps = [stamp for stamp, _, _ in controller.taken]
    assert sorted(set(stamps)) == stamps and set(stamps) <= {stamp for stamp, _ in controller.poses}
    assert 0 <= len(controller.questions) - len(controller.taken) <= 1
    assert all(asked <= now for asked, (_, now, _) in zip(controller.questions, controller.taken, strict=False))
    assert controller.taken[0][2] == {"label": "clear", "way": "left", "target": "no"}


def test_the_model_is_busy_with_what_nobody_waits_for_any_more(monkeypatch):
    monkeypatch.setattr(simulated_time, "LONGEST", 2.0)
    controller, model = Controller(), Sure()
    simulate(controller, 7.0, delay=3.0, model=model)
    assert model.calls == 3  # at 0, 3 and 6 s, for what was asked at 0, 2 and 4 s
    assert controller.taken == [] and len(controller.failed) == 3 and set(controller.failed) == {"time-out"}


def test_odometry_comes_with_each_image_and_says_how_the_robot_went():
    controller = Controller(Command(0.3, 0.0))
    episode = simulate(controller, 2.0)
    stamps = [stamp for stamp, _ in controller.poses]
    steps = [after - before for before, after in itertools.pairwise(stamps)]
    assert steps == pytest.approx([CAMERA_PERIOD] * len(steps))
    (began, at), (ended, then) = controller.poses[-20], controller.poses[-1]
    assert (then.x - at.x) / (ended - began) == pytest.approx(0.3, rel=0.015)
    assert controller.poses[-1][1].x == pytest.approx(episode.driven, abs=0.05) and 0.4 < episode.driven < 0.6


def test_the_wheels_stop_soon_after_the_last_command():
    controller = Controller(Command(0.3, 0.0), seconds=1.0)
    simulate(controller, 3.0)
    moving = [stamp for (stamp, a), (_, b) in itertools.pairwise(controller.poses) if b.x - a.x > 1e-3]
    assert 1.2 < max(moving) < 1.7  # cmd_vel_timeout is 0.3 s, then it brakes


def test_a_search_ends_when_the_controller_gives_up():
    episode = simulate(Controller(patience=2.0), 60.0)
    assert episode.gave_up and not episode.arrived and not episode.found
    assert episode.seconds == pytest.approx(2.0, abs=0.06)
    assert [state for _, state, _ in episode.states] == ["searching", "not_found"]
    nobody = simulate(Controller(), 1.0)
    assert not nobody.gave_up and nobody.seconds == pytest.approx(1.0, abs=0.06)


def test_the_navigators_search_says_so_when_it_gives_up():
    navigator = PilotController("red ball", NavigatorParameters())
    navigator.pilot.start("search", "red ball", "a test", time_limit=0.5)
    navigator.step(0.0)
    assert navigator.state == "stopped" and navigator.is_busy
    navigator.step(0.6)
    assert navigator.state == "not_found" and not navigator.is_busy and "not found within 0.5 s" in navigator.reason
