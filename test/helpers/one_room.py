"""One room evaluated by the command, from end to end, on either clock."""

import json
import subprocess
import sys

from vlm_perception.tools.summary import KEYS


def evaluate_one_room(folder, clock, absent_time_limit, *options):
    """Run `evaluate` on room 0 into `folder`, and check its line of JSON and its files."""
    command = [sys.executable, "-m", "vlm_perception.tools", "evaluate", "--rooms", "1", "--time-limit", "3"]
    command += ["--jobs", "1", "--output", str(folder), "--delay", "0.05", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert set(KEYS) <= set(line) and set(KEYS) <= set(line["baseline"])
    assert line["rooms"] == line["baseline"]["rooms"] == line["absent_rooms"] == 1
    assert (line["delay"], line["first_seed"], line["absent_time_limit"]) == (0.05, 0, absent_time_limit)
    assert line["clock"] == clock and line["median_image_age"] > 0.05
    everything = json.loads((folder / "evaluation.json").read_text())
    ours = everything["trials"]["0"]["ours"]
    assert ours["shortest"] > 0.0 and ours["present"]["states"]
    assert ours["absent"]["target"] != ours["present"]["target"]
    for file in ("table.md", "rooms.png", "rooms/room-0.png"):
        assert (folder / file).stat().st_size > 100
