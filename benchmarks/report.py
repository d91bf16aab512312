"""The report of a benchmark in Markdown, printed line by line."""

from __future__ import annotations

import numpy as np


class Report:
    """Lines of Markdown, each printed when it is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str = "") -> None:
        self.lines.append(line)
        print(line, flush=True)

    def row(self, what: str, one: np.ndarray, other: np.ndarray, aim: str = "", note: str = "") -> float:
        """Say the medians [ms] of both sides and the median ratio of `one` to `other`; return that ratio."""
        ratio = float(np.median(one / other))
        self.say(
            f"| {what} | {np.median(one) * 1e3:.0f} | {np.median(other) * 1e3:.0f} | {ratio:.2f} | {aim} | {note} |"
        )
        return round(ratio, 3)

    def table(self, what: str, seconds: dict[str, np.ndarray], more: dict[str, str]) -> dict[str, float]:
        """Say the median [ms] of each side and how many times as fast as the first it is; return these ratios."""
        first = next(iter(seconds.values()))
        ratios = {name: float(np.median(first / values)) for name, values in seconds.items()}
        self.say(f"\n| {what} | [ms] | times as fast | |\n| --- | --- | --- | --- |")
        for name, values in seconds.items():
            self.say(f"| {name} | {np.median(values) * 1e3:.1f} | {ratios[name]:.2f} | {more.get(name, '')} |")
        return {name: round(ratio, 3) for name, ratio in ratios.items()}
