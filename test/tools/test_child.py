"""What a function does in a process of its own, its parent hears, however that ends."""

from __future__ import annotations

import os
import signal
import time

import pytest

from vlm_perception.tools.child import Child, ChildError


def counts(send, last):
    print("this is heard by nobody")
    for number in range(last):
        send(number)


def raises(send):
    send("before")
    raise ValueError("of this\nkind")


def crashes(send):
    print("the last words", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)


def is_killed(send):
    os.kill(os.getpid(), signal.SIGKILL)


def exits(send):
    os._exit(3)


def hangs(send):
    send(os.getpid())
    time.sleep(1000)


def test_what_is_sent_comes_and_what_is_printed_does_not(capfd):
    with Child(counts, 3) as child:
        assert list(child.messages(60)) == [0, 1, 2]
        assert child.noise() == "this is heard by nobody"
    assert capfd.readouterr().out == ""


def test_what_came_before_an_error_is_kept():
    heard = []
    with Child(raises) as child, pytest.raises(ChildError, match="^of this kind$"):
        heard.extend(child.messages(60))
    assert heard == ["before"]


@pytest.mark.parametrize(
    ("function", "words"),
    [(crashes, "crashed.*SIGSEGV.*the last words"), (is_killed, "killed.*memory"), (exits, "exit status 3")],
)
def test_its_end_is_told(function, words):
    with Child(function) as child, pytest.raises(ChildError, match=words):
        list(child.messages(60))


def test_one_that_hangs_is_given_up_and_ended():
    with Child(hangs) as child:
        messages = child.messages(60)
        process = next(messages)
        with pytest.raises(ChildError, match="not ended in time"):
            list(child.messages(0.1))
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
