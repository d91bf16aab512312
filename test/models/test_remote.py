"""A model on a server: asked in the best way it knows, never believed when it did not look, late rather than wrong."""

from __future__ import annotations

import base64
import io
import json
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_server import (
    NOT_FOUND,
    Fault,
    Reply,
    Request,
    Server,
    constrained,
    decisions,
    images_in,
    patience,
    plain,
    system_one,
)  # fmt: skip
from paths import ROOT
from PIL import Image

from vlm_perception.models.base import ModelError
from vlm_perception.models.calibration import Calibration
from vlm_perception.models.loader import load_model
from vlm_perception.models.remote import image_file, session
from vlm_perception.models.remote.chat_labels import PLAIN_CONFIDENCE, label_probabilities
from vlm_perception.models.remote.endpoint import API_KEY, read_endpoint
from vlm_perception.models.remote.http_client import RequestLimits
from vlm_perception.models.remote.model import RemoteModel
from vlm_perception.models.remote.response import RefusedError
from vlm_perception.questions import Choice, Score, Text, YesNo

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tidy_servers")]

KEY = "sk-topsecret-0123456789"
WHERE = Choice("Where is the ball?", ("left", "left near", "right"), ("", "so near that it fills the view", ""))
THERE = YesNo("Is there a ball?")
RISK = Score("How near is the wall?", ("far", "near", "very near"))
WORDS = Text("Describe the image.", max_new_tokens=6)


def random_image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)


# A true server: `transformers serve` with a tiny model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    import tiny_models
    from tiny_llava import llava
    from tiny_parts import Tiny
    from tiny_tokenizers import byte_tokenizer, chatml

    def chat_model() -> Tiny:
        special = ("<|im_end|>", "<|im_start|>", "<image>", "<|endoftext|>")
        tokenizer = byte_tokenizer(*special)
        tokenizer.add_tokens(["Yes", "No"])  # System One wants labels of one token
        return llava(tokenizer, {"model_type": "qwen2"}, chatml("<image>"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny_models.FAMILIES, "served", chat_model)
        return tiny_models.save("served", tmp_path_factory.mktemp("served"))


class Transformers:
    """`transformers serve` as a process of its own."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = folder.with_suffix(".log")
        command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder), "--host", "127.0.0.1"]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port), "--device", "cpu"], stdout=log, stderr=log, env=environment
            )

    def wait(self) -> None:
        for _ in range(1200):
            assert self.process.poll() is None, self._log.read_text()[-2000:]
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.1)
        raise AssertionError("transformers serve does not start: " + self._log.read_text()[-2000:])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def process(folder) -> Iterator[Transformers]:
    for module in ("transformers.decision", "accelerate", "fastapi", "openai", "uvicorn"):
        pytest.importorskip(module, reason="needs pip install transformers[serving], version 5.23 or newer")
    server = Transformers(folder)
    yield server
    server.kill()


@pytest.fixture(scope="module")
def pipeline(folder, process):
    import transformers

    return transformers.pipeline("decision", model=str(folder), device="cpu")


@pytest.fixture(scope="module")
def served(process, pipeline) -> Transformers:
    process.wait()  # it starts while the pipeline is made
    return process


def in_process(pipeline: Any, image: np.ndarray) -> list[list[float]]:
    """What transformers itself answers to the questions in this process, from the same JPEG."""
    questions = {
        "where": {
            "type": "choice",
            "instructions": WHERE.prompt,
            "criteria": {"left": None, "left near": "so near that it fills the view", "right": None},
        },
        "there": {"type": "noul", "instructions": THERE.prompt},
        "risk": {"type": "score", "instructions": RISK.prompt, "criteria": ["far", "near", "very near"]},
    }
    asset = {"type": "image", "format": "jpeg", "data_base64": image_file.encode(image).data}
    answers = pipeline({"state": "[[camera]]", "questions": questions, "assets": {"[[camera]]": asset}})
    there = answers["there"]["noul"]
    return [
        [answers["where"]["probabilities"][option] for option in WHERE.options],
        [there, 1 - there],
        [answers["risk"]["probabilities"][level] for level in ("0", "1", "2")],
    ]


def test_system_one_answers_as_the_pipeline_in_this_process(served, pipeline):
    model = load_model(served.url)
    image = random_image(0)
    answers = model.answer(image, [WHERE, THERE, RISK])
    assert "System One" in model.describe_self()["way"]
    for answer, question, expected in zip(answers, [WHERE, THERE, RISK], in_process(pipeline, image), strict=True):
        assert answer.options == question.options
        assert answer.probabilities == pytest.approx(expected, abs=1e-5)
        assert answer.value == question.options[int(np.argmax(expected))]
        assert answer.confidence == max(answer.probabilities)
        assert answer.usage.seconds > 0 and answer.usage.tokens == 0
    assert max(answers[0].probabilities) - min(answers[0].probabilities) > 0.05, "so flat that nothing is tested"


def test_words_are_those_of_the_models_own_generate(served, pipeline):
    import torch

    image = random_image(1)
    words, risk = RemoteModel(served.url).answer(image, [WORDS, RISK])
    part = {"type": "image", "image": Image.open(io.BytesIO(base64.b64decode(image_file.encode(image).data)))}
    inputs = pipeline.processor.apply_chat_template(
        [{"role": "user", "content": [part, {"type": "text", "text": WORDS.prompt}]}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    with torch.inference_mode():
        ids = pipeline.model.generate(**inputs, max_new_tokens=6, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    expected = pipeline.tokenizer.decode(ids, skip_special_tokens=True).strip()
    assert (
        words.value.replace("\ufffd", "") == expected.replace("\ufffd", "") != ""
    )  # a stream ends before half a letter
    assert words.usage.tokens == len(ids) and 0 < words.usage.time_to_first_token <= words.usage.seconds
    assert words.confidence == 0.0  # transformers serve tells no log-probabilities
    assert words.options == () and risk.options == RISK.options


def test_a_batch_answers_as_each_image_alone(served):
    model = RemoteModel(served.url)
    images = [random_image(seed) for seed in (2, 3, 4)]
    batch = model.answer_batch(images, [WHERE, RISK])
    assert batch == [model.answer(image, [WHERE, RISK]) for image in images]
    assert len({answers[0].probabilities for answers in batch}) == 3


def test_a_server_killed_in_the_middle_gives_late_not_wrong_and_another_there_is_used(served, serve):
    model = RemoteModel(served.url)
    model.answer(random_image(5), [WHERE])
    os.kill(served.process.pid, signal.SIGSTOP)
    killer = threading.Timer(0.2, served.kill)
    killer.start()
    with patience(model, 0.7), pytest.raises(ModelError, match="not answered within 0.7 s.*does the server run there"):
        model.answer(random_image(5), [WHERE])
    killer.join()
    serve(constrained("regex"), port=served.port)
    assert model.answer(random_image(5), [WHERE])[0].probabilities == pytest.approx((4 / 7, 2 / 7, 1 / 7))


# Servers that cannot run here, by the form of their requests and answers


@pytest.mark.parametrize(
    ("knows", "way"),
    [
        ("structured_outputs", "structured_outputs"),
        ("guided_choice", "guided_choice"),
        ("regex", "regex"),
        (None, "log-probabilities alone"),
    ],
)
def test_chat_servers_are_held_to_labels_by_the_field_they_know(serve, knows, way):
    server = serve(constrained(knows))
    model = RemoteModel(f"{server.url}/v1#qwen")
    assert way in model.describe_self()["way"]
    del server.requests[:]
    where, there, risk = model.answer(random_image(0), [WHERE, THERE, RISK])
    assert where.probabilities == pytest.approx((4 / 7, 2 / 7, 1 / 7))
    assert (where.value, there.value, risk.value) == ("left", "yes", "far")
    assert there.probabilities == pytest.approx((2 / 3, 1 / 3))
    assert where.usage.tokens == 2  # as the server counts
    texts = set()
    for request in server.requests:
        body = request.body
        (data,) = images_in(body)
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"), int)
        assert np.abs(pixels - random_image(0)).mean() < 8  # a JPEG of noise, the worst there is
        assert (body["model"], body["temperature"], body["top_logprobs"]) == ("qwen", 0.0, 20)
        texts.add(body["messages"][0]["content"][-1]["text"])
    assert texts == {
        "Where is the ball?\nA. left\nB. left near: so near that it fills the view\nC. right\n"
        "Answer with the letter of the option that fits best only.",
        "Is there a ball?\nAnswer Yes or No only.",
        "How near is the wall?\nA. far\nB. near\nC. very near\n"
        "Answer with the letter of the level (from lowest to highest) that fits best only.",
    }


def test_words_come_as_a_stream_with_their_probability(serve):
    (answer,) = RemoteModel(serve(constrained("regex")).url).answer(random_image(0), [WORDS])
    assert answer.value == "A ball."
    assert answer.confidence == pytest.approx(0.25)
    assert answer.usage.tokens == 3


def test_yes_and_no_may_have_other_words(serve):
    server = serve(constrained("regex"))
    (answer,) = RemoteModel(server.url).answer(random_image(0), [YesNo("门是开着的吗？", ("开着", "关着"))])
    assert answer.value == "开着" and answer.options == ("开着", "关着")
    assert (
        server.requests[-1]
        .body["messages"][0]["content"][-1]["text"]
        .startswith("门是开着的吗？\nYes: 开着\nNo: 关着\n")
    )


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({"A": 0.5, "B": 0.3, "C": 0.2}, (0.5, 0.3, 0.2)),
        ({"A": 0.4, " A": 0.1, "▁B": 0.3, "C": 0.2}, (0.5, 0.3, 0.2)),  # the same letter, written otherwise
        ({"A": 0.2, "B": 0.1, "The": 0.6, "C": 0.1}, (0.5, 0.25, 0.25)),  # what else it would have said is left out
        ({"A": 0.6, "B": 0.3, "x": 0.06}, (0.6 / 0.94, 0.3 / 0.94, 0.04 / 0.94)),  # what is left, for the one not named
        ({"A": 0.6, "B": 0.02}, (0.6 / 0.64, 0.02 / 0.64, 0.02 / 0.64)),  # but not more than the rarest named one
        ({"A": 1.0, "B": 0.0, "C": 0.0}, (1.0, 0.0, 0.0)),  # -9999, as vLLM writes what is forbidden
    ],
)
def test_probabilities_of_labels(named, expected):
    logarithms = {token: math.log(p) if p else -9999.0 for token, p in named.items()}
    assert label_probabilities(["A", "B", "C"], logarithms) == pytest.approx(expected)


def test_a_label_in_pieces_counts_by_its_beginning():
    named = {"Y": math.log(0.6), "Yes": math.log(0.1), "N": math.log(0.3)}
    assert label_probabilities(["Yes", "No"], named) == pytest.approx([0.7, 0.3])
    with pytest.raises(RefusedError, match="none of its most probable tokens is a label"):
        label_probabilities(["Yes", "No"], {"Maybe": -0.1})


@pytest.mark.parametrize("reply", ["B", " B\n", "B."])
def test_a_plain_reply_is_one_of_the_letters(serve, reply):
    model = RemoteModel(serve(plain(reply)).url)
    assert "without probabilities" in model.describe_self()["way"]
    (answer,) = model.answer(random_image(0), [WHERE])
    assert answer.value == "left near" and answer.confidence == pytest.approx(PLAIN_CONFIDENCE)
    assert sum(answer.probabilities) == pytest.approx(1)


@pytest.mark.parametrize("reply", ["A ball is near", "left", "b", "", "D", "A or B", "Go to B"])
def test_prose_never_becomes_an_answer(serve, reply):
    model = RemoteModel(serve(plain(reply)).url)
    with pytest.raises(ModelError, match="expected one of A, B, C"):
        model.answer(random_image(0), [WHERE])


def test_the_images_of_sglang_and_llama_cpp(serve):
    server = serve(system_one)
    model = RemoteModel(server.url)
    assert "with images" in model.describe_self()["way"]
    where, there, risk = model.answer(random_image(0), [WHERE, THERE, RISK])
    body = server.requests[-1].body
    assert where.probabilities == pytest.approx((0.1, 0.7, 0.2)) and where.value == "left near"
    assert there.value == "no" and there.probability("yes") == pytest.approx(0.2)
    assert risk.score == pytest.approx(1.6)
    assert body["images"][0].startswith("data:image/jpeg;base64,") and "assets" not in body
    assert body["questions"] == {
        "0": {
            "type": "choice",
            "instructions": "Where is the ball?",
            "criteria": {"left": None, "left near": "so near that it fills the view", "right": None},
        },
        "1": {"type": "noul", "instructions": "Is there a ball?"},
        "2": {"type": "score", "instructions": "How near is the wall?", "criteria": ["far", "near", "very near"]},
    }


def test_decisions_in_the_form_of_openai(serve):
    server = serve(decisions)
    model = RemoteModel(server.url)
    assert "Decisions" in model.describe_self()["way"]
    where, there, risk = model.answer(random_image(0), [WHERE, THERE, RISK])
    assert where.probabilities == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert (there.value, risk.value) == ("yes", "near") and there.confidence == pytest.approx(0.9)
    body = server.requests[-1].body
    assert body["input"][0]["content"][0]["type"] == "input_image"
    assert body["questions"][0]["choices"] == [
        {"value": "left"},
        {"value": "left near", "description": "so near that it fills the view"},
        {"value": "right"},
    ]
    with pytest.raises(ModelError, match="declined"):
        model.answer(random_image(0), [Score("refuse", RISK.options)])


def test_a_server_that_does_not_look_is_refused(serve):
    def blind(request: Request) -> Reply | None:
        reply = constrained("regex")(request)
        if reply is not None and isinstance(reply.body, dict) and "usage" in reply.body:
            reply.body["usage"]["prompt_tokens"] = 12
        return reply

    with pytest.raises(ModelError, match="does not look at the image"):
        RemoteModel(serve(blind).url)


def test_a_server_without_any_way_says_what_it_has(serve):
    def answer(request: Request) -> Reply | None:
        return Reply({"data": [{"id": "llama"}, {"id": "qwen"}]}) if request.path == "/v1/models" else NOT_FOUND

    with pytest.raises(ModelError, match="lists llama, qwen.*HTTP 404 Not Found"):
        RemoteModel(serve(answer).url)


def test_many_questions_go_in_several_requests(serve):
    server = serve(decisions)
    model = RemoteModel(server.url)
    del server.requests[:]
    questions = [YesNo(f"Is there a ball of size {i}?") for i in range(100)]
    answers = model.answer(random_image(0), [*questions, questions[0]])
    assert len(answers) == 101 and answers[100] == answers[0]
    assert sorted(len(request.body["questions"]) for request in server.requests) == [36, 64]
    assert len({images_in(request.body)[0] for request in server.requests}) == 1


def test_too_many_options_for_letters_are_the_askers_fault(serve):
    model = RemoteModel(serve(constrained("regex")).url)
    with pytest.raises(ValueError, match="at most 26"):
        model.answer(random_image(0), [Choice("?", tuple(map(str, range(27))))])


def test_only_so_many_requests_are_in_flight(serve):
    lock, now, most = threading.Lock(), [0], [0]
    answer = constrained("regex")

    def slow(request: Request) -> Reply | None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.05)
        with lock:
            now[0] -= 1
        return answer(request)

    model = RemoteModel(serve(slow).url, RequestLimits(in_flight=2))
    model.answer(random_image(0), [YesNo(f"{i}?") for i in range(8)])
    assert most == [2]


def test_an_image_that_cannot_change_is_encoded_once(serve, monkeypatch):
    encoded = []
    monkeypatch.setattr(image_file, "encode", lambda *a, encode=image_file.encode: encoded.append(a) or encode(*a))
    model = RemoteModel(serve(constrained("regex")).url)
    del encoded[:]
    image = random_image(0)
    image.flags.writeable = False
    model.answer(image, [WHERE, THERE])
    model.answer(image, [RISK])
    assert len(encoded) == 1
    image = random_image(0)
    before = model.answer(image, [WHERE])
    image[:] = 0
    assert model.answer(image, [WHERE]) == before and len(encoded) == 3


def test_temperatures_soften(serve):
    model = RemoteModel(serve(constrained("regex")).url, calibration=Calibration({"yes_no": 1e6}))
    where, there = model.answer(random_image(0), [WHERE, THERE])
    assert there.probabilities == pytest.approx((0.5, 0.5), abs=1e-3)
    assert where.probabilities == pytest.approx((4 / 7, 2 / 7, 1 / 7))


# What goes wrong


CUT = Reply({"choices": [{"message": {"content": "A"}}]}, cut=10)


@pytest.mark.parametrize(
    "fault",
    [Reply(b"busy", 503), Reply(b"", 502), Reply(b"", 504), Reply(b"", 429, {"Retry-After": "0.1"}), None, CUT],
    ids=["503", "502", "504", "429", "hung up", "cut short"],
)
def test_a_passing_fault_is_tried_again(serve, fault):
    answer = Fault(fault, fault)
    server = serve(answer)
    model = RemoteModel(server.url)
    del server.requests[:]
    answer.armed = True
    assert model.answer(random_image(0), [WHERE])[0].value == "left"
    assert len(server.requests) == 3


def test_pauses_grow_and_are_at_least_as_long_as_the_server_asks(serve, monkeypatch):
    pauses = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    answer = Fault(*[Reply(b"", 503)] * 4, Reply(b"", 429, {"Retry-After": "11"}))
    model = RemoteModel(serve(answer).url)
    monkeypatch.setattr(session, "BACK_OFF", (1.0, 5.0))
    monkeypatch.setattr(session.asyncio, "sleep", sleep)
    answer.armed = True
    model.answer(random_image(0), [WHERE])
    assert all(longest / 2 <= p <= longest for p, longest in zip(pauses, (1, 2, 4, 5), strict=False))
    assert len(pauses) == 5 and pauses[4] == 11


def test_a_busy_server_gives_late(serve):
    answer = Fault(*[Reply({"error": {"message": "overloaded"}}, 503)] * 1000)
    model = RemoteModel(serve(answer).url)
    answer.armed = True
    with patience(model, 0.3), pytest.raises(ModelError, match="not answered within 0.3 s.*HTTP 503 overloaded"):
        model.answer(random_image(0), [WHERE])
    del answer.replies[:]
    assert model.answer(random_image(0), [WHERE])[0].value == "left"


def test_a_server_that_wants_more_time_than_there_is_is_not_waited_for(serve):
    later = Reply(b"", 503, {"Retry-After": "Fri, 31 Dec 2100 23:59:59 GMT"})
    answer = Fault(Reply(b"", 429, {"Retry-After": "3600"}), later)
    server = serve(answer)
    model = RemoteModel(server.url, RequestLimits(timeout=60.0))
    answer.armed = True
    for words in ("HTTP 429.*3600 s", "HTTP 503.*tried again"):
        del server.requests[:]
        with pytest.raises(ModelError, match=words):
            model.answer(random_image(0), [WHERE])
        assert len(server.requests) == 1


def test_a_silent_server_gives_late_and_the_next_call_works(serve):
    release = threading.Event()
    answer = Fault(lambda: release.wait(10) and None)
    model = RemoteModel(serve(answer).url)
    answer.armed = True
    with patience(model, 0.3), pytest.raises(ModelError, match="not answered within 0.3 s"):
        model.answer(random_image(0), [WHERE])
    assert model.answer(random_image(1), [WHERE])[0].value == "left"
    release.set()


def test_another_server_at_the_same_address_is_asked_in_its_own_way(serve):
    first = Server(constrained("regex"))
    model = RemoteModel(first.url)
    assert "regex" in model.describe_self()["way"]
    first.close()
    with patience(model, 0.3), pytest.raises(ModelError, match="does the server run there"):
        model.answer(random_image(0), [WHERE])
    serve(decisions, port=first.port)
    assert model.answer(random_image(0), [THERE])[0].confidence == pytest.approx(0.9)
    assert "Decisions" in model.describe_self()["way"]


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(b"<html>welcome</html>"), "no JSON"),
        (Reply([1, 2]), "list, expected a JSON object"),
        (Reply({"answers": []}), "another form"),
        (Reply({"answers": [{"type": "predicate", "name": "0", "probability": None}], "usage": {}}), "another form"),
        (Reply(b'{"answers": [{"type": "predicate", "name": "0", "probability": NaN}]}'), "no probabilities"),
        (Reply({"answers": [{"type": "predicate", "name": "0", "probability": 1.5}]}), "no probabilities"),
        (Reply({"answers": [{"type": "predicate", "name": "0", "probability": 0.5}]}), "no count of tokens"),
        (Reply({"error": {"message": "CUDA error"}}, 500), "HTTP 500 CUDA error"),
        (Reply({"detail": [{"loc": ["body"], "msg": "too long"}]}, 422), "HTTP 422 too long"),
    ],
)
def test_what_is_no_answer_is_an_error_at_once(serve, reply, words):
    answer = Fault(reply, answer=decisions)
    server = serve(answer)
    model = RemoteModel(server.url)
    del server.requests[:]
    answer.armed = True
    with pytest.raises(ModelError, match=words):
        model.answer(random_image(0), [THERE])
    assert len(server.requests) == 1


HALF = Reply(b'data: {"choices": [{"delta": {"content": "A ba"}}]}\n\n')


def test_half_a_stream_is_no_description_and_is_asked_for_again(serve):
    answer = Fault(HALF, HALF)
    server = serve(answer)
    model = RemoteModel(server.url)
    model.answer(random_image(0), [WORDS])
    answer.armed = True
    assert model.answer(random_image(0), [WORDS])[0].value == "A ball." and not answer.replies


@pytest.mark.parametrize(
    ("stream", "words"),
    [(b'data: {"error": "out of memory"}\n\n', "out of memory"), (b'data: {"choi\n\n', "another form")],
)
def test_a_broken_stream_is_an_error(serve, stream, words):
    answer = Fault(Reply(stream))
    model = RemoteModel(serve(answer).url)
    model.answer(random_image(0), [WORDS])
    answer.armed = True
    with pytest.raises(ModelError, match=words):
        model.answer(random_image(0), [WORDS])


# The key


def test_the_key_is_sent_and_shown_nowhere(serve, monkeypatch, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    echo = Reply({"error": {"message": f"Incorrect API key provided: {KEY}"}}, 401)
    answer = Fault(
        echo, Reply({"detail": f"bad request of {KEY}"}, 400), Reply(f"busy {KEY}".encode(), 503, {"Retry-After": "99"})
    )
    server = serve(answer)
    monkeypatch.setenv(API_KEY, f"https://elsewhere=other {server.url}={KEY}")
    model = RemoteModel(server.url)
    model.answer(random_image(0), [WHERE])
    assert {request.headers["Authorization"] for request in server.requests} == {f"Bearer {KEY}"}
    answer.armed = True
    shown = [
        repr(model),
        str(vars(model)),
        str(model.describe_self()),
        str(vars(model._session)),
        str(vars(model._session.client)),
        model.name,
    ]
    for words in ("set VLM_PERCEPTION_API_KEY", "HTTP 400", "HTTP 503"):
        with pytest.raises(ModelError, match=words) as caught:
            model.answer(random_image(0), [WHERE])
        shown += traceback.format_exception(caught.value)
        frames = [
            frame for frame, _ in traceback.walk_tb(caught.tb) if "/vlm_perception/models/" in frame.f_code.co_filename
        ]
        shown += [repr(frame.f_locals) for frame in frames]
    assert len(frames) > 2
    shown += [caplog.text, *capfd.readouterr()]
    assert not [text for text in shown if KEY in text or KEY[3:] in text]
    assert not [request for request in server.requests if KEY in request.path or KEY in json.dumps(request.body)]


def test_no_key_no_header(serve):
    server = serve(constrained("regex"))
    RemoteModel(server.url)
    assert not [request for request in server.requests if "Authorization" in request.headers]


def test_a_key_that_was_copied_badly_is_not_repeated(serve, monkeypatch):
    server = serve(constrained("regex"))
    copy = "copy the whole key"
    for wrong, words in ((f"{KEY}\nfoo", "has a blank in a key"), (f'"{KEY}"', copy), ("", copy)):
        monkeypatch.setenv(API_KEY, f"{server.url}={wrong}")
        with pytest.raises(ModelError, match=words) as caught:
            RemoteModel(server.url)
        assert KEY not in str(caught.value)


def test_redirections_do_not_get_the_key(serve, monkeypatch):
    other = serve(constrained("regex"))
    server = serve(lambda request: Reply(b"", 307, {"Location": f"{other.url}{request.path}?token=x"}))
    monkeypatch.setenv(API_KEY, f"{server.url}={KEY}")
    with pytest.raises(ModelError, match="redirects to http://127.0.0.1") as caught:
        RemoteModel(server.url)
    assert not other.requests and len(server.requests) == 1 and "token" not in str(caught.value)


@pytest.mark.parametrize(
    "url", [f"http://user:{KEY}@host:8000", f"https://{KEY}@host", f"http://host:8000/v1?key={KEY}"], ids=range(3)
)
def test_secrets_in_the_address_are_refused_and_not_repeated(url):
    with pytest.raises(ModelError, match=API_KEY) as caught:
        load_model(url)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://gpu.local:8000", ("http://gpu.local:8000", "")),
        ("https://gpu.local/v1/#Qwen/Qwen3-VL-8B", ("https://gpu.local", "Qwen/Qwen3-VL-8B")),
        ("http://[::1]:8000/inference/v1", ("http://[::1]:8000/inference", "")),
        ("http://127.0.0.1:1#/models/llava", ("http://127.0.0.1:1", "/models/llava")),
    ],
)
def test_addresses(url, expected):
    assert read_endpoint(url) == expected


@pytest.mark.parametrize("url", ["http://", "http://:8000", "http://host:eight", "https:///path", "ftp://host"])
def test_wrong_addresses(url):
    with pytest.raises(ModelError, match="expected e.g. http://host:8000"):
        read_endpoint(url)


@pytest.mark.parametrize("wrong", [{"timeout": 0.0}, {"connect_timeout": math.inf}, {"in_flight": 0}])
def test_wrong_limits(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RequestLimits(**wrong)


def test_certificates_are_verified(serve, tmp_path, monkeypatch):
    import ssl

    certificate, private = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    extension = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(private), "-out", str(certificate)]
    try:
        subprocess.run([*command.split(), *extension], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs the command openssl")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, private)
    server = serve(constrained("regex"), tls=context)
    with pytest.raises(ModelError, match="certificate is not trusted.*SSL_CERT_FILE"):
        RemoteModel(server.url)
    assert not server.requests
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    model = RemoteModel(server.url)
    assert model.answer(random_image(0), [WHERE])[0].value == "left"
    assert model.describe_self()["encrypted"] == "yes"


def test_without_the_server_another_model_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    assert load_model(f"{url}, nano", device="cpu", request_timeout=0.5).name == "nano"


def test_a_remote_model_needs_no_torch(serve):
    server = serve(constrained("regex"))
    code = (
        "import sys, numpy; from vlm_perception.models.loader import load_model\n"
        "from vlm_perception.questions import YesNo\n"
        f"model = load_model({server.url!r})\n"
        "print(model.answer(numpy.zeros((8, 8, 3), 'uint8'), [YesNo('?')])[0].value, 'torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["yes", "False"]
