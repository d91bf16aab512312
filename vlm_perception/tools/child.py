"""A function in a process of its own: what it does cannot hang, crash or print in ours."""

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
"""Characters that are kept from the end of what it printed."""


class ChildError(RuntimeError):
    """The function has not ended as it should; the message says how."""


class Child:
    """Runs `function(send, *arguments)`, which is found by its name in its module; `messages` are what it sends.

    It ends with this context at the latest. What it prints goes to nobody but `noise`. (multiprocessing would run the
    main script of this process once more, which scripts without a guard do not survive.)
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
            start_new_session=True,  # Ctrl-C is ours, and then we end it
        )
        sender.close()
        assert self._process.stdin
        try:
            pickle.dump((function, arguments), self._process.stdin)
            self._process.stdin.close()
        except BrokenPipeError:  # then it has ended, which `messages` says
            pass

    def messages(self, seconds: float | None = None) -> Iterator[Any]:
        """What is sent, as it comes. Raises ChildError when the function raised, or has not ended after `seconds`."""
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
        """The end of what it has printed until now."""
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
    """The other process: run what stdin says, send to the descriptor that the last argument names."""
    sender = Connection(int(sys.argv[-1]), readable=False)
    try:
        function, arguments = pickle.load(sys.stdin.buffer)
        function(sender.send, *arguments)
    except Exception as error:  # whatever it is, the parent says it in one line
        sender.send(ChildError(" ".join(str(error).split()) or type(error).__name__))
