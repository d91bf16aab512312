"""The evaluation: what it counts, whom it compares with, and one small one from end to end."""

import json
from dataclasses import replace

import pytest
from one_room import evaluate_one_room

from vlm_perception.navigation.motion import STOP, Command
from vlm_perception.navigation.settings import NavigationSettings
from vlm_perception.simulation.room import make_room
from vlm_perception.tools import cli
from vlm_perception.tools.baseline_law import BaselineLaw, obey
from vlm_perception.tools.episode import Episode
from vlm_perception.tools.evaluation import Setting
from vlm_perception.tools.summary import KEYS, Trial, bootstrap, failures_in_words, path_share, summarize, table, wilson


def episode(**facts) -> Episode:
    """A search that has found its target after 10 s and 3 m, unless `facts` say otherwise."""
    usual = {
        "seed": 0,
        "target": "red ball",
        "arrived": True,
        "gave_up": False,
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


ROOM = make_room(0)
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
    assert [figures[key] for key in KEYS] == [4, 2, pytest.approx((0.8 + 1.0) / 4), 15.0, 1, 1, 2, 0, None, 0]
    assert figures["median_seconds_of_all"] == 70.0  # what was not found took longer than the limit
    assert figures["absent_rooms"] == 4 and figures["episodes_with_collisions"] == 1
    assert figures["intervals"]["found"] == wilson(2, 4)
    words = table({"ours": figures, "baseline": figures})
    assert "| target found | 2 of 4 (15% to 85%) | 2 of 4 (15% to 85%) |" in words


def test_what_was_not_measured_is_none_and_no_zero():
    figures = summarize([Trial(episode(found=False, arrived=False), None, shortest=0.0)], time_limit=120.0)
    assert [figures[key] for key in KEYS] == [1, 0, None, None, 0, None, 0, None, None, 0]
    assert "| false arrivals, target absent | - |" in table({"ours": figures})
    assert json.dumps(figures)


def test_not_here_is_right_of_what_is_absent_and_a_failure_of_what_is_there():
    right = [replace(NOTHING, gave_up=True, seconds=seconds) for seconds in (20.0, 50.0, 30.0)]
    wrong = episode(arrived=False, found=False, gave_up=True, seconds=25.0)
    trials = [Trial(episode(), absent, 1.0) for absent in right] + [Trial(wrong, NOTHING, 1.0)]
    figures = summarize(trials, time_limit=120.0)
    assert (figures["gave_up_absent"], figures["median_seconds_gave_up"], figures["gave_up_present"]) == (3, 30.0, 1)
    assert figures["found"] == 3 and figures["median_seconds"] == 10.0
    words = table({"ours": figures})
    assert '| "not here", target absent | 3 of 4 (30% to 95%) |' in words
    assert failures_in_words(trials[0], ROOM) == []
    assert '"not here" after 25 s' in failures_in_words(trials[-1], ROOM)[0]


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
    assert failures_in_words(Trial(episode(), NOTHING, shortest=1.0), ROOM) == []
    stopped = episode(found=False, distance=None)
    wrong = Trial(episode(found=False, distance=1.7, collisions=1), stopped, shortest=1.0)
    present, absent = failures_in_words(wrong, ROOM)
    assert "false arrival after 10 s" in present and "1.70 m from the target" in present and "1 collisions" in present
    assert "10 s arrived: red ball is near and ahead" in present
    assert "(absent): false arrival" in absent
    (lost,) = failures_in_words(Trial(episode(found=False, arrived=False, seconds=120.0), NOTHING, shortest=1.0), ROOM)
    assert "not found within 120 s" in lost


# The baseline controller


def test_the_baseline_controller_is_the_usual_one():
    assert obey("absent") == ("searching", Command(turn=0.3))
    assert obey("left far") == ("aligning", Command(turn=0.5))
    assert obey("right far") == ("aligning", Command(turn=-0.5))
    assert obey("center far") == ("approaching", Command(forward=0.3))
    for direction in ("left", "center", "right"):
        assert obey(f"{direction} near") == ("arrived", STOP)


def test_the_baseline_controller_obeys_until_it_has_arrived():
    law = BaselineLaw(NavigationSettings())
    assert not law.is_busy and law.command == STOP
    law.start("red ball")
    law.take("center far")
    assert law.is_busy and (law.state, law.command) == ("approaching", Command(forward=0.3))
    law.take("left near")
    assert not law.is_busy and (law.state, law.command, law.reason) == ("arrived", STOP, "the answer is 'left near'")


# The command


def test_the_kind_of_rooms_is_chosen():
    setting = Setting(0.0, 120.0, 30.0, ("ours",), False, "nano", kind="chambers")
    assert setting.room(3) == make_room(3, "chambers")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--first-seed", "1000000"], "kept for judging"),
        (["--first-seed", "999999", "--rooms", "2"], "kept for judging"),
        (["--rooms", "0"], "expected at least 1"),
        (["--first-seed", "-1"], "no seeds"),
        (["--kind", "maze"], "'maze', expected one of room, chambers"),
        (["--kind", "chambers", "--first-seed", "1000000"], "kept for judging"),
        (["--delay", "-1"], "the delay is -1.0 s"),
        (["--time-limit", "nan"], "the time limit is nan s"),
        (["--absent-time-limit", "0"], "the time limit is 0.0 s"),
        (["--domain", "10"], "--real-time"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_starts(arguments, words, capsys, tmp_path):
    assert cli.main(["evaluate", *arguments, "--output", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_one_room_on_a_simulated_clock_from_end_to_end(tmp_path):
    evaluate_one_room(tmp_path, "simulated", 1.0, "--absent-time-limit", "1")


@pytest.mark.parametrize("command", [["evaluate"], ["figures"], ["train"], ["look", "x.mp4", "--labels", "a", "b"]])
def test_a_folder_that_cannot_be_written_is_found_before_the_work_begins(command, tmp_path, capfd):
    (tmp_path / "file").touch()
    assert cli.main([*command, "--output", str(tmp_path / "file" / "folder")]) == 1
    out, err = capfd.readouterr()
    assert "output folder" in out + err and "file/folder' cannot be written" in out + err and "Traceback" not in err
