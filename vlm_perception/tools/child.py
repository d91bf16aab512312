"""A function in a process of its own, which cannot block or crash this one, or print in its place."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

START = "from vlm_perception.tools.child import run; run()"
NOISE = 2000
"""Number of the last printed characters that are kept."""


class ChildError(RuntimeError):
    """The function did not end normally; the message says how it ended."""


class Child:
    """A process that runs `function(send, *arguments)`, found by its name in its module; `messages` are what it sends.

    It ends with this context at the latest. `noise` keeps what it prints. (multiprocessing would run the main script of
    this process again, which fails for scripts without a guard.)
    """

    def __init__(self, function: Callable[..., None], *arguments: Any) -> None:
        self._receiver, sender = Pipe(duplex=False)
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._process = subprocess.Popen(
            [sys.executable, "-c", START, str(sender.fileno())],
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            pass_fds=(sender.fileno(),),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # Ctrl-C goes to this process, which then ends the child
        )
        sender.close()
        assert self._process.stdin
        try:
            pickle.dump((function, arguments), self._process.stdin)
            self._process.stdin.close()
        except BrokenPipeError:  # it has ended; `messages` reports that
            pass

    def messages(self, seconds: float | None = None) -> Iterator[Any]:
        """Yield the messages as they come. Raises ChildError if the function fails or does not end in `seconds`."""
        end = None if seconds is None else time.monotonic() + seconds
        while self._receiver.poll(None if end is None else max(0.0, end - time.monotonic())):
            try:
                message = self._receiver.recv()
            except EOFError:
                if code := self._process.wait():
                    raise ChildError(self._how_it_ended(code)) from None
                return
            if isinstance(message, ChildError):
                raise message
            yield message
        raise ChildError("it has not ended in time")

    def _how_it_ended(self, code: int) -> str:
        if code == -signal.SIGKILL:
            return "it was killed, as the system does when memory runs out"
        how = f"it crashed ({signal.Signals(-code).name})" if code < 0 else f"it ended with exit status {code}"
        last = self.noise().splitlines()[-1:]
        return f"{how}: {last[0]}" if last else how

    def noise(self) -> str:
        """Return the end of what it has printed until now."""
        size = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), NOISE, max(0, size - NOISE)).decode(errors="replace").strip()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        self._receiver.close()
        self._output.close()


def run() -> None:
    """Run the function that stdin names in this process; send to the descriptor in the last argument."""
    sender = Connection(int(sys.argv[-1]), readable=False)
    try:
        function, arguments = pickle.load(sys.stdin.buffer)
        function(sender.send, *arguments)
    except Exception as error:  # for any error: the parent reports it in one line
        sender.send(ChildError(" ".join(str(error).split()) or type(error).__name__))
