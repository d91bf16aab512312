"""What people look at: the belief lies where it belongs, and the map stands in the video's image."""

import numpy as np

from vlm_perception.navigation.map_view import FULL, UNKNOWN, GridView
from vlm_perception.navigation.motion import Pose
from vlm_perception.simulation.room import make_room
from vlm_perception.tools.images import AnsweredQuestion, annotate, draw_paths, lay_over

GREY = np.full((200, 200, 3), 100, np.uint8)


def test_the_belief_is_laid_over_the_floor_where_it_is():
    cells = np.full((10, 20), UNKNOWN, np.int8)
    cells[2:5, 10:14] = FULL
    cells[6:9, 10:14] = 0
    image = GREY.copy()
    # The grid begins at (5, 1) and is turned left by a quarter: its x axis is the room's y axis.
    lay_over(
        image, GridView(cells, Pose(5.0, 1.0, np.pi / 2)), lambda x, y: (100 + 20 * (x - 5.0), 150 - 20 * (y - 1.0))
    )
    changed = np.argwhere((image != GREY).any(-1))
    rows, columns = changed[:, 0], changed[:, 1]
    assert rows.min() >= 150 - 20 * 1.4 - 2 and rows.max() <= 150 - 20 * 1.0 + 2
    assert columns.min() >= 100 - 20 * 0.9 - 2 and columns.max() <= 100 - 20 * 0.2 + 2
    high, low = image[150 - 24, 100 - 7], image[150 - 24, 100 - 15]
    assert high[0] > 150 and high.sum() > low.sum() and (low != 100).any()  # yellow; a dark tint


def test_the_view_from_above_stands_in_the_videos_image():
    asked = AnsweredQuestion("what is ahead?", [("clear", 1.0)], "clear")
    image, above = np.zeros((480, 640, 3), np.uint8), np.full((300, 400, 3), (10, 200, 30), np.uint8)
    without, drawn = (annotate(image, "searching", "", "", asked, (0.0, 0.0), 0.0, view) for view in (None, above))
    differs = np.argwhere((drawn == (10, 200, 30)).all(-1) & (without != drawn).any(-1))
    assert len(differs) == round(0.36 * 640) * round(0.36 * 480) and differs[:, 1].min() > 320


def test_paths_and_belief_are_written(tmp_path):
    room, belief = make_room(3), GridView(np.full((30, 30), FULL, np.int8), Pose(0.0, 0.0))
    for name, given in {"plain": None, "belief": belief}.items():
        draw_paths(room, {"ours": [(0.0, 0.0), (1.0, 0.5)]}, "red ball", tmp_path / f"{name}.png", (), given)
    assert (tmp_path / "plain.png").read_bytes() != (tmp_path / "belief.png").read_bytes()
