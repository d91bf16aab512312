"""The whole loop, for real: the installed executables, the shipped model, the simulator, one target."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

pytest.importorskip("rclpy")

from vlm_perception.simulation.room import NAMES, make_room
from vlm_perception.tools import demo
from vlm_perception.tools.episode import choose_target

SEED = 202
pytestmark = pytest.mark.ros


def run(*arguments: str, output: Path, where: Path | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "vlm_perception.tools", "demo", *arguments, "--output", str(output)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=where or output)


def test_the_robot_finds_a_thing_by_its_name(tmp_path):
    done = run("--seed", str(SEED), "--time-limit", "90", output=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["found"] is True
    assert result["target"] in {thing.name for thing in make_room(SEED).things}
    assert result["collisions"] == 0
    assert result["distance_m"] <= 1.0
    assert result["frames"] > 10 and result["labels_per_s"] > 0 and 0 < result["seconds"] <= 90
    video = cv2.VideoCapture(result["video"])
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) > 10 and video.get(cv2.CAP_PROP_FRAME_WIDTH) == 640
    assert cv2.imread(result["image"]).shape == (720, 960, 3)
    assert "does: arrived" in done.stdout and "sees:" in done.stdout
    assert "search ended" in done.stdout and "taken away" not in done.stdout


def test_what_is_not_there_ends_in_an_honest_no(tmp_path):
    trace = ["--trace", "traces/demo.json"]
    done = run("--seed", str(SEED), "--target", "absent", "--time-limit", "8", *trace, output=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["found"] is False and result["distance_m"] is None
    assert result["target"] not in {thing.name for thing in make_room(SEED).things}
    events = json.loads((tmp_path / "traces" / "demo.json").read_text())
    assert {event["name"] for event in events} >= {"received", "wait", "decode", "encode", "answer", "publish"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--target", "x" * 10_000, "--time-limit", "5"], "10000 characters"),
        (["--target", "red\x07ball", "--time-limit", "5"], "control character"),
        (["--target", " ", "--time-limit", "5"], "the target is empty"),
        (["--target", "red motorcycle", "--time-limit", "5"], "the target 'red motorcycle', expected one of red ball"),
        (["--seed", "-1"], "seed is -1"),
        (["--kind", "maze"], "'maze', expected one of room, chambers"),
    ],
)
def test_a_target_or_room_that_makes_no_sense_is_refused(tmp_path, arguments, words):
    done = run(*arguments, output=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert words in done.stderr and "Traceback" not in done.stderr


def test_a_model_folder_that_is_not_there_is_told(tmp_path):
    done = run("--model", str(tmp_path / "nowhere"), output=tmp_path)
    assert done.returncode == 1
    assert "does not exist" in done.stdout + done.stderr


def test_a_trace_that_cannot_be_written_is_told_before_anything_starts(tmp_path):
    done = run("--trace", str(tmp_path), output=tmp_path)
    assert done.returncode == 1 and str(tmp_path) in done.stderr and "Traceback" not in done.stderr


def test_a_folder_that_cannot_be_written_is_told_before_anything_starts(tmp_path):
    (tmp_path / "file").touch()
    done = run(output=tmp_path / "file" / "folder", where=tmp_path)
    assert done.returncode == 1 and "output folder" in done.stderr and "file/folder' cannot be written" in done.stderr
    assert "starting" not in done.stdout and "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["nonsense", "glfw"])
def test_a_renderer_that_does_not_work_is_told_in_words(tmp_path, monkeypatch, name):
    monkeypatch.setenv("MUJOCO_GL", name)
    monkeypatch.delenv("DISPLAY", raising=False)
    done = run(output=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"cannot render with MUJOCO_GL={name}" in done.stderr and "set egl" in done.stderr
    node = [sys.executable, "-c", "import sys; from vlm_perception.nodes.simulator import main; sys.exit(main())"]
    done = subprocess.run(node, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "Traceback" not in done.stderr and "set egl" in done.stderr


def test_present_and_absent_are_chosen_by_the_room():
    for seed in range(20):
        room = make_room(seed)
        there = {thing.name for thing in room.things}
        assert choose_target("present", room) in there
        assert choose_target("absent", room) in set(NAMES) - there
        for same in ("blue box", "Blue box", "blue  BOX", "the blue box"):
            assert choose_target(same, room) == "blue box"
    assert demo.__doc__
