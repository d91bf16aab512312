"""Use of the GPU and power during a run, from sources that need no special rights."""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

PERIOD_MS = 200
RAPL = Path("/sys/class/powercap")
_BOARD = re.compile(r"\b(?:VDD_IN|POM_5V_IN|VIN_SYS_5V0) (\d+)(?:mW)?/")
_BOARD_GPU = re.compile(r"\bGR3D_FREQ (\d+)%")


@dataclass(frozen=True)
class Draw:
    """Means over the measured time, None if unknown: use of the GPU (0 to 1), watts of GPU, processor and board."""

    gpu_use: float | None = None
    gpu_watts: float | None = None
    cpu_watts: float | None = None
    board_watts: float | None = None


class PowerMeter:
    """A context that measures power while it lasts; afterwards `draw` has the means.

    Its sources are nvidia-smi (for the GPU of this `index`), tegrastats of a Jetson, and the energy counters of x86
    processors (RAPL).
    """

    def __init__(self, index: int = 0) -> None:
        query = ["--query-gpu=utilization.gpu,power.draw", "--format=csv,noheader,nounits", f"--id={index}"]
        self._nvidia = _Listener(["nvidia-smi", *query, f"--loop-ms={PERIOD_MS}"])
        self._jetson = _Listener(["tegrastats", "--interval", str(PERIOD_MS)])
        self._start: tuple[float, dict[Path, int]] = (0.0, {})
        self.draw = Draw()

    def __enter__(self) -> PowerMeter:
        self._nvidia.start()
        self._jetson.start()
        self._start = (time.monotonic(), _energy())
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        seconds, energy = time.monotonic() - self._start[0], _energy()
        spent = [_since(zone, self._start[1][zone], now) for zone, now in energy.items() if zone in self._start[1]]
        nvidia = [[_number(cell) for cell in line.split(",")] for line in self._nvidia.stop()]
        jetson = self._jetson.stop()
        use = _mean([cells[0] for cells in nvidia] + [_found(_BOARD_GPU, line) for line in jetson])
        board = _mean([_found(_BOARD, line) for line in jetson])
        self.draw = Draw(
            gpu_use=None if use is None else use / 100,
            gpu_watts=_mean([cells[1] for cells in nvidia if len(cells) > 1]),
            cpu_watts=sum(spent) * 1e-6 / seconds if spent and seconds > 0 else None,
            board_watts=None if board is None else board / 1000,
        )


class _Listener:
    """The lines that a command prints until it is stopped; none without that command."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._process: subprocess.Popen[str] | None = None
        self._lines: list[str] = []

    def start(self) -> None:
        if shutil.which(self._command[0]):
            self._process = subprocess.Popen(
                self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace"
            )
            self._thread = threading.Thread(target=self._read, args=(self._process,), daemon=True)
            self._thread.start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout
        self._lines.extend(iter(process.stdout.readline, ""))

    def stop(self) -> list[str]:
        if self._process:
            self._process.kill()
            self._thread.join()
            self._process.wait()
        return self._lines


def _energy() -> dict[Path, int]:
    """Return the readable counters of all processor packages [microjoules]."""
    counters = {}
    for zone in RAPL.glob("intel-rapl:*"):
        if zone.name.count(":") == 1:  # the others are parts of these
            try:
                counters[zone] = int((zone / "energy_uj").read_text())
            except (OSError, ValueError):
                continue
    return counters


def _since(zone: Path, before: int, now: int) -> int:
    """Return how far the counter has advanced; it restarts at a limit."""
    return now - before if now >= before else now - before + int((zone / "max_energy_range_uj").read_text())


def _found(pattern: re.Pattern[str], line: str) -> float | None:
    found = pattern.search(line)
    return float(found[1]) if found else None


def _number(cell: str) -> float | None:
    """Return the number, or None for [N/A]."""
    try:
        return float(cell)
    except ValueError:
        return None


def _mean(values: list[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return statistics.fmean(numbers) if numbers else None
