"""What an evaluation says: rates with Wilson's intervals, medians and SPL with bootstrapped ones, failures in words."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vlm_perception.simulation.room import Room
from vlm_perception.tools.episode import Episode

KEYS = (
    "rooms",
    "found",
    "spl",
    "median_seconds",
    "false_arrivals_present",
    "false_arrivals_absent",
    "collisions",
    "gave_up_absent",
    "median_seconds_gave_up",
    "gave_up_present",
)
Interval = tuple[float, float]


@dataclass(frozen=True)
class Trial:
    """One controller in one room: with a target that is there, `shortest` [m] away, and with one that is not."""

    present: Episode
    absent: Episode | None
    shortest: float

    def in_figures(self) -> dict[str, object]:
        """Return what goes into a file."""
        absent = self.absent.in_figures() if self.absent else None
        return {"present": self.present.in_figures(), "absent": absent, "shortest": self.shortest}


def summarize(trials: Sequence[Trial], time_limit: float) -> dict[str, object]:
    """Return the figures of one controller under `KEYS`, and `intervals` of 95 % and more beside them.

    `found`, the false arrivals and `collisions` are counts (of rooms, of rooms, of touches); `median_seconds` is that
    of the rooms where the target was found, `median_seconds_of_all` counts the others as `time_limit` [s].
    `gave_up_absent` are the searches for absent targets that ended with "not here", after `median_seconds_gave_up`;
    `gave_up_present` are those that were wrong about it.
    None stands for what was not measured.
    """
    found = [trial.present for trial in trials if trial.present.found]
    absent = [trial.absent for trial in trials if trial.absent]
    episodes = [*(trial.present for trial in trials), *absent]
    seconds = [episode.seconds for episode in found]
    of_all = [trial.present.seconds if trial.present.found else time_limit for trial in trials]
    shares = [share for trial in trials if (share := path_share(trial)) is not None]
    false_present = sum(trial.present.arrived and not trial.present.found for trial in trials)
    false_absent = sum(episode.arrived for episode in absent) if absent else None
    gave_up = [episode.seconds for episode in absent if episode.gave_up]
    gave_up_present = sum(trial.present.gave_up for trial in trials)
    touched = sum(episode.collisions > 0 for episode in episodes)
    return {
        "rooms": len(trials),
        "found": len(found),
        "spl": statistics.fmean(shares) if shares else None,
        "median_seconds": statistics.median(seconds) if seconds else None,
        "false_arrivals_present": false_present,
        "false_arrivals_absent": false_absent,
        "collisions": sum(episode.collisions for episode in episodes),
        "gave_up_absent": len(gave_up) if absent else None,
        "median_seconds_gave_up": statistics.median(gave_up) if gave_up else None,
        "gave_up_present": gave_up_present,
        "median_seconds_of_all": statistics.median(of_all),
        "rooms_for_spl": len(shares),
        "absent_rooms": len(absent),
        "episodes_with_collisions": touched,
        "intervals": {
            "found": wilson(len(found), len(trials)),
            "spl": bootstrap(shares, statistics.fmean),
            "median_seconds": bootstrap(seconds, statistics.median),
            "false_arrivals_present": wilson(false_present, len(trials)),
            "false_arrivals_absent": wilson(false_absent, len(absent)) if false_absent is not None else None,
            "gave_up_absent": wilson(len(gave_up), len(absent)),
            "median_seconds_gave_up": bootstrap(gave_up, statistics.median),
            "gave_up_present": wilson(gave_up_present, len(trials)),
            "episodes_with_collisions": wilson(touched, len(episodes)),
        },
    }


def path_share(trial: Trial) -> float | None:
    """Return success weighted by path length, 0..1; None where the robot stands in reach of its target from the start.

    After Anderson et al., On Evaluation of Embodied Navigation Agents, 2018, https://arxiv.org/abs/1807.06757.
    """
    if trial.shortest <= 0.0:
        return None
    return trial.shortest / max(trial.shortest, trial.present.driven) if trial.present.found else 0.0


def wilson(count: int, total: int) -> Interval | None:
    """Return the 95 % interval of the share `count` / `total` (Wilson 1927), None for a total of 0."""
    if total == 0:
        return None
    z = 1.96
    share, scale = count / total, 1.0 + z * z / total
    middle = (share + z * z / (2 * total)) / scale
    half = z / scale * math.sqrt(share * (1.0 - share) / total + z * z / (4 * total * total))
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap(values: Sequence[float], statistic: Callable[[Sequence[float]], float]) -> Interval | None:
    """Return the 95 % interval of a `statistic` by 2,000 resamplings (percentiles; Efron 1979), None without values."""
    if not values:
        return None
    rng = np.random.default_rng(0)
    drawn = [statistic(rng.choice(values, len(values)).tolist()) for _ in range(2000)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def table(summaries: dict[str, dict[str, object]]) -> str:
    """Return the figures of controllers side by side, in Markdown."""
    rows = [
        ("target found", "found", "rooms", "{:.0%}"),
        ("SPL", "spl", "", "{:.2f}"),
        ("median time to the target", "median_seconds", "", "{:.1f} s"),
        ("false arrivals, target present", "false_arrivals_present", "rooms", "{:.1%}"),
        ("false arrivals, target absent", "false_arrivals_absent", "absent_rooms", "{:.1%}"),
        ('"not here", target absent', "gave_up_absent", "absent_rooms", "{:.0%}"),
        ('median time to that "not here"', "median_seconds_gave_up", "", "{:.1f} s"),
        ('"not here", target present', "gave_up_present", "rooms", "{:.1%}"),
        ("episodes with collisions", "episodes_with_collisions", "", "{:.1%}"),
        ("collisions", "collisions", "", "{:.0f}"),
    ]
    text = f"| | {' | '.join(summaries)} |\n|{' --- |' * (len(summaries) + 1)}\n"
    for words, key, total, form in rows:
        cells = [_cell(figures, key, total, form) for figures in summaries.values()]
        text += f"| {words} | {' | '.join(cells)} |\n"
    return text


def _cell(figures: dict, key: str, total: str, form: str) -> str:
    value, interval = figures[key], figures["intervals"].get(key)
    if value is None:
        return "-"
    words = f"{value} of {figures[total]}" if total else str(value) if isinstance(value, int) else form.format(value)
    return f"{words} ({' to '.join(form.format(end) for end in interval)})" if interval else words


def failures_in_words(trial: Trial, room: Room) -> list[str]:
    """Return what went wrong in `room`, with what the controller said last; nothing when nothing did."""
    failures = []
    for episode in filter(None, (trial.present, trial.absent)):
        is_present = episode is trial.present
        what = []
        if episode.arrived and not episode.found:
            what.append(f"false arrival after {episode.seconds:.0f} s at {_nearest(room, episode)}")
        elif is_present and episode.gave_up:
            what.append(f'"not here" after {episode.seconds:.0f} s')
        elif is_present and not episode.found:
            what.append(f"not found within {episode.seconds:.0f} s")
        if episode.collisions:
            what.append(f"{episode.collisions} collisions")
        if what:
            there = "" if is_present else " (absent)"
            last = "; ".join(f"{at:.0f} s {state}: {reason}" for at, state, reason in episode.states[-6:])
            failures.append(f"room {episode.seed}, {episode.target}{there}: {', '.join(what)}. Last: {last}")
    return failures


def _nearest(room: Room, episode: Episode) -> str:
    thing = min(room.things, key=lambda thing: thing.distance_to(*episode.path[-1]))
    away = "" if episode.distance is None else f", {episode.distance:.2f} m from the target"
    return f"the {thing.name} ({thing.distance_to(*episode.path[-1]):.2f} m){away}"


def in_words(trial: Trial) -> str:
    """Return what a controller did in a room."""
    present = trial.present
    if present.found:
        words = f"found it in {present.seconds:.1f} s on {present.driven:.1f} m"
    else:
        words = "stopped elsewhere" if present.arrived else "did not find it"
        words += f", gave up after {present.seconds:.1f} s" if present.gave_up else ""
    if trial.absent and trial.absent.arrived:
        words += ", found what is not there"
    if trial.absent and trial.absent.gave_up:
        words += f", said in {trial.absent.seconds:.1f} s what is not there"
    collisions = present.collisions + (trial.absent.collisions if trial.absent else 0)
    return words + (f", {collisions} collisions" if collisions else "")


def rounded(value: object) -> object:
    """Return `value`, a tree of dictionaries and lists, with numbers of four digits after the point."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    return value
