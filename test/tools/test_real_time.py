"""The evaluation with the real nodes: the baseline's node, delays, breakdowns, and one room from end to end."""

import pytest

pytest.importorskip("rclpy")

from geometry_msgs.msg import Twist
from one_room import evaluate_one_room

from vlm_perception import msg
from vlm_perception.nodes.navigator_parameters import Parameters
from vlm_perception.srv import Ask, SetSearchTarget
from vlm_perception.tools import real_time, slow_classifier
from vlm_perception.tools.baseline_controller import BaselineController
from vlm_perception.tools.episode import EpisodeRecord
from vlm_perception.tools.evaluation import Evaluation, Setting

pytestmark = pytest.mark.ros


def test_it_asks_the_navigators_questions_and_holds_each_command_until_the_next_answer(ros):
    asked, answers = [], ["right far", "center far"]

    def answer(request, response):
        asked.append([(question.name, question.prompt, list(question.options)) for question in request.questions])
        if not answers:
            return response  # a failure is no answer
        response.success = True
        response.answers = [msg.Answer(name=question.name, value="-") for question in request.questions]
        response.answers[2].value = answers.pop(0)
        return response

    ros.node.create_service(Ask, "ask", answer)
    ros.add(BaselineController())
    commands = ros.collect(Twist, "cmd_vel")
    states = ros.collect(msg.NavigationState, "baseline_controller/navigation_state")
    call = "baseline_controller/set_search_target"
    assert ros.call(SetSearchTarget, call, SetSearchTarget.Request(target="red ball")).success
    ros.until(lambda: len(asked) > 5 and len(commands) > 10, "questions that fail")
    theirs = [
        (name, question.prompt, list(question.options))
        for name, question in Parameters().navigation.questions("red ball").items()
    ]
    assert all(questions == theirs for questions in asked)
    motions = [(command.linear.x, command.angular.z) for command in commands]
    assert (0.0, -0.5) in motions and set(motions[-5:]) == {(0.3, 0.0)}
    assert [state.state for state in states][-2:] == ["aligning", "approaching"]
    answers += ["left near"]
    ros.until(lambda: states[-1].state == "arrived", "the arrival")
    assert ros.call(SetSearchTarget, call, SetSearchTarget.Request(target="")).success
    ros.spin(0.2)
    commands.clear(), asked.clear()
    ros.spin(0.3)
    assert commands == [] and asked == []  # without a target it is silent


# Delay


def test_a_slow_model_is_busy_before_every_answer(monkeypatch):
    events = []

    class Model:
        name, scope = "quick", None

        def answer(self, image, questions):
            events.append("answered")
            return ["answer"]

    monkeypatch.setattr(slow_classifier.time, "sleep", events.append)
    slow = slow_classifier.Slow(Model(), 3.0)
    assert slow.answer(None, ["question"]) == ["answer"] and slow.name == "quick"
    assert events == [3.0, "answered"]


def test_no_node_is_told_of_a_delay():
    at_once, late = (Setting(delay, 120.0, 30.0, ("ours",), True, "nano") for delay in (0.0, 1.0))
    assert real_time.commands(at_once) == {}
    assert real_time.commands(late)["classifier"][-1] == "1.0"
    assert late.parameters() == at_once.parameters() and not late.parameters()["navigator"]


def test_a_room_is_visited_again_once_when_the_nodes_break_down(monkeypatch, tmp_path, capsys):
    stacks, visits = [], []

    class Nothing:
        def __init__(self, *_):
            stacks.append(self)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def __getattr__(self, _):
            return lambda *_: None

    def search(_, room, target, *__):
        visits.append(room.seed)
        if (room.seed, visits.count(room.seed)) in breakdowns:
            raise RuntimeError("the classifier ended")
        return EpisodeRecord(pose=(0.0, 0.0), path=[(0.0, 0.0)]).episode(room, target, 0.0, 1.0)

    for name, value in {"Stack": Nothing, "Spectator": Nothing, "run_episode": search}.items():
        monkeypatch.setattr(real_time, name, value)
    setting = Setting(0.0, 120.0, 30.0, ("ours",), False, "nano")
    breakdowns = {(1, 1)}
    nodes, once = real_time.RealTime(setting, range(3), [0], tmp_path), Evaluation(setting, 3, tmp_path)
    assert once.run(nodes.visits()) == 0
    assert sorted(once.trials) == [0, 1, 2] and visits == [0, 1, 2, 1] and nodes.broken_down == [1]
    visits.clear()
    breakdowns = {(1, 1), (1, 2)}
    nodes, twice = real_time.RealTime(setting, range(3), [0], tmp_path), Evaluation(setting, 3, tmp_path)
    assert twice.run(nodes.visits()) == 1
    assert "the classifier ended" in capsys.readouterr().err


def test_one_room_from_end_to_end(tmp_path):
    evaluate_one_room(tmp_path, "real", 0.75, "--real-time")
