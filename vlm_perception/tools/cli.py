"""`vlm_perception <command>`: one module of this package per command, imported when it is asked for.

Such a module has a docstring, whose first line is the command's help, `add_arguments(parser)` and
`main(arguments) -> int`, the exit status.
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
"""The exit status after Ctrl-C, and when nobody reads the output any more, as shells have them."""

COMMANDS = {
    "look": "label every frame of a video, a folder or an image, without ROS: annotated video, contact sheet, table",
    "demo": "watch the robot find a thing by its name in a simulated room",
    "evaluate": "search in many rooms, compared with a baseline controller: figures, a table, images of the paths",
    "train": "train the nano model",
    "figures": "measure the nano model on rooms it has never seen",
    "calibrate": "measure how far the nano model's probabilities can be trusted, and fit its calibration",
    "parameters": "print the tables of all parameters, or write the generated files",
    "export": "export a model's vision tower to ONNX, float32 or INT8, compared with the original",
    "minigpt4": "assemble MiniGPT-4 from its published pieces into one model folder",
    "benchmark": "measure answers and time of models, compared with the usual way: tables, a chart",
    "doctor": "say what is wrong, and what to do about it: ROS, camera, libraries, GPU, model, memory",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (default: the process's) name and return its exit status.

    An executable that is called as a command is that command: `ros2 run vlm_perception doctor`.
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
    except BrokenPipeError:  # `... | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left in the buffer goes nowhere
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
        # Only the command that is asked for is imported: `--help` must not wait for torch.
        if name in arguments[:1]:
            module = importlib.import_module(f"vlm_perception.tools.{name}")
            module.add_arguments(command)
            command.set_defaults(run=module.main)
    parsed = parser.parse_args(arguments)
    return int(parsed.run(parsed))
