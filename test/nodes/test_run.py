"""A node ends cleanly however it is told to, and has its last word."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from paths import ROOT

pytest.importorskip("rclpy")

from std_msgs.msg import String

import vlm_perception
from vlm_perception.nodes.profile import use_profile
from vlm_perception.parameters import declared

NODE = """
import sys
from rclpy.node import Node
from std_msgs.msg import String
from vlm_perception.nodes.run import run

class Talker(Node):
    def __init__(self):
        super().__init__("talker")
        self.publisher = self.create_publisher(String, "words", 10)
        self.create_timer(0.02, lambda: self.publisher.publish(String(data="hello")))
        if "wrong" in sys.argv:
            raise ValueError("parameter rate is 99,\\n expected at most 30")
        if "profile" in sys.argv:
            import os
            raise ValueError(os.environ.get("FASTRTPS_DEFAULT_PROFILES_FILE"))
        if "hang" in sys.argv:
            import threading, time
            threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
        if "long" in sys.argv:
            import gc
            from rclpy.task import Future
            self.finished = Future()
            self.counts = []
            def count():
                gc.collect()
                self.counts.append(len(gc.get_objects()))
                if len(self.counts) == 2:
                    self.finished.set_result(int(self.counts[1] - self.counts[0] > 100))
            self.create_timer(0.0005, lambda: None)
            self.create_timer(1.0, count)
        if "short" in sys.argv:
            from rclpy.task import Future
            self.finished = Future()
            self.create_timer(0.2, lambda: self.finished.set_result(3))

    def close(self):
        self.publisher.publish(String(data="goodbye"))
        self.publisher.wait_for_all_acked()

sys.exit(run(Talker))
"""


@pytest.fixture
def start():
    """Start the node with arguments; none of them outlives the test."""
    processes = []

    def start(*arguments):
        process = subprocess.Popen([sys.executable, "-c", NODE, *arguments], stderr=subprocess.PIPE, text=True)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    "signals", [[signal.SIGINT], [signal.SIGINT, signal.SIGINT, signal.SIGINT], [signal.SIGTERM], [signal.SIGHUP]]
)
def test_signals_end_it_with_a_last_word_and_exit_code_0(ros, start, signals):
    words = ros.collect(String, "words")
    process = start()
    ros.until(lambda: words, "word of the node")
    for each in signals:
        process.send_signal(each)
        time.sleep(0.01)
    _, errors = process.communicate(timeout=20)
    ros.until(lambda: words[-1].data == "goodbye", "last word")
    assert process.returncode == 0
    assert "Traceback" not in errors


def test_what_it_cannot_start_with_is_one_line_and_exit_code_1(start):
    process = start("wrong")
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert len(errors.strip().splitlines()) == 1 and "rate is 99, expected at most 30" in errors


@pytest.mark.parametrize(
    "arguments", [["--params-file", "/no/such/file.yaml"], ["--nonsense"]], ids=["missing file", "unknown flag"]
)
def test_wrong_ros_arguments_are_named_with_exit_code_1(start, arguments):
    process = start("--ros-args", *arguments)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert arguments[-1] in errors and "Traceback" not in errors


def test_a_thread_that_hangs_does_not_spoil_the_end(ros, start):
    words = ros.collect(String, "words")
    process = start("hang")
    ros.until(lambda: words, "word of the node")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0 and errors == ""


def test_a_node_that_runs_for_long_does_not_grow(start):
    assert start("long").wait(20) == 0, "objects pile up from turn to turn"


def test_a_node_may_end_itself(start):
    process = start("short")
    process.communicate(timeout=20)
    assert process.returncode == 3


def test_a_bare_node_finds_the_profile_and_leaves_that_of_the_user(start, monkeypatch, tmp_path):
    monkeypatch.delenv("FASTRTPS_DEFAULT_PROFILES_FILE", raising=False)
    _, errors = start("profile").communicate(timeout=20)
    file = Path(errors.split()[-1])
    assert file.is_absolute() and file.read_bytes() == (ROOT / "config" / "fastdds.xml").read_bytes()
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", "/my/own.xml")
    _, errors = start("profile").communicate(timeout=20)
    assert errors.split()[-1] == "/my/own.xml"
    monkeypatch.delenv("FASTRTPS_DEFAULT_PROFILES_FILE")
    monkeypatch.chdir(tmp_path)
    Path("DEFAULT_FASTRTPS_PROFILES.xml").touch()
    use_profile()
    assert "FASTRTPS_DEFAULT_PROFILES_FILE" not in os.environ


@pytest.mark.parametrize("name", ["camera", "classifier", "navigator", "simulator"])
def test_every_node_explains_itself_and_ends(name, capsys, monkeypatch):
    module = importlib.import_module(f"vlm_perception.nodes.{name}")
    monkeypatch.setattr(sys, "argv", [f"/lib/{name}", "--help", "--ros-args", "-p", "seed:=no"])
    assert module.main() == 0
    words = capsys.readouterr().out
    assert words.startswith(f"usage: {name} ") and "--ros-args" in words
    for name_, one in declared(module.Parameters).items():
        assert f"\n  {name_} (" in words and one.field.metadata["description"] in words
    monkeypatch.setattr(sys, "argv", [name, "--version"])
    assert module.main() == 0
    assert capsys.readouterr().out == f"vlm_perception {vlm_perception.__version__}\n"


def test_who_reads_no_further_ends_the_help_of_a_node_without_a_traceback():
    code = "import sys; from vlm_perception.nodes.camera import main; sys.argv = ['camera', '--help']; sys.exit(main())"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()  # as `| head -0` does
    errors = process.stderr.read().decode()
    assert (process.wait(), errors) == (0, "")
    process.stderr.close()
