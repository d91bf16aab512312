"""Where the time of each image goes: a trace that a viewer can read, and percentiles that are right."""

import itertools
import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from perception_settings import settings

from vlm_perception.perception.camera import Camera
from vlm_perception.perception.outputs import Description, Failed, Fault, Label
from vlm_perception.perception.trace import AT_ONCE, WINDOW, Spans, Trace, percentiles
from vlm_perception.perception.worker import Worker
from vlm_perception.questions import Answer, Choice, Text, Usage, YesNo

LABEL = Choice("what is ahead?", ("clear", "wall"))
STAMP = 1_000_000_000


def rows_of(events):
    """The spans of each row of the trace, by its name."""
    names = {event["tid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    rows = {name: [] for name in names.values()}
    for event in events:
        if event["ph"] == "X":
            rows[names[event["tid"]]].append(event)
    return rows


def test_a_trace_is_json_with_named_rows_of_spans_and_moments(tmp_path):
    trace = Trace(tmp_path / "new" / "trace.json")
    trace.moment("front received", "received", 1.5, stamp=7)
    trace.span("front", "decode", 2.0, 2.25, stamp=7)
    trace.close()
    trace.moment("front received", "received", 3.0, stamp=8)  # nobody is told any more
    first, received, second, decode = json.loads((tmp_path / "new" / "trace.json").read_text())
    assert (first["ph"], first["args"]["name"]) == ("M", "front received")
    assert (received["ph"], received["ts"], received["args"]) == ("i", 1.5e6, {"stamp": 7})
    assert (second["ph"], second["args"]["name"]) == ("M", "front")
    assert (decode["ph"], decode["name"], decode["ts"], decode["dur"]) == ("X", "decode", 2.0e6, 0.25e6)
    assert received["tid"] == first["tid"] != decode["tid"] == second["tid"]


def test_an_empty_trace_is_json_and_one_that_is_not_closed_lacks_only_its_end(tmp_path):
    empty, cut = Trace(tmp_path / "empty.json"), Trace(tmp_path / "cut.json")
    empty.close()
    for n in range(AT_ONCE + 5):
        cut.span("front", "decode", 2.0 + n, 2.25 + n)
    assert json.loads((tmp_path / "empty.json").read_text()) == []
    assert len(json.loads((tmp_path / "cut.json").read_text() + "]")) == AT_ONCE
    cut.close()
    assert len(json.loads((tmp_path / "cut.json").read_text())) == AT_ONCE + 6  # the first is the row's name


def test_a_trace_takes_no_file_but_a_new_one_an_empty_one_or_an_old_trace(tmp_path, monkeypatch):
    """Whoever may set the parameter may not overwrite what the node can write, through links or otherwise."""
    kept = tmp_path / "kept.txt"
    kept.write_text("somebody's work")
    (tmp_path / "link.json").symlink_to(kept)
    (tmp_path / "nowhere.json").symlink_to(tmp_path / "new.txt")
    os.mkfifo(tmp_path / "pipe.json")
    os.link(kept, tmp_path / "hard.json")
    words = {
        "kept.txt": "no trace", "link.json": "symbolic link", "nowhere.json": "symbolic link", "hard.json": "no trace",
        "pipe.json": "no regular file", "": "Is a directory", "/dev/null": "no regular file",
    }  # fmt: skip
    for name, why in words.items():
        with pytest.raises(OSError, match=why):
            Trace(tmp_path / name)
    assert kept.read_text() == "somebody's work" and not (tmp_path / "new.txt").exists()
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "trace.json").touch()
    for number in range(3):  # an empty one, one with spans, one without
        trace = Trace(Path("~/trace.json"))
        if number == 0:
            trace.span("front", "decode", 2.0, 2.25)
        trace.close()
        assert len(json.loads((tmp_path / "trace.json").read_text())) == (2 if number == 0 else 0)


def fill_the_disk(trace):
    """From now on its file is on a disk that is full."""
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, trace._file.fileno())
    os.close(full)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
def test_on_a_full_disk_the_trace_ends_and_says_why(tmp_path):
    trace, unwritten = Trace(tmp_path / "a.json"), Trace(tmp_path / "b.json")
    fill_the_disk(trace)
    fill_the_disk(unwritten)
    spans = Spans("front", trace)
    for n in range(2 * AT_ONCE):
        spans.received(n, float(n))  # in the callback of the camera, which must not fail
    assert "a.json'" in trace.problem and "No space left" in trace.problem
    trace.close()
    assert not unwritten.problem
    unwritten.close()
    assert "No space left" in unwritten.problem


def test_percentiles_are_values_that_occurred():
    assert percentiles([float(n) for n in range(100, 0, -1)]) == [50.0, 95.0, 99.0]
    assert percentiles([3.0]) == [3.0, 3.0, 3.0]


def test_figures_are_of_the_last_images_only():
    spans = Spans("front")
    for n in range(2 * WINDOW):
        spans.taken(n, 0.02, 0.0, 0.001 if n < WINDOW else 0.004, 0.005)
    figures = spans.metrics()
    assert figures["time, wait, p50 p95 p99 [ms]"] == "4.0 4.0 4.0"
    assert figures["time, age, p50 p95 p99 [ms]"] == "20.0 20.0 20.0"
    assert "time, answer, p50 p95 p99 [ms]" not in figures


class Slow:
    """A model that takes its time and tells when it had encoded the image."""

    name = "slow"

    def answer(self, image, questions):
        return self.answer_batch([image], questions)[0]

    def answer_batch(self, images, questions):
        began = time.perf_counter()
        time.sleep(0.02)
        encoding = time.perf_counter() - began
        time.sleep(0.01)

        def one(question):
            usage = Usage(time.perf_counter() - began, 0.0, 0, 0, encoding)
            if isinstance(question, Text):
                return Answer("words", 0.9, usage=usage)
            share = 1 / len(question.options)
            return Answer(question.options[0], share, question.options, (share,) * 2, usage)

        return [[one(question) for question in questions] for _ in images]

    def describe_self(self):
        return {}


class Listener:
    def __init__(self):
        self.labels, self.words, self.faults = [], [], []

    def publish(self, output):
        if isinstance(output, Label):
            time.sleep(0.005)
            self.labels.append(output.frame.stamp)
        elif isinstance(output, Description):
            self.words.append(output.frame.stamp)
        elif isinstance(output, Fault | Failed):
            self.faults.append(output)


def message(stamp):
    from types import SimpleNamespace

    header = SimpleNamespace(stamp=SimpleNamespace(sec=stamp // 10**9, nanosec=stamp % 10**9), frame_id="")
    pixels = np.full(8 * 8 * 3, stamp % 251, np.uint8)
    return SimpleNamespace(header=header, encoding="rgb8", height=8, width=8, step=24, is_bigendian=0, data=pixels)


def test_the_stages_of_an_image_follow_one_another_and_never_overlap(tmp_path):
    """With a label, a description and somebody who asks the same moment, of two cameras."""
    asked = settings(LABEL, Text("describe"), 100.0, 100.0)
    listener, trace = Listener(), Trace(tmp_path / "trace.json")
    cameras = [Camera(name, asked, lambda: STAMP, trace) for name in ("front", "rear")]
    worker = Worker(Slow, asked, cameras, listener.publish)
    worker.start()
    worker.look(True)
    answered = threading.Semaphore(0)
    try:
        for n in range(4):
            for camera in cameras:
                camera.put(message(STAMP + n))
                worker.ask(camera, [YesNo("is it there?")]).add_done_callback(lambda _: answered.release())
            for _ in range(2):
                assert answered.acquire(timeout=30)
        end = time.monotonic() + 30
        while not {STAMP + 3} <= set(listener.words) and time.monotonic() < end:
            time.sleep(0.01)
    finally:
        worker.stop()
        worker.join(30)
        trace.close()
    assert not listener.faults and set(listener.labels) == {STAMP + n for n in range(4)}
    rows = rows_of(json.loads((tmp_path / "trace.json").read_text()))
    assert set(rows) == {"front", "front received", "rear", "rear received"}
    for spans in rows.values():
        for before, after in itertools.pairwise(spans):
            assert before["ts"] + before["dur"] <= after["ts"] + 1, f"{before} overlaps {after}"
    assert {span["name"] for span in rows["front received"]} == {"wait"}
    by_image = [[s for s in rows["front"] if s["args"]["stamp"] == STAMP + n] for n in range(4)]
    for spans in by_image:
        assert [span["name"] for span in spans][:4] == ["decode", "encode", "answer", "publish"]
        encode, answer = spans[1], spans[2]
        assert encode["dur"] >= 19e3 and answer["dur"] >= 9e3
    waits = {span["args"]["stamp"]: span for span in rows["front received"]}
    for spans in by_image:
        wait = waits[spans[0]["args"]["stamp"]]
        assert wait["ts"] + wait["dur"] == pytest.approx(spans[0]["ts"])
    figures = cameras[0].spans.metrics()
    assert float(str(figures["time, encode, p50 p95 p99 [ms]"]).split()[0]) >= 19
    assert {name.split(", ")[1] for name in figures} >= {
        "age",
        "wait",
        "decode",
        "encode",
        "answer",
        "publish",
        "whole",
    }
