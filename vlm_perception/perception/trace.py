"""The time that each stage of an image takes: percentiles, and a trace that Perfetto opens. No ROS.

An image goes through these stages: it waits for the model (`wait`) and is decoded (`decode`); the model encodes it
(`encode`) and answers (`answer`, for free words `describe`); the answer is published (`publish`). `age` is the image's
age by its stamp when it is taken up; `whole` is the time from its arrival until an answer is published.

A trace is a file of Chrome's trace events in JSON, for https://ui.perfetto.dev or chrome://tracing. The format is
https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from vlm_perception.questions import Answer

STAGES = ("age", "wait", "decode", "encode", "answer", "describe", "publish", "whole")
WINDOW = 300
"""Number of images that the percentiles cover."""
PERCENTILES = (50, 95, 99)
START = '[\n{"name": '
"""Beginning of a trace file."""
AT_ONCE = 64
"""Number of events that are written together: each write lets other threads run."""


class Trace:
    """Writes a trace to the file `path`, from any thread; times are in seconds of `time.monotonic`.

    The file may be new, empty or an old trace. Raises OSError when it cannot be opened, or is a link, a pipe or another
    file. When a later write fails, for example on a full disk, the trace ends and `problem` says why. Perfetto also
    reads a trace without its last events and its `]`.
    """

    def __init__(self, path: Path) -> None:
        self.problem: str | None = None
        self._path = path.expanduser()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = _open(self._path)
        self._lock = threading.Lock()
        self._rows: dict[str, int] = {}
        self._events: list[str] = []
        self._separator = "[\n"

    def span(self, row: str, name: str, start: float, end: float, **facts: Any) -> None:
        """Write that `name` lasted from `start` to `end` [s], with `facts` that a click on it shows."""
        self._write(row, {"name": name, "ph": "X", "ts": start * 1e6, "dur": (end - start) * 1e6, "args": facts})

    def moment(self, row: str, name: str, at: float, **facts: Any) -> None:
        """Write that `name` happened `at` [s]."""
        self._write(row, {"name": name, "ph": "i", "s": "t", "ts": at * 1e6, "args": facts})

    def close(self) -> None:
        """End the file; later events are dropped."""
        with self._lock, self._ending_on_error():
            if not self._file.closed:
                self._flush()
                self._file.write("\n]\n" if self._rows else "[]\n")
                self._file.close()

    @contextmanager
    def _ending_on_error(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.problem = f"the trace {str(self._path)!r} has ended, it could not be written: {error}"
            with suppress(OSError):  # its buffer may be written again
                self._file.close()

    def _write(self, row: str, event: dict[str, Any]) -> None:
        with self._lock, self._ending_on_error():
            if self._file.closed:
                return
            if row not in self._rows:
                self._rows[row] = len(self._rows) + 1
                self._put(row, {"name": "thread_name", "ph": "M", "args": {"name": row}})
            self._put(row, event)

    def _put(self, row: str, event: dict[str, Any]) -> None:
        self._events.append(json.dumps({**event, "pid": os.getpid(), "tid": self._rows[row]}))
        if len(self._events) >= AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        if self._events:
            self._file.write(self._separator + ",\n".join(self._events))
            self._file.flush()
            self._separator = ",\n"
            self._events.clear()


def _open(path: Path) -> TextIO:
    """Open a regular file for a trace; do not follow a link or wait for a pipe. Raises OSError."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError("it is a symbolic link") from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError("it is no regular file")
        start = os.read(file, len(START))
        if start and start not in (START.encode(), b"[]\n"):
            raise OSError("there is a file that is no trace: remove it, or choose another name")
        os.ftruncate(file, 0)
        os.lseek(file, 0, os.SEEK_SET)
        return open(file, "w", encoding="utf-8")
    except OSError:
        os.close(file)
        raise


class Spans:
    """The last times [s] of one `camera`'s stages, which are also written to the `trace` if there is one.

    Times are those of `time.monotonic`; `stamp` [ns] identifies the image. One thread adds, any thread may read.
    """

    def __init__(self, camera: str, trace: Trace | None = None) -> None:
        self._camera = camera
        self._trace = trace
        self._last: dict[str, deque[float]] = {stage: deque(maxlen=WINDOW) for stage in STAGES}
        self._told = -math.inf
        """Time [s] at which the last answer was published."""

    def received(self, stamp: int, at: float) -> None:
        """Note that an image arrived. Any thread may call this."""
        if self._trace:
            self._trace.moment(f"{self._camera} received", "received", at, stamp=stamp)

    def taken(self, stamp: int, age: float, received: float, taken: float, decoded: float) -> None:
        """Note that an image was taken up and decoded; it was `age` [s] old then."""
        self._last["age"].append(age)
        self._add(f"{self._camera} received", "wait", received, taken, stamp)
        self._add(self._camera, "decode", taken, decoded, stamp)

    def answered(self, stamp: int, answer: Answer, asked: float, answered: float) -> None:
        """Note when the model was `asked` and when it had `answered`; `answer` is its last one."""
        stage, encoded = "answer" if answer.options else "describe", asked
        if usage := answer.usage:
            asked = max(asked, answered - usage.seconds)
            encoded = min(asked + usage.encoding, answered)
        if asked < self._told:
            return  # it came together with an answer that is already noted
        if encoded > asked:
            self._add(self._camera, "encode", asked, encoded, stamp)
        self._add(self._camera, stage, encoded, answered, stamp)

    def told(self, stamp: int, received: float, answered: float, published: float) -> None:
        """Note when the answer about the image was `published`."""
        self._add(self._camera, "publish", answered, published, stamp)
        self._last["whole"].append(published - received)
        self._told = published

    def metrics(self) -> dict[str, object]:
        """Return the percentiles of each stage in milliseconds, as words, for diagnostics."""
        return {
            f"time, {stage}, p50 p95 p99 [ms]": " ".join(f"{1e3 * value:.1f}" for value in percentiles(list(values)))
            for stage, values in self._last.items()
            if values
        }

    def _add(self, row: str, stage: str, start: float, end: float, stamp: int) -> None:
        self._last[stage].append(end - start)
        if self._trace:
            self._trace.span(row, stage, start, end, stamp=stamp)


def percentiles(values: list[float]) -> list[float]:
    """Return the 50th, 95th and 99th percentile of `values`, at least one; each percentile is one of the values."""
    ordered = sorted(values)
    return [ordered[math.ceil(len(ordered) * percent / 100) - 1] for percent in PERCENTILES]
