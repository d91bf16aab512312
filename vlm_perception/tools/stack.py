"""The package's nodes as processes, started and ended as a launch file does."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from ament_index_python.packages import get_package_prefix

NODES = ("simulator", "classifier", "navigator")
STOP_SECONDS = 5.0


class Stack:
    """The nodes of the demo as processes, each with a log in `logs`.

    `parameters` are by node and name. `commands` are those of additional nodes, or of nodes that replace others. The
    ROS domain is `domain`, else that of the environment.
    """

    def __init__(
        self,
        logs: Path,
        parameters: Mapping[str, Mapping[str, object]],
        commands: Mapping[str, Sequence[str]] | None = None,
        domain: int | None = None,
    ):
        executables = Path(get_package_prefix("vlm_perception"), "lib", "vlm_perception")
        self._logs = logs
        self._parameters = parameters
        self._commands = {**{node: [str(executables / node)] for node in NODES}, **(commands or {})}
        self._environment = {**os.environ, **({} if domain is None else {"ROS_DOMAIN_ID": str(domain)})}
        self._processes: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> Stack:
        self._logs.mkdir(parents=True, exist_ok=True)
        for node, start in self._commands.items():
            command = [*start, "--ros-args"]
            for name, value in self._parameters.get(node, {}).items():
                command += ["-p", f"{name}:={value}"]
            try:
                with open(self._logs / f"{node}.log", "wb") as log:
                    # A process group of its own: Ctrl-C reaches only this process, which ends the nodes in order.
                    self._processes[node] = subprocess.Popen(
                        command,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        stdin=subprocess.DEVNULL,
                        env=self._environment,
                        start_new_session=True,
                    )
            except BaseException as error:
                self.__exit__(type(error), error, error.__traceback__)
                raise
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in reversed(self._processes.values()):
            process.send_signal(signal.SIGINT)
        end = time.monotonic() + STOP_SECONDS
        for process in self._processes.values():
            try:
                process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def kill(self, node: str) -> None:
        """Kill `node` at once, as a crash does."""
        self._processes[node].kill()
        self._processes[node].wait()

    def check(self) -> None:
        """Raise RuntimeError, with the end of the log, if a node has died."""
        for node, process in self._processes.items():
            if process.poll() is not None:
                log = self._logs / f"{node}.log"
                last = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
                raise RuntimeError(
                    f"the {node} ended with exit status {process.returncode}; its log {log} ends with:\n{last}"
                )
