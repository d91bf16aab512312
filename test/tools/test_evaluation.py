"""The evaluation: what it counts, whom it compares with, and one small one from end to end."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from geometry_msgs.msg import Twist

from vlm_perception import msg
from vlm_perception.nodes.navigator import Parameters
from vlm_perception.srv import Ask, SetSearchTarget
from vlm_perception.tools import cli, evaluation, slow_classifier
from vlm_perception.tools.baseline_controller import BaselineController, obey
from vlm_perception.tools.episode import Episode
from vlm_perception.tools.summary import KEYS, Trial, bootstrap, failures_in_words, path_share, summarize, table, wilson


def episode(**facts) -> Episode:
    """A search that has found its target after 10 s and 3 m, unless `facts` say otherwise."""
    usual = {
        "seed": 0,
        "target": "red ball",
        "arrived": True,
        "found": True,
        "seconds": 10.0,
        "distance": 0.6,
        "driven": 3.0,
        "collisions": 0,
        "path": [(0.0, 0.0), (1.0, 0.0)],
        "collided_at": [],
        "states": [(0.0, "searching", "looking around"), (10.0, "arrived", "red ball is near and ahead")],
        "image_ages": [0.1],
    }
    return Episode(**{**usual, **facts})


pytestmark = pytest.mark.ros
NOTHING = episode(arrived=False, found=False, distance=None, seconds=40.0)


# What is counted


def test_the_figures_of_four_rooms():
    trials = [
        Trial(episode(), NOTHING, shortest=2.4),
        Trial(episode(seconds=20.0, driven=2.0), episode(found=False, distance=None), shortest=2.4),
        Trial(episode(found=False, distance=1.7, collisions=2), NOTHING, shortest=2.0),
        Trial(episode(found=False, arrived=False, seconds=120.0), NOTHING, shortest=2.0),
    ]
    figures = summarize(trials, time_limit=120.0)
    assert [figures[key] for key in KEYS] == [4, 2, pytest.approx((0.8 + 1.0) / 4), 15.0, 1, 1, 2]
    assert figures["median_seconds_of_all"] == 70.0  # what was not found took longer than the limit
    assert figures["absent_rooms"] == 4 and figures["episodes_with_collisions"] == 1
    assert figures["intervals"]["found"] == wilson(2, 4)
    words = table({"ours": figures, "baseline": figures})
    assert "| target found | 2 of 4 (15% to 85%) | 2 of 4 (15% to 85%) |" in words


def test_what_was_not_measured_is_none_and_no_zero():
    figures = summarize([Trial(episode(found=False, arrived=False), None, shortest=0.0)], time_limit=120.0)
    assert [figures[key] for key in KEYS] == [1, 0, None, None, 0, None, 0]
    assert "| false arrivals, target absent | - |" in table({"ours": figures})
    assert json.dumps(figures)


def test_spl_rewards_short_ways_and_nothing_but_success():
    assert path_share(Trial(episode(driven=4.0), None, shortest=2.0)) == 0.5
    assert path_share(Trial(episode(driven=1.9), None, shortest=2.0)) == 1.0
    assert path_share(Trial(episode(found=False), None, shortest=2.0)) == 0.0
    assert path_share(Trial(episode(driven=0.1), None, shortest=0.0)) is None


def test_intervals_are_those_of_the_textbooks():
    assert wilson(95, 100) == pytest.approx((0.8882, 0.9785), abs=1e-4)
    assert wilson(0, 100) == pytest.approx((0.0, 0.0370), abs=1e-4)
    assert wilson(0, 0) is None and bootstrap([], max) is None
    low, high = bootstrap([float(value) for value in range(101)], lambda values: sum(values) / len(values))
    assert low == pytest.approx(50.0 - 5.7, abs=1.0) and high == pytest.approx(50.0 + 5.7, abs=1.0)


def test_failures_say_what_where_and_what_was_thought():
    assert failures_in_words(Trial(episode(), NOTHING, shortest=1.0)) == []
    stopped = episode(found=False, distance=None)
    wrong = Trial(episode(found=False, distance=1.7, collisions=1), stopped, shortest=1.0)
    present, absent = failures_in_words(wrong)
    assert "false arrival after 10 s" in present and "1.70 m from the target" in present and "1 collisions" in present
    assert "10 s arrived: red ball is near and ahead" in present
    assert "(absent): false arrival" in absent
    (lost,) = failures_in_words(Trial(episode(found=False, arrived=False, seconds=120.0), NOTHING, shortest=1.0))
    assert "not found within 120 s" in lost


# The baseline controller


def test_the_baseline_controller_is_the_usual_one():
    assert obey("absent") == ("searching", 0.0, 0.3)
    assert obey("left far") == ("aligning", 0.0, 0.5)
    assert obey("right far") == ("aligning", 0.0, -0.5)
    assert obey("center far") == ("approaching", 0.3, 0.0)
    for direction in ("left", "center", "right"):
        assert obey(f"{direction} near") == ("arrived", 0.0, 0.0)


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


def test_only_the_time_outs_know_of_a_delay():
    at_once, late = (evaluation.Setting(delay, 120.0, ("ours",), True, "nano") for delay in (0.0, 1.0))
    assert at_once.commands() == {} and "navigator" not in at_once.parameters()
    assert late.commands()["classifier"][-1] == "1.0"
    assert late.parameters()["navigator"] == {"ask_timeout": 4.0, "max_answer_age": 2.8}
    assert late.parameters()["simulator"] == at_once.parameters()["simulator"]


# The command


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--first-seed", "1000000"], "kept for judging"),
        (["--first-seed", "999999", "--rooms", "2"], "kept for judging"),
        (["--rooms", "0"], "expected at least 1"),
        (["--first-seed", "-1"], "no seeds"),
        (["--delay", "-1"], "the delay is -1.0 s"),
        (["--time-limit", "nan"], "the time limit is nan s"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_starts(arguments, words, capsys, tmp_path):
    assert cli.main(["evaluate", *arguments, "--output", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


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

    def visit(spectator, room, *_):
        visits.append(room.seed)
        if (room.seed, visits.count(room.seed)) in breakdowns:
            raise RuntimeError("the classifier ended")
        return Trial(episode(seed=room.seed), NOTHING, shortest=1.0)

    for name, value in {"Stack": Nothing, "Spectator": Nothing, "visit": visit}.items():
        monkeypatch.setattr(evaluation, name, value)
    setting = evaluation.Setting(0.0, 120.0, ("ours",), True, "nano")
    breakdowns = {(1, 1)}
    once = evaluation.Evaluation(setting, range(3), tmp_path)
    assert once.run([0]) == 0
    assert sorted(once.trials) == [0, 1, 2] and visits == [0, 1, 2, 1] and once.broken_down == [1]
    visits.clear()
    breakdowns = {(1, 1), (1, 2)}
    twice = evaluation.Evaluation(setting, range(3), tmp_path)
    assert twice.run([0]) == 1
    assert "the classifier ended" in capsys.readouterr().err


def test_one_room_from_end_to_end(tmp_path):
    command = [sys.executable, "-m", "vlm_perception.tools", "evaluate", "--rooms", "1", "--time-limit", "6"]
    command += ["--jobs", "1", "--output", str(tmp_path), "--delay", "0.05"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert set(KEYS) <= set(line) and set(KEYS) <= set(line["baseline"])
    assert line["rooms"] == line["baseline"]["rooms"] == line["absent_rooms"] == 1
    assert (line["delay"], line["first_seed"], line["absent_time_limit"]) == (0.05, 0, 1.5)
    assert line["median_image_age"] > 0.05
    everything = json.loads((tmp_path / "evaluation.json").read_text())
    ours = everything["trials"]["0"]["ours"]
    assert (
        ours["shortest"] > 0.0 and ours["present"]["states"] and ours["absent"]["target"] != ours["present"]["target"]
    )
    for file in ("table.md", "rooms.png", "rooms/room-0.png"):
        assert (tmp_path / Path(file)).stat().st_size > 100


@pytest.mark.parametrize("command", [["evaluate"], ["figures"], ["train"], ["look", "x.mp4", "--labels", "a", "b"]])
def test_a_folder_that_cannot_be_written_is_found_before_the_work_begins(command, tmp_path, capfd):
    (tmp_path / "file").touch()
    assert cli.main([*command, "--output", str(tmp_path / "file" / "folder")]) == 1
    out, err = capfd.readouterr()
    assert "output folder" in out + err and "file/folder' cannot be written" in out + err and "Traceback" not in err
