"""Clocks of the benchmarks: sides that take turns, and the CPU time within methods."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np


def race(rounds: int, sides: Mapping[str, Callable[[], Any]], warm_up: int = 1) -> dict[str, np.ndarray]:
    """Return the seconds of every side in every round.

    The sides take turns, so that other work of the machine slows all of them. The first `warm_up` rounds do not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(warm_up + rounds):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            if number >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in seconds.items()}


@contextmanager
def stopwatch(*parts: tuple[Any, str]) -> Iterator[list[float]]:
    """Add up the CPU seconds of this thread within methods, given as (owner, name). None of them may call another."""
    spent = [0.0]

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **more: Any) -> Any:
            start = time.thread_time()
            try:
                return call(*arguments, **more)
            finally:
                spent[0] += time.thread_time() - start

        return wrapper

    for owner, name in parts:
        vars(owner)[name] = timed(getattr(owner, name))
    try:
        yield spent
    finally:
        for owner, name in parts:
            del vars(owner)[name]
