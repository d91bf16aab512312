"""The main() of all nodes: start, spin, and end cleanly for every kind of end."""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

from vlm_perception import __version__
from vlm_perception.address import without_secrets
from vlm_perception.nodes.profile import use_profile
from vlm_perception.parameters import listed
from vlm_perception.text import one_line

STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
SIGNALS = "signals"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Numbers of options in glibc's malloc.h."""
KEPT = {M_MMAP_THRESHOLD: 32 << 20, M_TRIM_THRESHOLD: 64 << 20}
"""Largest block that comes from the heap, and size that the heap keeps of freed blocks [bytes]."""


def run(make_node: Callable[[], Node], args: Sequence[str] | None = None) -> int:
    """Run the node that `make_node()` returns until a signal comes, and return the exit code.

    The exit code is 0 after SIGINT or SIGTERM. It is 1, with one line of explanation, if the node cannot start because
    it raised ValueError or OSError, such as for wrong parameters. A node may have

    - `close()`, which is called after the spin while publishing still works, for last messages;
    - `finished`, an rclpy Future that the node completes with an exit code to end itself;
    - a parameter `autostart`: if true, a lifecycle node configures and activates itself.

    With --help or --version before --ros-args, print what the node is and start nothing.
    """
    if words := _about(make_node, sys.argv[1:] if args is None else args):
        try:
            print(words, flush=True)
        except BrokenPipeError:  # `... | head` has ended
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # drop the rest of the buffer
        return 0
    keep_freed_memory()
    use_profile()
    # rclpy's signal handlers shut the context down, after which no zero twist can be sent. Python's default handler
    # raises an exception at any point. So the handlers here do nothing, and a thread reads the signal numbers that
    # Python's C-level handler writes to the wake-up pipe. Several signals are one request to stop, and no code is
    # interrupted.
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in STOP_SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores it
            signal.signal(number, lambda *_: None)
    try:
        rclpy.init(args=None if args is None else list(args), signal_handler_options=SignalHandlerOptions.NO)
    except UnicodeEncodeError as error:
        words = f"the argument {os.fsencode(error.object)!r} is not UTF-8: an address has such a letter as %E9"
        return _explain(ValueError(f"{words}, as in source:=file:///data/caf%E9.mp4"))
    except RuntimeError as error:  # wrong --ros-args, or a parameters file that is missing or no YAML
        return _explain(error)
    code = _run(make_node, reader)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # a further signal must not interrupt the end
    if any(thread.daemon and thread.name != SIGNALS for thread in threading.enumerate()):
        # A thread hangs in a library (a model that loads, a stream that opens): Python's normal exit could crash.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _about(make_node: Callable[[], Node], args: Sequence[str]) -> str | None:
    """Return the text for --help or --version among `args`; None without them."""
    own = list(itertools.takewhile(lambda argument: argument != "--ros-args", args))
    if "--version" in own:
        return f"vlm_perception {__version__}"
    if not {"-h", "--help"} & {*own}:
        return None
    module, name = sys.modules[make_node.__module__], os.path.basename(sys.argv[0])
    parameters = getattr(module, "Parameters", None)
    return (
        f"usage: {name} [--help] [--version] [--ros-args [-p NAME:=VALUE] [-r FROM:=TO] [--params-file FILE]]\n\n"
        f"{(module.__doc__ or '').strip()}\n" + (f"\nParameters:\n{listed(parameters)}" if parameters else "")
    )


def keep_freed_memory() -> None:
    """Make the C library keep the memory of an image for the next one, if it is glibc.

    By default glibc returns the memory of every message to the system and requests it again, page by page. In a node
    that does little else, this takes most of the time of an image (see docs/performance.md).
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        for option, size in KEPT.items():
            mallopt(option, size)


def _run(make_node: Callable[[], Node], signals: int) -> int:
    node = None
    try:
        node = make_node()
        finished: Future = getattr(node, "finished", None) or Future()
        threading.Thread(target=_wait_for_signals, args=(signals, finished), name=SIGNALS, daemon=True).start()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        try:
            autostart(node)
            # Not spin_until_future_complete: in rclpy 7.1 each spin adds a callback to the future, and a node grows by
            # a gigabyte per day (https://github.com/ros2/rclpy/issues/1371). A task wakes the last spin.
            finished.add_done_callback(lambda _: executor.create_task(lambda: None))
            while rclpy.ok() and not finished.done():
                executor.spin_once()
        except ExternalShutdownException:
            pass
        finally:
            if hasattr(node, "close"):
                node.close()
            executor.remove_node(node)
        return int(finished.result() or 0) if finished.done() else 0
    except (ValueError, OSError) as error:
        if node is not None:
            raise  # an error of the running node, not of its parameters
        return _explain(error)
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()


def _explain(error: Exception) -> int:
    rclpy.logging.get_logger("start").fatal(one_line(without_secrets(str(error))))
    return 1


def autostart(node: Node) -> None:
    """Configure and activate a lifecycle `node` if its parameter `autostart` is true."""
    if not isinstance(node, LifecycleNode) or not node.has_parameter("autostart"):
        return
    if node.get_parameter("autostart").value and node.trigger_configure() == TransitionCallbackReturn.SUCCESS:
        node.trigger_activate()


def _wait_for_signals(reader: int, finished: Future) -> None:
    while os.read(reader, 1)[0] not in STOP_SIGNALS:
        pass
    if not finished.done():
        finished.set_result(0)
