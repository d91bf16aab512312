"""`vlm_perception look`: without ROS, every frame of what a user has becomes a video, a contact sheet and a table."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from vlm_perception.models.loader import NANO_FOLDER
from vlm_perception.models.scope import FILE
from vlm_perception.tools import cli
from vlm_perception.tools.images import ON_THE_SHEET, AnsweredQuestion, Canvas, Kept, Video
from vlm_perception.training.prompts import LABEL_PROMPT

pytestmark = pytest.mark.slow

LABELS = ["clear", "obstacle", "wall"]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "own.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (160, 120))
    for number in range(8):
        writer.write(np.full((120, 160, 3), 30 * number, np.uint8))
    writer.release()
    return path


def test_every_frame_of_a_video_is_labelled_without_ros(video, tmp_path):
    forget = (
        "import sys; sys.modules['rclpy'] = sys.modules['vlm_perception.msg'] = None"  # an import of it is an error
    )
    code = f"{forget}\nfrom vlm_perception.tools import cli; sys.exit(cli.main())"
    arguments = ["look", str(video), "--labels", *LABELS, "--ask", "is there a red ball?", "--output", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "nano knows this package's simulator only" in done.stderr and "160x120" in done.stderr
    result = json.loads(done.stdout)
    assert result["frames"] == 8 and sum(result["labels"].values()) == pytest.approx(1.0, abs=0.01)
    with open(result["table"], encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["time [s]"]) for row in rows] == pytest.approx([0.1 * n for n in range(8)], abs=0.002)
    for row in rows:
        assert sum(float(row[f"{LABEL_PROMPT} {label}"]) for label in LABELS) == pytest.approx(1.0, abs=0.001)
        assert 0 <= float(row["is there a red ball? yes"]) <= 1
    film = cv2.VideoCapture(result["video"])
    assert (film.get(cv2.CAP_PROP_FRAME_COUNT), film.get(cv2.CAP_PROP_FPS)) == (8, 10)
    assert cv2.imread(result["sheet"]).shape == (2 * 240, 5 * 320, 3)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["{video}", "--labels", "kitchen", "office"], 2, ["'kitchen', 'office'", "corridor", "--model"]),
        (["{video}", "--labels", *LABELS, "--ask", "is there a person?"], 2, ["'person'", "red ball"]),
        (["{video}", "--labels", "one"], 2, ["1 options"]),
        (["{tmp}/none.mp4", "--labels", *LABELS], 1, ["none.mp4 does not exist"]),
        (["{tmp}", "--labels", *LABELS], 1, ["has no images"]),
        (["{video}", "--labels", *LABELS, "--model", "{tmp}/none"], 1, ["none' does not exist"]),
        (["{video}", "--labels", *LABELS, "--output", "{video}/x"], 1, ["own.avi/x' cannot be written"]),
    ],
)
def test_what_cannot_be_looked_at_is_said(video, tmp_path, capsys, arguments, code, words):
    arguments = [argument.format(video=video, tmp=tmp_path) for argument in arguments]
    given = [] if "--output" in arguments else ["--output", str(tmp_path / "out")]
    assert cli.main(["look", *arguments, *given]) == code
    said = capsys.readouterr().err
    assert all(word in said for word in words), said


def test_a_model_without_a_scope_is_asked_whatever_the_user_likes(video, tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(NANO_FOLDER, folder)
    (folder / FILE).unlink()
    image = tmp_path / "one.png"
    cv2.imwrite(str(image), np.zeros((20, 900, 3), np.uint8))
    output = ["--model", str(folder), "--output", str(tmp_path / "out")]
    assert cli.main(["look", str(image), "--labels", "kitchen", "office", "--prompt", "which room?", *output]) == 0
    said = capsys.readouterr()
    assert "warning" not in said.err and json.loads(said.out)["frames"] == 1


def test_frames_on_the_sheet_are_spread_over_any_length(tmp_path):
    kept = Kept()
    for number in range(1000):
        kept.add(np.full((4, 4, 3), number % 256, np.uint8))
    assert ON_THE_SHEET / 2 <= len(kept.images) <= ON_THE_SHEET
    kept.write(tmp_path / "sheet.png")
    assert cv2.imread(str(tmp_path / "sheet.png")) is not None


def test_a_bar_is_as_long_as_its_probability_and_green_if_chosen():
    canvas = Canvas(np.zeros((480, 640, 3), np.uint8))
    canvas.asked([AnsweredQuestion("which?", [("a", 0.25), ("b", 0.75)], "b")], 0)
    green, grey = ((canvas.image == colour).all(-1) for colour in ((40, 130, 40), (100, 100, 100)))
    assert green.sum(1).max() / grey.sum(1).max() == pytest.approx(3.0, rel=0.1)
    assert np.nonzero(grey)[0].max() < np.nonzero(green)[0].min()  # in the order of the options


def test_a_video_takes_images_of_any_size_and_is_one_that_browsers_play(tmp_path):
    film = Video(tmp_path / "new" / "film.webm", 10.0)
    for size in ((48, 64), (96, 128), (31, 33)):
        film.add(np.full((*size, 3), 200, np.uint8))
    film.close()
    video = cv2.VideoCapture(str(film.path))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 3
    assert int(video.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little") == b"VP80"
