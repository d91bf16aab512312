"""What the benchmark measures and writes, with the shipped model and a tiny chat model; never how fast it was."""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny_models
from PIL import Image

from vlm_perception.models.base import ModelError
from vlm_perception.models.loader import load_model
from vlm_perception.perception.source import SourceError
from vlm_perception.questions import Choice, Score, Text
from vlm_perception.tools import benchmark, benchmark_images, benchmark_report, benchmarking, power
from vlm_perception.tools.baseline import Said, baseline_of, clean
from vlm_perception.tools.benchmark_images import drawn, find_images
from vlm_perception.tools.benchmark_report import COLUMNS, BenchmarkRow, markdown, rows, table
from vlm_perception.tools.benchmarking import (
    BASELINE,
    OURS,
    QUESTIONS,
    TOGETHER,
    WARM_UP,
    Case,
    Measured,
    Samples,
    Setup,
    measure,
)
from vlm_perception.tools.power import Draw, PowerMeter

pytestmark = pytest.mark.slow

IMAGES = drawn(2)


def arguments(**changes):
    parser = argparse.ArgumentParser()
    benchmark.add_arguments(parser)
    return argparse.Namespace(**{**vars(parser.parse_args([])), **changes})


# The command


def test_the_shipped_model_is_measured_and_a_missing_one_is_named(tmp_path, capsys):
    for number, image in enumerate(IMAGES):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    asked = {"precisions": ["float32"], "questions": ["choice", "yes_no"], "images": tmp_path, "rounds": 2}
    output = tmp_path / "output"
    assert benchmark.main(arguments(models=["/nowhere", "nano"], output=output, **asked)) == 1
    said = capsys.readouterr()
    assert "/nowhere, float32: model folder '/nowhere' does not exist" in said.err
    assert "Traceback" not in said.out + said.err

    with open(output / "results.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [(row["question"], row["way"]) for row in table] == [
        ("choice", "ours"), ("choice", "baseline"), ("yes_no", "ours"), ("yes_no", "baseline"),
        ("together", "ours"), ("together", "baseline"),
    ]  # fmt: skip
    for row in table:
        assert row["calls"] == "2" and float(row["median_ms"]) > 0 and int(row["host_mib"]) > 50
        assert row["gpu_mib"] == "" or int(row["gpu_mib"]) > 0
    ours, baseline = table[0], table[1]
    assert float(ours["agreement"]) == float(ours["valid"]) == 1.0
    assert (
        ours["tokens_per_second"] == ""
        and float(ours["baseline_over_ours"]) > 0
        and baseline["baseline_over_ours"] == ""
    )
    facts = json.loads((output / "results.json").read_text())
    assert facts["models"][0]["parameters"] == "2.9 M" and facts["rounds"] == 2
    assert facts["rows"][0]["model"] == "nano" and "does not exist" in facts["problems"][0]
    report = (output / "report.md").read_text()
    assert "| nano | float32 | choice | ours |" in report and "![" in report and "- torch 2" in report
    assert cv2.imread(str(output / "chart.png")).shape[1] > 500


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rounds": 0}, "--rounds is 0, expected 1 to"),
        ({"image_sizes": [-1]}, "image_size is -1, expected"),
        ({"device": "tpu"}, "device is 'tpu', expected one of auto, cpu, cuda"),
        ({"images": Path("/nowhere")}, "/nowhere does not exist"),
        ({"output": Path("/dev/null/folder")}, "Not a directory: '/dev/null/folder'"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(changes, words, capsys):
    assert benchmark.main(arguments(**{"images": None, "rounds": 1, **changes})) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_every_setup_is_planned_once_and_a_server_has_its_own_precision():
    planned = benchmark.setups(
        arguments(models=["nano", "nano", "http://gpu:8000"], precisions=["int8", "float16"], image_sizes=[0, 96])
    )
    assert [str(setup) for setup in planned] == [
        "nano, int8", "nano, int8 at 96 px", "nano, float16", "nano, float16 at 96 px", "http://gpu:8000, auto",
    ]  # fmt: skip
    assert Setup("nano", "int8", 96).options().quantization == "int8"
    assert Setup("nano", "float16", 0).options().dtype == "float16"


# Measuring


def test_a_chat_model_is_asked_both_ways_about_the_same_images(tmp_path):
    folder = str(tiny_models.save("llava-1.5", tmp_path))
    sent: list = []
    measure(sent.append, Setup(folder, "float32", 0, "cpu"), ["choice", "text"], IMAGES, 3)
    assert sent[:-1] == [0, 1, 2, 3]
    measured = sent[-1]
    assert measured.facts["family"] == "llava" and measured.load_seconds > 0
    model = load_model(folder, "cpu", "float32")
    for kind in ("choice", "text"):
        for way in (OURS, BASELINE):
            samples = measured.samples[Case(kind, way)]
            assert len(samples.seconds) == len(samples.first) == 3 and samples.problem == ""
            assert all(0 < first <= whole for first, whole in zip(samples.first, samples.seconds, strict=True))
            assert sorted(samples.said) == [0, 1]
        expected = [model.answer(image, [QUESTIONS[kind]])[0].value for image in IMAGES]
        assert [measured.samples[Case(kind, OURS)].said[n] for n in (0, 1)] == [[words] for words in expected]
    assert TOGETHER not in {case.question for case in measured.samples}  # there is one closed question only


def test_a_question_that_cannot_be_asked_does_not_stop_the_others(monkeypatch):
    calls = []
    nano = load_model("nano", "cpu")

    class Picky:
        def answer(self, image, questions):
            calls.append([type(question) for question in questions])
            if Score in calls[-1]:
                raise ValueError("no levels,\nplease")
            return nano.answer(image, questions)

        def describe_self(self):
            return {}

    monkeypatch.setattr(benchmarking, "load_first", lambda name, options: Picky())
    sent: list = []
    measure(sent.append, Setup("picky", "auto", 0), ["choice", "score"], IMAGES, 2)
    samples = sent[-1].samples
    assert set(samples) == {Case("choice", OURS), Case("score", OURS), Case(TOGETHER, OURS)}  # it does not generate
    assert samples[Case("score", OURS)].problem == samples[Case(TOGETHER, OURS)].problem == "no levels, please"
    assert len(samples[Case("choice", OURS)].seconds) == 2
    assert calls.count([Score]) == 1 and calls.count([Choice]) == 2 + WARM_UP


def test_a_model_that_cannot_be_loaded_is_an_error_in_its_own_words():
    with pytest.raises(ModelError, match="'/nowhere' does not exist"):
        measure(print, Setup("/nowhere", "auto", 0), ["choice"], IMAGES, 1)


def test_the_baseline_says_what_generate_says():
    model = load_model("nano", "cpu", "float32")
    baseline = baseline_of(model)
    image = find_images(None, 1)[0][0]
    labels = Choice("what is ahead?", ("clear", "obstacle", "wall", "doorway", "corridor"))
    said = baseline.ask(image, labels)
    assert said.words == model.answer(image, [labels])[0].value and said.tokens == 2  # the word, and the end
    other = baseline.ask(image, Choice("what is ahead?", ("zebra", "unicorn")))
    assert other == Said(None, 2, other.time_to_first_token)
    text = Text("describe the scene", 60)
    assert baseline.ask(image, text).words == model.answer(image, [text])[0].value


@pytest.mark.parametrize(
    ("words", "option"),
    [("wall", "wall"), (" Wall.\n", "wall"), ("WALL!", "wall"), ("a wall", None), ("", None), ("Exit", "exit")],
)
def test_words_are_cleaned(words, option):
    assert clean(words, ("wall", "exit")) == option


# The report


def measured(
    model="a", seconds=(0.1, 0.2), baseline=(0.3, 0.4), said=("wall", "clear"), baseline_said=("wall", None), **more
):
    def samples(times, words):
        return Samples(list(times), [0.05] * len(times), [], {n: [word] for n, word in enumerate(words)}, 3 << 20)

    cases = {Case("choice", OURS): samples(seconds, said), Case("choice", BASELINE): samples(baseline, baseline_said)}
    return Measured(Setup(model, "float32", 0), {"dtype": "float32"}, 1.0, cases, Draw(**more))


def test_rows_hold_what_was_measured():
    ours, baseline, other, _ = rows([measured(gpu_use=0.5, gpu_watts=70.0), measured("b", said=("wall", "wall"))])
    assert (ours.median_ms, ours.p95_ms, ours.p99_ms) == pytest.approx((150.0, 195.0, 199.0))
    assert ours.answers_per_second == pytest.approx(2 / 0.3)
    assert ours.baseline_over_ours == pytest.approx(np.median([3.0, 2.0])) and baseline.baseline_over_ours is None
    assert (ours.valid, ours.agreement) == (1.0, 1.0)
    assert (baseline.valid, baseline.agreement) == (0.5, 0.5)
    assert (other.valid, other.agreement) == (1.0, 0.5)
    assert (ours.host_mib, ours.gpu_mib, ours.gpu_use, ours.gpu_watts) == (3, None, 0.5, 70.0)


def test_a_row_of_which_nothing_was_measured_is_left_out_of_the_table_and_has_its_reason():
    nothing = measured(seconds=(), said=())
    nothing.samples[Case("choice", OURS)].problem = "too long"
    found = rows([nothing])
    assert found[0].median_ms is None and found[0].problem == "too long"
    assert "| ours |" not in table(found) and "| baseline |" in table(found)


def test_the_table_leaves_out_columns_that_hold_nothing():
    heading = table(rows([measured()])).splitlines()[0]
    assert "GPU" not in heading and "[W]" not in heading and "px" not in heading and "baseline / ours" in heading
    assert "GPU [W]" in table(rows([measured(gpu_watts=70.0)])).splitlines()[0]
    assert set(COLUMNS) <= {name for name in BenchmarkRow.__dataclass_fields__}


def test_the_report_stands_without_a_chart(monkeypatch, tmp_path):
    import builtins

    real = builtins.__import__

    def refuse(name, *arguments, **more):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    about = {"machine": ["a machine"], "images": "some", "rounds": 2, "problems": ["c, int8: needs a GPU"]}
    found = rows([measured()])
    files = benchmark_report.write(tmp_path, found, about)
    assert [file.name for file in files] == ["results.csv", "results.json", "report.md"]
    report = (tmp_path / "report.md").read_text()
    assert report == markdown(found, about) and "![" not in report and "- c, int8: needs a GPU" in report


# Images


def test_images_of_a_folder_and_of_a_video_are_from_all_over_it(tmp_path):
    greys = [np.full((48, 64, 3), 20 * n, np.uint8) for n in range(10)]
    for n, grey in enumerate(greys):
        Image.fromarray(grey).save(tmp_path / f"{n}.png")
    (tmp_path / "notes.txt").write_text("no image")
    images, about = find_images(tmp_path, 4)
    assert [image[0, 0, 0] for image in images][:3] == [0, 60, 120] and "64x48" in about
    video = cv2.VideoWriter(str(tmp_path / "film.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 48))
    for grey in greys:
        video.write(grey)
    video.release()
    levels = [int(image.mean()) for image in find_images(tmp_path / "film.mp4", 4)[0]]
    assert levels == pytest.approx([0, 60, 120, 180], abs=6)


def test_colours_of_a_folder_are_rgb(tmp_path):
    Image.new("RGB", (8, 8), (200, 10, 20)).save(tmp_path / "red.png")
    assert find_images(tmp_path, 1)[0][0][0, 0].tolist() == [200, 10, 20]


def test_no_images_where_they_should_be(tmp_path):
    with pytest.raises(SourceError, match="has no images"):
        find_images(tmp_path, 1)
    (tmp_path / "film.mp4").write_bytes(b"no film")
    with pytest.raises(SourceError, match="cannot be opened as a video"):
        find_images(tmp_path / "film.mp4", 1)


def test_a_machine_that_cannot_render_gets_drawn_images(monkeypatch):
    def fail(count):
        raise RuntimeError("no EGL")

    monkeypatch.setattr(benchmark_images, "rendered", fail)
    images, about = find_images(None, 3)
    assert len(images) == 3 and images[0].shape == (480, 640, 3) and "no EGL" in about


# Power


def command(folder: Path, name: str, *lines: str) -> None:
    """A program that prints `lines` and goes on until it is ended."""
    script = "".join(f"echo '{line}'\n" for line in lines)
    (folder / name).write_text(f"#!/bin/sh\n{script}exec sleep 100\n")
    (folder / name).chmod(0o755)


def draw(monkeypatch, folder: Path) -> Draw:
    """What is told when these are the only programs and counters, of which each was heard once."""
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")
    monkeypatch.setattr(power, "RAPL", folder / "powercap")
    meter = PowerMeter()
    listeners = [one for one in (meter._nvidia, meter._jetson) if (folder / one._command[0]).exists()]
    with meter:
        end = time.monotonic() + 30
        while not all(listener._lines for listener in listeners) and time.monotonic() < end:
            time.sleep(0.01)
        zone = folder / "powercap" / "intel-rapl:0"
        if zone.exists():
            (zone / "energy_uj").write_text("500")  # the counter went over its limit
    return meter.draw


def test_a_machine_that_tells_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(power.shutil, "which", lambda name: None)
    assert draw(monkeypatch, tmp_path) == Draw()


def test_nvidia_smi_is_understood(monkeypatch, tmp_path):
    command(tmp_path, "nvidia-smi", "40, 71.50")
    found = draw(monkeypatch, tmp_path)
    assert (found.gpu_use, found.gpu_watts, found.board_watts) == (0.4, 71.5, None)


def test_a_gpu_that_does_not_tell_its_power(monkeypatch, tmp_path):
    command(tmp_path, "nvidia-smi", "0, [N/A]")
    found = draw(monkeypatch, tmp_path)
    assert (found.gpu_use, found.gpu_watts) == (0.0, None)


def test_a_jetson_is_understood(monkeypatch, tmp_path):
    line = "RAM 3011/15388MB (lfb 2x4MB) CPU [5%@729,0%@729] GR3D_FREQ 62% VDD_IN 7240mW/6900mW VDD_CPU 800mW/700mW"
    command(tmp_path, "tegrastats", line)
    found = draw(monkeypatch, tmp_path)
    assert (found.gpu_use, found.board_watts, found.gpu_watts) == (0.62, 7.24, None)


def test_energy_counters_of_the_processor_are_read_over_their_limit(monkeypatch, tmp_path):
    for name in ("intel-rapl:0", "intel-rapl:0:0"):
        (tmp_path / "powercap" / name).mkdir(parents=True)
        (tmp_path / "powercap" / name / "energy_uj").write_text("900")
        (tmp_path / "powercap" / name / "max_energy_range_uj").write_text("1000")
    assert power._since(tmp_path / "powercap" / "intel-rapl:0", 900, 500) == 600
    assert draw(monkeypatch, tmp_path).cpu_watts > 0
