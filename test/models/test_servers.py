"""Servers as they are found in the world, and as an attacker would write one: an answer, a ModelError, never more."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
import threading
import time
import traceback
import tracemalloc
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from model_server import (
    NOT_FOUND,
    Fault,
    Reply,
    Request,
    chat_reply,
    constrained,
    decisions,
    images_in,
    plain,
    position,
    servers,
    system_one,
    tidy,
    words,
)  # fmt: skip
from paths import ROOT

from vlm_perception.address import models_shown
from vlm_perception.models.base import ModelError
from vlm_perception.models.loader import load_model
from vlm_perception.models.remote import model as remote_model
from vlm_perception.models.remote import ways
from vlm_perception.models.remote.chat_stream import LineDecoder
from vlm_perception.models.remote.decisions import Decisions
from vlm_perception.models.remote.endpoint import API_KEY, is_address, key_for, proxy_for, read_endpoint
from vlm_perception.models.remote.http_client import RequestLimits
from vlm_perception.models.remote.image_file import encode
from vlm_perception.models.remote.model import RemoteModel
from vlm_perception.models.remote.way import without_special_tokens
from vlm_perception.questions import Choice, Text, YesNo
from vlm_perception.text import one_line, printable

pytestmark = pytest.mark.usefixtures("tidy_servers")

KEY = "sk-topsecret-0123456789"
WHERE = Choice("Where is the ball?", ("left", "center", "right"))
WORDS = Text("Describe the image.", max_new_tokens=6)
IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
EXACT = pytest.approx((4 / 7, 2 / 7, 1 / 7))
STREAM = {"Content-Type": "text/event-stream"}


def event(content: str, **more: Any) -> str:
    return json.dumps({"choices": [{"index": 0, "delta": {"content": content}, **more}]}, ensure_ascii=False)


def streaming(*lines: str, end: str = "\n\n") -> Reply:
    return Reply("".join(line + end for line in lines).encode("utf-8", "surrogatepass"), headers=STREAM)


def describing(stream: Reply):
    """A server that says `stream` when it is asked for words."""

    def answer(request: Request) -> Reply | None:
        if request.path == "/v1/chat/completions" and request.body.get("stream"):
            return stream
        return constrained(None)(request)

    return answer


def described(serve, stream: Reply) -> str:
    (answer,) = RemoteModel(serve(describing(stream)).url, RequestLimits(timeout=3.0)).answer(IMAGE, [WORDS])
    return answer.value


# Streams


STOP = "data: " + event("", finish_reason="stop")


@pytest.mark.parametrize(
    ("lines", "end"),
    [
        (["data: " + event("A"), "data: " + event(" ball"), "data: [DONE]"], "\n\n"),  # no finish_reason
        (["data: " + event("A"), "data: " + event(" ball"), STOP], "\n\n"),  # no [DONE]
        (["data:" + event("A"), "data:" + event(" ball"), "data:[DONE]"], "\n"),  # no blank, no empty line
        (["data: " + event("A"), "data: " + event(" ball"), "data: [DONE]"], "\r\n\r\n"),
        (["data: " + event("A"), "data: " + event(" ball"), "data: [DONE]"], "\r\r"),
        ([": ping", "id: 1\nevent: message\ndata: " + event("A ball"), ": OPENROUTER PROCESSING", STOP], "\n\n"),
        (["data: " + event("A ball"), STOP, 'data: {"choices": [], "usage": null}', "data: [DONE]"], "\n\n"),
        (["data: " + json.dumps({"choices": [{"message": {"content": "A ball"}, "finish_reason": "stop"}]})], "\n\n"),
        (["data: " + event("<think>Hm.</think>\nA ball"), STOP], "\n\n"),
    ],
    ids=["done", "finish", "tight", "crlf", "cr", "comments", "usage null", "whole event", "thought"],
)
def test_a_stream_ends_as_its_server_ends_it(serve, lines, end):
    assert described(serve, streaming(*lines, end=end)) == "A ball"


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x0b", "\x1c"])
def test_lines_of_a_stream_end_at_cr_and_lf_only(serve, mark):
    text = described(serve, streaming("data: " + event("A ball"), "data: " + event(f"{mark}and a box."), STOP))
    assert text.split() == ["A", "ball", "and", "a", "box."] or text == "A balland a box."
    assert (mark in text) == (mark in "\u2028\u2029")


@pytest.mark.parametrize("size", [1, 2, 7])
def test_pieces_of_a_stream_may_end_anywhere(size):
    lines, text = LineDecoder(), "data: é\r\n\r\ndata: \u2028😀\rdata: x".encode()
    found = [line for i in range(0, len(text), size) for line in lines.decode(text[i : i + size])]
    assert found + lines.decode(b"", final=True) == ["data: é", "", "data: \u2028😀", "data: x"]


def test_a_whole_completion_in_place_of_a_stream_is_its_text(serve):
    body = {"choices": [{"message": {"content": "A ball"}, "finish_reason": "stop"}], "usage": {"completion_tokens": 2}}
    assert described(serve, Reply(json.dumps(body, indent=1).encode())) == "A ball"


def test_a_server_that_does_not_close_a_stream_that_has_ended_is_not_waited_for(serve, monkeypatch):
    monkeypatch.setattr(remote_model, "END_WAIT", 0.05)
    for last in (STOP, "data: [DONE]"):
        stream = streaming("data: " + event("A ball"), last)
        stream.headers = {**STREAM, "Transfer-Encoding": "chunked"}  # one chunk, and then nothing
        stream.body = f"{len(stream.body):x}\r\n".encode() + stream.body + b"\r\n"
        assert described(serve, stream) == "A ball"


def test_an_emoji_in_halves_is_whole_and_half_of_one_is_replaced(serve):
    halves = [f'data: {{"choices": [{{"delta": {{"content": "{half}"}}}}]}}' for half in ("A \\ud83d", "\\ude00 b")]
    assert described(serve, streaming(*halves, STOP)) == "A 😀 b"
    text = described(serve, streaming(halves[0], STOP))
    assert text == "A \ufffd" and text.encode()


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        (streaming('event: error\ndata: {"message": "out of memory"}'), "out of memory"),  # LM Studio
        (streaming('data: {"error": {"message": "out of memory", "code": 500}}', "data: [DONE]"), "out of memory"),
        (streaming('data: {"object": "error", "message": "out of memory"}'), "out of memory"),  # older vLLM
        (Reply({"error": "out of memory"}), "out of memory"),
        (streaming("data: " + event("", logprobs={"content": [{"token": "a", "logprob": 1e6}]})), "log-probability"),
        (streaming('data: {"choices": [], "usage": {"completion_tokens": -5}}'), "no count"),
        (streaming("data: " + "[" * 100_000), "another form"),
        (streaming("data: " + json.dumps({"choices": [{"delta": {"reasoning": "Hm"}}]}), STOP), "thinks aloud"),
        (streaming("data: " + event("<think>Hm, what"), STOP), "thinks aloud"),
    ],
)
def test_a_stream_that_breaks_off_says_why(serve, stream, why):
    with pytest.raises(ModelError, match=why):
        described(serve, stream)


# Servers by name


def llama_cpp(request: Request) -> Reply | None:
    """llama.cpp: log-probabilities, timings in every reply; ignores what it does not know; no System One."""
    if request.path != "/v1/chat/completions":
        return Reply({"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}}, 404)
    body = {k: v for k, v in request.body.items() if k not in ("structured_outputs", "guided_choice", "regex")}
    reply = constrained(None)(Request(request.method, request.path, request.headers, body))
    if isinstance(reply.body, dict):
        reply.body["timings"] = {"prompt_n": 12, "predicted_ms": 3.5}
    return reply


def llama_cpp_without_projector(request: Request) -> Reply | None:
    if request.path == "/v1/chat/completions" and images_in(request.body):
        message = "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj"
        return Reply({"error": {"code": 500, "message": message, "type": "server_error"}}, 500)
    return llama_cpp(request)


def ollama(request: Request) -> Reply | None:
    """Ollama: no log-probabilities, ignores what it does not know, `logprobs` too."""
    if request.path != "/v1/chat/completions":
        return Reply(b"404 page not found", 404, {"Content-Type": "text/plain"})
    reply = constrained(None)(request)
    if isinstance(reply.body, dict):
        reply.body["choices"][0].pop("logprobs", None)
    return reply


def lm_studio(request: Request) -> Reply | None:
    """LM Studio: says 200 to paths that it does not know, and `logprobs` null."""
    if request.path != "/v1/chat/completions":
        return Reply({"error": f"Unexpected endpoint or method. ({request.method} {request.path})"})
    reply = constrained(None)(request)
    if isinstance(reply.body, dict):
        reply.body["choices"][0]["logprobs"] = None
    return reply


def sglang(request: Request) -> Reply | None:
    """SGLang's chat: holds by regex, errors without "error" around them, forbidden tokens with null."""
    if request.path != "/v1/chat/completions":
        return NOT_FOUND
    if "structured_outputs" in request.body or "guided_choice" in request.body:
        return Reply({"object": "error", "message": "unexpected field", "type": "BadRequestError", "code": 400}, 400)
    reply = constrained("regex")(request)
    if isinstance(reply.body, dict):
        for entry in reply.body["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
            entry["logprob"] = None if entry["logprob"] == -9999.0 else entry["logprob"]
    return reply


def vllm(request: Request) -> Reply | None:
    """vLLM: holds by structured_outputs, writes -9999 for what is forbidden, `usage` null in every event."""
    if request.path != "/v1/chat/completions":
        return Reply({"error": {"message": "Not Found", "type": "NotFoundError", "param": None, "code": 404}}, 404)
    if not request.body.get("stream"):
        return constrained("structured_outputs")(request)
    events = words(request.body).body.decode().replace('"choices"', '"usage": null, "choices"')
    return Reply(events.encode(), headers=STREAM)


@pytest.mark.parametrize(
    ("server", "way", "probabilities"),
    [
        (llama_cpp, "log-probabilities alone", EXACT),
        (ollama, "plain chat", pytest.approx((0.8, 0.1, 0.1))),
        (lm_studio, "plain chat", pytest.approx((0.8, 0.1, 0.1))),
        (sglang, "regex", EXACT),
        (vllm, "structured_outputs", EXACT),
    ],
)
def test_servers_as_their_users_report_them(serve, server, way, probabilities):
    model = RemoteModel(serve(server).url, RequestLimits(timeout=5.0))
    where, text = model.answer(IMAGE, [WHERE, WORDS])
    assert way in model.describe_self()["way"]
    assert where.probabilities == probabilities and text.value == "A ball."


def test_a_server_without_eyes_is_refused_at_once_with_its_words(serve):
    server = serve(llama_cpp_without_projector)
    with pytest.raises(ModelError, match="provide the mmproj"):
        RemoteModel(server.url)
    assert len(server.requests) < 12


def test_an_error_with_status_200_is_told_in_the_servers_words(serve):
    server = serve(lambda request: Reply({"error": f"Unexpected endpoint or method. ({request.method})"}))
    with pytest.raises(ModelError, match=r"probabilities: Unexpected endpoint or method. \(POST\)$"):
        RemoteModel(server.url)


def test_a_model_that_only_thinks_is_refused_with_the_reason(serve):
    def thinking(request: Request) -> Reply | None:
        if request.path != "/v1/chat/completions":
            return NOT_FOUND
        reply = chat_reply(request.body, "")
        reply.body["choices"][0]["message"] = {"content": None, "reasoning_content": "Okay, the user"}
        return reply

    with pytest.raises(ModelError, match="thinks aloud .* turn thinking off at the server"):
        RemoteModel(serve(thinking).url)


def test_failing_words_cost_neither_labels_nor_answers(serve):
    def speechless(request: Request) -> Reply | None:
        return Reply(b"", 500) if request.body.get("stream") else constrained(None)(request)

    model = RemoteModel(serve(speechless).url)
    with pytest.raises(ModelError, match="HTTP 500"):
        model.answer(IMAGE, [WORDS])
    assert model.answer(IMAGE, [WHERE])[0].probabilities == EXACT


# Faults that pass, while it is found out how to ask


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 520, 524, 529])
def test_one_passing_fault_does_not_decide_how_a_server_is_asked(serve, status):
    faults = [Reply(b"a moment please", status)]

    def answer(request: Request) -> Reply | None:
        if "structured_outputs" in (request.body or {}) and faults:
            return faults.pop()
        return constrained("structured_outputs")(request)

    assert "structured_outputs" in RemoteModel(serve(answer).url).describe_self()["way"]


def test_a_better_way_that_failed_for_long_is_tried_again_later(serve, monkeypatch):
    failing = [True]

    def answer(request: Request) -> Reply | None:
        if request.path == "/v1/decisions":
            return Reply(b"", 500) if failing else decisions(request)
        return constrained("regex")(request)

    monkeypatch.setattr(ways, "RETRY_BETTER", 0.0)
    model = RemoteModel(serve(answer).url)
    assert "regex" in model.describe_self()["way"] and "tried again" in model.describe_self()["way"]
    failing.clear()
    for _ in range(200):
        model.answer(IMAGE, [WHERE])
        if "Decisions" in model.describe_self()["way"]:
            break
        time.sleep(0.01)
    assert model.describe_self()["way"] == Decisions.name


# Images that are too large


HTML = b"<html>\r\n<head><title>413 Request Entity Too Large</title></head>\r\n<body><h1>413</h1></body></html>"


@pytest.mark.parametrize(
    "refusal",
    [
        Reply(HTML, 413, {"Content-Type": "text/html"}),
        Reply({"error": {"message": "image too large: at most 1 MP"}}, 400),
        Reply({"error": {"message": "the picture is too big"}}, 400),
        Reply({"detail": [{"msg": "The image exceeds the maximum of 1000000 pixels"}]}, 422),
    ],
    ids=["413", "400", "picture", "422"],
)
def test_an_image_that_is_too_large_is_sent_smaller_from_then_on_without_new_probes(serve, refusal, caplog):
    def answer(request: Request) -> Reply | None:
        return refusal if len(json.dumps(request.body)) > 300_000 else constrained("regex")(request)

    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    server = serve(answer)
    model = RemoteModel(server.url)
    del server.requests[:]
    assert model.answer(image, [WHERE])[0].value == "left" and len(server.requests) == 2
    assert "at most 320 px" in caplog.text
    assert model.answer(image, [WHERE])[0].value == "left" and len(server.requests) == 3


def test_a_request_that_stays_too_large_names_the_remedy(serve):
    answer = Fault(*[Reply(HTML, 413)] * 9)
    server = serve(answer)
    model = RemoteModel(server.url)
    answer.armed = True
    del server.requests[:]
    with pytest.raises(ModelError, match="HTTP 413 413 Request Entity Too Large 413.*client_max_body_size"):
        model.answer(np.zeros((480, 640, 3), np.uint8), [WHERE])
    assert len(server.requests) == 2


def test_image_size_and_temperatures_count_for_servers(serve):
    server = serve(constrained("regex"))
    model = load_model(server.url, image_size=32, temperatures=(1e6, 1.0, 1.0))
    assert model.answer(IMAGE, [WHERE])[0].probabilities == pytest.approx((1 / 3,) * 3, abs=1e-3)
    small, whole = (len(data) for data in (images_in(server.requests[-1].body)[0], encode(IMAGE).data))
    assert small < whole / 2


# Replies without end or sense


def test_compressed_replies_are_refused(serve):
    bomb = zlib.compressobj(9, zlib.DEFLATED, 31)
    body = bomb.compress(b" " * (50 << 20)) + bomb.flush()
    server = serve(lambda request: Reply(body, headers={"Content-Encoding": "gzip"}))
    with pytest.raises(ModelError, match="compressed .gzip."):
        RemoteModel(server.url)
    assert {request.headers["Accept-Encoding"] for request in server.requests} == {"identity"}


class Raw:
    """A server that says `head` and then `piece` again and again, whatever it is asked."""

    def __init__(self, head: bytes, piece: bytes, pause: float = 0.0) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._head, self._piece, self._pause = head, piece, pause
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection:
            try:
                connection.recv(1 << 16)
                connection.sendall(self._head)
                while True:
                    connection.sendall(self._piece)
                    time.sleep(self._pause)
            except OSError:
                return

    def close(self) -> None:
        self._socket.close()


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("head", "piece", "pause"),
    [
        (OK + b"\r\n", b"x" * 65536, 0.0),  # an endless line
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b"\n" * 65536 + b"\r\n", 0.0),  # endless lines
        (b"HTTP/1.1 500 Oh\r\n\r\n", b"x" * 65536, 0.0),  # an endless error
        (OK, b"X-Header: " + b"x" * 1000 + b"\r\n", 0.0),  # endless headers
        (OK + b"\r\n", b" ", 0.02),  # a slow drip
        (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", 0.001),
        (b"\x00\xff\x00", b"\xff", 0.01),
    ],
    ids=["line", "lines", "error", "headers", "drip", "continue", "noise"],
)
def test_replies_without_end_take_bounded_time_and_memory(head, piece, pause):
    server = Raw(head, piece, pause)
    tracemalloc.start()
    try:
        started = time.monotonic()
        with pytest.raises(ModelError):
            RemoteModel(server.url, RequestLimits(timeout=0.3))
        assert time.monotonic() - started < 30, "without a limit it is for ever"
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
        server.close()


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ({"usage": []}, "no count of tokens"),
        ({"usage": {"prompt_tokens": 5, "completion_tokens": -5}}, "no count of tokens"),
        ({"usage": {"prompt_tokens": 5, "completion_tokens": 2**70}}, "no count of tokens"),
        ({"usage": {"prompt_tokens": 5, "completion_tokens": True}}, "no count of tokens"),
        ({"choices": [{"message": {"content": "A"}, "logprobs": {"content": [{"logprob": -1}]}}]}, "form"),
        ({"choices": [{"message": {"content": "A"}, "logprobs": {"content": [position({"A": 1e9})]}}]}, "form"),
        ({"choices": [{"message": {"content": "A"}, "logprobs": {"content": [position({"A": 1.1})]}}]}, "form"),
        ({"choices": [{"message": {"content": {"text": "A"}}}]}, "form"),
        ({"choices": "A"}, "form"),
        (b"[" * 100_000, "no JSON"),
        (b'{"a":' * 100_000, "no JSON"),
        (b"9" * 10_000, "no JSON"),
        (b'{"choices": [{"message": {"content": "\\ud83d"}}], "usage": {}}', "the model replied"),
        (b"HTTP/1.1 200 OK", "no JSON"),
    ],
)
def test_what_makes_no_sense_is_an_error_that_can_be_logged(serve, reply, why):
    def answer(request: Request) -> Reply | None:
        good = constrained("regex")(request)
        if armed and isinstance(good.body, dict):
            return Reply(reply if isinstance(reply, bytes) else {**good.body, **reply})
        return good

    armed: list[bool] = []
    model = RemoteModel(serve(answer).url)
    armed.append(True)
    with pytest.raises(ModelError, match=why) as caught:
        model.answer(IMAGE, [WHERE])
    assert str(caught.value).encode() and str(caught.value).isprintable() and len(str(caught.value)) < 1000


@pytest.mark.parametrize("location", ["http://[", "http://[::1", "//", "\x1b[31m", "http://" + "a" * 9000])
def test_a_redirection_to_nowhere_is_an_error(serve, location):
    server = serve(lambda request: Reply(b"", 302, {"Location": location}))
    with pytest.raises(ModelError, match="redirects to"):
        RemoteModel(server.url)


def test_after_any_of_them_the_next_model_of_the_list_is_taken(serve):
    replies = (Reply(b"[" * 9999), Reply(b"", 302, {"Location": "http://["}), Reply({"usage": [], "answers": {}}))
    urls = [serve(lambda request, reply=reply: reply).url for reply in replies]
    good = serve(constrained("regex")).url
    assert load_model(", ".join([*urls, good]), request_timeout=2.0).name == good


def test_words_of_servers_are_shown_without_control_characters_and_cut(serve):
    hostile = "\x1b]0;title\x07\x1b[2J\u202e" + "\ud83d" + "x" * 5000
    server = serve(lambda request: Reply({"error": {"message": hostile}}, 400))
    with pytest.raises(ModelError) as caught:
        RemoteModel(server.url)
    assert str(caught.value).isprintable() and "\u202e" not in str(caught.value) and len(str(caught.value)) < 2000
    assert "title" not in str(caught.value)


# The key


def test_a_key_goes_to_the_server_that_it_is_for_and_to_no_other(monkeypatch):
    monkeypatch.setenv(API_KEY, "https://gpu.local=a= http://10.0.0.1:8000=b https://[::1]:8000/v1=c")
    assert key_for("https://gpu.local:443/x") == key_for("https://GPU.local") == "a="
    assert key_for("http://10.0.0.1:8000") == "b" and key_for("https://[::1]:8000") == "c"
    for other in ("http://gpu.local", "https://gpu.local:8000", "https://gpu.local.evil.org", "https://evil.org"):
        assert key_for(other) is None


def test_a_key_that_names_no_server_is_refused_with_what_to_set(monkeypatch):
    monkeypatch.setenv(API_KEY, KEY)
    with pytest.raises(ModelError, match="set it to https://gpu.local:8000=KEY") as caught:
        load_model("https://gpu.local:8000")
    assert KEY not in str(caught.value)


def test_a_server_that_repeats_the_key_gets_it_shown_nowhere_however_it_is_cut(serve, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    said = [f"{'x' * n} {KEY} {KEY}" for n in (0, 60, 150, 185, 190, 280, 295)]
    replies = [Reply({"error": {"message": text}}, status) for text in said for status in (400, 401, 500)]
    replies += [Reply(text.encode()) for text in said] + [Reply({"choices": [text]}) for text in said]
    replies += [Reply({"choices": [{"message": {"content": text}}]}) for text in said]
    replies += [Reply(b"", 302, {"Location": f"http://{KEY}/"})]
    half = len(KEY) // 2
    stream = streaming("data: " + event(KEY[:half]), "data: " + event(KEY[half:] + "!"), STOP)
    answer = Fault(*replies, answer=describing(stream))
    server = serve(answer)
    monkeypatch.setenv(API_KEY, f"{server.url}={KEY}")
    model = RemoteModel(server.url)
    assert model.answer(IMAGE, [WORDS])[0].value == "<key>!"
    answer.armed, shown = True, []
    while answer.replies:
        with pytest.raises(ModelError) as caught:
            model.answer(IMAGE, [WHERE])
        shown += traceback.format_exception(caught.value)
    text = caplog.text + "".join(shown)
    assert "<key>" in text and KEY[:10] not in text


def test_a_key_in_the_clear_through_a_proxy_is_told_once(serve, monkeypatch, caplog):
    there = "http://gpu.invalid:8000"

    def forward(request: Request) -> Reply | None:
        assert request.path.startswith(there)
        return constrained("regex")(replace(request, path=request.path.removeprefix(there)))

    proxy = serve(forward)
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv(API_KEY, f"{there}={KEY}")
    model = RemoteModel(there)
    model.answer(IMAGE, [WHERE])
    model.answer(IMAGE, [WHERE])
    (line,) = [record.getMessage() for record in caplog.records if "clear" in record.getMessage()]
    assert "HTTP_PROXY" in line and KEY not in line


# The environment


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("ALL_PROXY", "socks://127.0.0.1:7890/", "ALL_PROXY .* socks://, expected"),
        ("ALL_PROXY", "socks5://127.0.0.1:7890", "ALL_PROXY .* pip install 'httpx2.socks.'"),
        ("HTTPS_PROXY", f"http://user:{KEY}@", "HTTPS_PROXY is no address"),
        ("https_proxy", f"http://user:{KEY}@host:port", "https_proxy is no address"),
        ("SSL_CERT_FILE", "/no/such/cacert.pem", "SSL_CERT_FILE .* cannot be read"),
        ("SSL_CERT_FILE", "/etc/hostname", "SSL_CERT_FILE .* cannot be read"),
    ],
)
def test_what_the_environment_says_wrongly_is_named_and_the_list_goes_on(serve, monkeypatch, variable, value, words):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ModelError, match=words) as caught:
        load_model("https://gpu.invalid:8000")
    assert KEY not in str(caught.value)
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.0/8")
    assert load_model(serve(constrained("regex")).url).name.startswith("http://127.0.0.1"), "no proxy, no https"


@pytest.mark.parametrize(
    ("no_proxy", "reached"),
    [("gpu.local", True), (".local", True), ("*", True), ("other, gpu.local:8000", True), ("xgpu.local", False)],
)
def test_hosts_without_a_proxy(monkeypatch, no_proxy, reached):
    monkeypatch.setenv("http_proxy", "proxy:3128")
    monkeypatch.setenv("no_proxy", no_proxy)
    assert (proxy_for("http://gpu.local:8000") is None) == reached
    monkeypatch.setenv("no_proxy", "10.0.0.0/8,fd00::/8,::1")
    assert proxy_for("http://10.1.2.3") is None and proxy_for("http://[::1]:1") is None
    assert proxy_for("http://11.1.2.3") == ("http://proxy:3128", "http_proxy")


def test_without_the_http_client_the_next_model_is_taken():
    code = (  # transformers may have the same client, so it is there first
        "import sys; from transformers import AutoModelForImageTextToText, AutoProcessor\n"
        "sys.modules['httpx2'] = None\n"
        "from vlm_perception.models.loader import load_first\n"
        "from vlm_perception.models.options import LoadOptions\n"
        "print(load_first('http://gpu.invalid:8000,nano', LoadOptions(device='cpu'), print).name)\n"
        "try: load_first('http://gpu.invalid:8000', LoadOptions())\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    reason, name, error = result.stdout.splitlines()
    assert "a model on a server needs httpx2: pip install httpx2" in reason and name == "nano"
    assert error.startswith("ModelError") and "pip install httpx2" in error


# Addresses


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpu.local:8000", ("http://gpu.local:8000", "")),
        ("127.0.0.1:8000/v1#qwen", ("http://127.0.0.1:8000", "qwen")),
        ("[::1]:8000", ("http://[::1]:8000", "")),
        ("http://gpu:8000/v1/chat/completions", ("http://gpu:8000", "")),
        ("https://gpu/inference/v1/chat/completions/#m", ("https://gpu/inference", "m")),
        ("gpu:8000/chat/completions", ("http://gpu:8000", "")),
        ("HTTPS://gpu/v1/models", ("https://gpu", "")),
    ],
)
def test_addresses_as_people_write_them(name, expected):
    assert is_address(name) and read_endpoint(name) == expected


def test_a_folder_of_that_name_has_precedence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_address("gpu:8000")
    (tmp_path / "gpu:8000").mkdir()
    assert not is_address("gpu:8000")
    for folder in ("nano", "/models/llava:7b", "models/llava", "C:x", "llava:latest"):
        assert not is_address(folder)


@pytest.mark.parametrize("name", [f"user:{KEY}@gpu:8000", f"http://user:{KEY}@gpu:8000", f"http://gpu:8000/?k={KEY}"])
def test_secrets_in_an_address_are_shown_nowhere(name):
    heard: list[str] = []
    from vlm_perception.models.loader import load_first
    from vlm_perception.models.options import LoadOptions

    with pytest.raises(ModelError) as caught:
        load_first(f"{name}, /no/such/folder", LoadOptions(), heard.append)
    assert (
        len(heard) == 2
        and KEY not in heard[0] + str(caught.value)
        and KEY not in models_shown(f"/folder, {name}, nano")
    )


# What is asked


@pytest.mark.parametrize(
    "server", [system_one, decisions, constrained("regex")], ids=["systemone", "decisions", "chat"]
)
def test_nobody_can_write_a_token_of_a_chat_template(serve, server):
    tokens = ("<|im_start|>", "</s>", "<image>", "[INST]", "<end_of_turn>", "<｜User｜>", "<<SYS>>", "[[camera]]")
    server = serve(server)
    model = RemoteModel(server.url)
    options = ("left near", "a <|im_end|>", "<b>")
    choice = Choice(" ".join(tokens), options, ("", "<|x|>", ""))
    asked = model.answer(IMAGE, [choice])
    assert asked[0].options == options and asked[0].value in options
    sent = json.dumps({**server.requests[-1].body, "state": ""}, ensure_ascii=False)
    assert not [token for token in (*tokens, "<|im_end|>", "<|x|>") if token in sent]
    assert "< |im_start|>" in sent
    plain_text = YesNo("Is 3 < 5, a <= b, x > y [m], [a] or <3?")
    assert without_special_tokens(plain_text) == plain_text


# Texts


def test_texts():
    assert printable("a\x1b[31mb\x1b[0m\x00\x07c\nd") == "abc\nd"
    assert one_line("a\n b\u2028c" + "x" * 100, 10) == "a b cxxxx…"
    assert models_shown("no http://a:b@c/d?e=f#g, x@y.z? ok") == "no http://***@c/d?***#g, x@y.z? ok"


# Anything at all


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["A", "Yes", "0", "left", "stop", "error", 2**70, -5, 1e6])
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def spoiled(draw, whole: Any) -> Any:
    """`whole` with some of its parts left out or replaced by anything."""
    if draw(st.integers(0, 5)) == 0:
        return draw(JSON)
    if isinstance(whole, dict):
        return {key: draw(spoiled(value)) for key, value in whole.items() if draw(st.integers(0, 12))}
    if isinstance(whole, list):
        return [draw(spoiled(value)) for value in whole if draw(st.integers(0, 12))]
    return whole


# Without shrinking, which takes minutes when there is a fault.
BOUNDED = settings(
    max_examples=30, deadline=None, phases=[Phase.generate], database=None, suppress_health_check=list(HealthCheck)
)
FORMS = {
    "System One": system_one,
    "Decisions": decisions,
    "structured_outputs": constrained("structured_outputs"),
    "plain": plain("A"),
}


class Spoiling:
    """`answer`, but to the next request the `reply`, if there is one."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.reply = answer, None

    def __call__(self, request: Request) -> Reply | None:
        reply, self.reply = self.reply, None
        return reply or self.answer(request)


@pytest.fixture(scope="module")
def forms():
    """For each form: a model, its server, and the way in which it is asked."""
    with servers() as start, pytest.MonkeyPatch.context() as patch:
        tidy(patch)
        made = {}
        for name, answer in FORMS.items():
            spoiling = Spoiling(answer)
            model = RemoteModel(start(spoiling).url, RequestLimits(timeout=10.0))
            assert name in model.describe_self()["way"]
            made[name] = model, spoiling, model._closed.found
        yield made


def reply_of(body: Any, **more: Any) -> Reply:
    return Reply(body if isinstance(body, bytes) else json.dumps(body).encode(), **more)


@BOUNDED
@given(data=st.data(), status=st.sampled_from([200] * 12 + [201, 302, 400, 401, 404, 413, 418, 422, 429, 500]))
@pytest.mark.parametrize("name", FORMS)
def test_any_reply_is_an_answer_or_a_model_error(forms, name, data, status):
    model, server, way = forms[name]
    good = server.answer(Request("POST", way.path, {}, way.request(encode(IMAGE), [WHERE]))).body
    body = data.draw(st.binary(max_size=40) | spoiled(good))
    server.reply = reply_of(body, status=status, headers={"Location": data.draw(st.sampled_from(["http://[", "x"]))})
    try:
        (got,) = model.answer(IMAGE, [WHERE])
    except ModelError as error:
        assert one_line(str(error)) == str(error) and len(str(error)) < 1000
    else:
        assert got.value in WHERE.options and sum(got.probabilities) == pytest.approx(1)
        assert all(0 <= p <= 1 for p in got.probabilities) and 0 <= got.usage.tokens < 2**32
    finally:
        server.reply = None


EVENTS = [json.loads(line[6:]) for line in words({"logprobs": True}).body.decode().split("\n\n") if "{" in line]


@BOUNDED
@given(data=st.data(), ends=st.lists(st.sampled_from([b"\n", b"\r", b"\r\n", b"\n\n", b""]), min_size=9, max_size=9))
def test_any_stream_is_text_or_a_model_error(forms, data, ends):
    model, server, _ = forms["structured_outputs"]
    events = data.draw(st.lists(JSON, max_size=3) | st.tuples(*(spoiled(event) for event in EVENTS)).map(list))
    lines = [b"data: " + json.dumps(event).encode() for event in events]
    lines[:0] = data.draw(st.lists(st.binary(max_size=20), max_size=1))
    lines += data.draw(st.sampled_from([[b"data: [DONE]"], []]))
    server.reply = Reply(b"".join(line + end for line, end in zip(lines, ends, strict=False)), headers=STREAM)
    try:
        (got,) = model.answer(IMAGE, [WORDS])
    except ModelError as error:
        assert one_line(str(error)) == str(error) and len(str(error)) < 1000
    else:
        assert got.value == printable(got.value) and 0 <= got.confidence <= 1
        assert got.value.encode() is not None and 0 <= got.usage.tokens < 2**32
    finally:
        server.reply = None
