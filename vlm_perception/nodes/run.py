"""The one main() of all nodes: start, spin, and end cleanly however the end comes."""

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
"""Option numbers of glibc's malloc.h."""
KEPT = {M_MMAP_THRESHOLD: 32 << 20, M_TRIM_THRESHOLD: 64 << 20}
"""Blocks up to the first size [bytes] come from the heap, which keeps up to the second size when they are freed."""


def run(make_node: Callable[[], Node], args: Sequence[str] | None = None) -> int:
    """Run the node that `make_node()` returns until a signal comes, and return the exit code.

    0 after SIGINT or SIGTERM, 1 with one line of explanation when the node cannot start (it raised
    ValueError or OSError, as for wrong parameters). A node may have

    - `close()`: called after the spin while publishing still works, so that a last word is heard;
    - `finished`: an rclpy Future which the node completes with an exit code to end itself;
    - a parameter `autostart`: when true, a lifecycle node configures and activates itself.

    With --help or --version before --ros-args it is told what the node is, and nothing starts.
    """
    if words := _about(make_node, sys.argv[1:] if args is None else args):
        try:
            print(words, flush=True)
        except BrokenPipeError:  # `... | head` has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left in the buffer goes nowhere
        return 0
    keep_freed_memory()
    use_profile()
    # rclpy's signal handlers shut the context down, and then no zero twist can be sent any more; Python's default one
    # raises anywhere. So handlers that do nothing are set, and a thread reads the numbers that Python's C-level handler
    # writes to the wake-up pipe, whichever thread the system chose to interrupt: any number of signals is one request
    # to stop, and nothing is ever interrupted half-way.
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in STOP_SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores it on purpose
            signal.signal(number, lambda *_: None)
    try:
        rclpy.init(args=None if args is None else list(args), signal_handler_options=SignalHandlerOptions.NO)
    except UnicodeEncodeError as error:
        words = f"the argument {os.fsencode(error.object)!r} is not UTF-8: an address has such a letter as %E9"
        return _explain(ValueError(f"{words}, as in source:=file:///data/caf%E9.mp4"))
    except RuntimeError as error:  # wrong --ros-args, a parameter file that is missing or no YAML
        return _explain(error)
    code = _run(make_node, reader)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # what comes now must not kill what is ending well
    if any(thread.daemon and thread.name != SIGNALS for thread in threading.enumerate()):
        # One hangs in a library (a model that loads, a stream that opens): Python's own end could crash on it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _about(make_node: Callable[[], Node], args: Sequence[str]) -> str | None:
    """Return what --help or --version among `args` is to be answered with; else None."""
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
    """Have the C library keep the memory of an image for the next one, where that library is glibc.

    By itself it gives the megabytes of every message back to the system and takes them anew, page by page: in a node
    that does little else, that is most of what an image costs (see docs/performance.md).
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
            # Not spin_until_future_complete: in rclpy 7.1 each turn leaves a callback at the future, and a node grows
            # by a gigabyte a day (https://github.com/ros2/rclpy/issues/1371). A task, as work, ends the last turn.
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
            raise  # a mistake in the running node, not in what it was given
        return _explain(error)
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()


def _explain(error: Exception) -> int:
    rclpy.logging.get_logger("start").fatal(one_line(without_secrets(str(error))))
    return 1


def autostart(node: Node) -> None:
    """Configure and activate a lifecycle `node` whose parameter `autostart` is true; else do nothing."""
    if not isinstance(node, LifecycleNode) or not node.has_parameter("autostart"):
        return
    if node.get_parameter("autostart").value and node.trigger_configure() == TransitionCallbackReturn.SUCCESS:
        node.trigger_activate()


def _wait_for_signals(reader: int, finished: Future) -> None:
    while os.read(reader, 1)[0] not in STOP_SIGNALS:
        pass
    if not finished.done():
        finished.set_result(0)
