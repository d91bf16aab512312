"""The program `vlm_perception <command>`. Each command is a module of this package, imported on demand.

Such a module has `add_arguments(parser)`, `main(arguments) -> int`, which returns the exit status, and a docstring
whose first line is the help of the command.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from vlm_perception.packages import needs

INTERRUPTED, NOBODY_READS = 130, 141
"""Exit status after Ctrl-C, and after the reader of the output has ended, by the convention of shells."""

COMMANDS = {
    "look": "label every frame of a video, a folder or an image, without ROS: annotated video, contact sheet, table",
    "demo": "watch the robot find an object by its name in a simulated room",
    "evaluate": "search in many rooms, compared with a baseline controller: figures, a table, images of the paths",
    "train": "train the nano model",
    "figures": "measure the nano model in rooms that it was not trained on",
    "calibrate": "measure the quality of the nano model's probabilities, and fit its calibration",
    "parameters": "print the tables of all parameters, or write the generated files",
    "export": "export a model's vision tower to ONNX, float32 or INT8, compared with the original",
    "minigpt4": "assemble MiniGPT-4 from its published pieces into one model folder",
    "benchmark": "measure answers and time of models, compared with the stock generate: tables, a chart",
    "doctor": "say what is wrong, and what to do about it: ROS, camera, libraries, GPU, model, memory",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (default: those of the process) name; return its exit status.

    An executable with the name of a command runs that command: `ros2 run vlm_perception doctor`.
    """
    if arguments is None:
        name = Path(sys.argv[0]).name
        arguments = [*([name] if name in COMMANDS else []), *sys.argv[1:]]
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # `... | head` has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # drop the rest of the buffer
        return NOBODY_READS


def _run(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="vlm_perception", description="Commands around the ROS 2 nodes.")
    try:
        return _run_command(parser, arguments)
    except ModuleNotFoundError as error:
        if not error.name or error.name.startswith("vlm_perception"):
            raise
        print(f"vlm_perception {arguments[0]}: the command {needs(error.name)}", file=sys.stderr)
        return 1


def _run_command(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name, words in COMMANDS.items():
        command = commands.add_parser(name, help=words, description=words)
        # Import only the requested command: `--help` must not wait for torch.
        if name in arguments[:1]:
            module = importlib.import_module(f"vlm_perception.tools.{name}")
            module.add_arguments(command)
            command.set_defaults(run=module.main)
    parsed = parser.parse_args(arguments)
    return int(parsed.run(parsed))
