"""Servers of models as others write them: true HTTP servers whose replies a test chooses."""

from __future__ import annotations

import contextlib
import json
import math
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from vlm_perception.models.remote import session
from vlm_perception.models.remote.endpoint import API_KEY
from vlm_perception.models.remote.http_client import RequestLimits
from vlm_perception.models.remote.model import RemoteModel


def tidy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the pauses between tries away, and what this machine's environment says of proxies and keys."""
    monkeypatch.setattr(session, "BACK_OFF", (0.01, 0.05))
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR", API_KEY):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@contextlib.contextmanager
def patience(model: RemoteModel, seconds: float) -> Iterator[None]:
    """Less time for a call than a model has to find out how to ask, which takes a busy machine longer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "_limits", RequestLimits(timeout=seconds))
        yield


@dataclass
class Reply:
    """`body` is sent as JSON if it is not bytes already, without the `cut` last ones."""

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int = 0


@dataclass
class Request:
    method: str
    path: str
    headers: Any
    body: Any


class Server:
    """A true HTTP server that replies as `answer` says and keeps the requests."""

    def __init__(self, answer: Callable[[Request], Reply | None], port: int = 0, tls: Any = None) -> None:
        self.requests: list[Request] = []
        self._connections: list[socket.socket] = []
        requests, connections = self.requests, self._connections

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one packet

            def setup(self) -> None:
                super().setup()
                connections.append(self.connection)

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers.get("content-length", 0)))
                request = Request(self.command, self.path, self.headers, json.loads(content) if content else None)
                requests.append(request)
                reply = answer(request)
                if reply is None:  # hang up
                    self.close_connection = True
                    return
                body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                self.send_response(reply.status)
                for name, value in {**reply.headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body[: len(body) - reply.cut])
                self.close_connection = reply.cut > 0

            do_GET = do_POST  # noqa: N815

            def log_message(self, *words: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign] # clients that do not wait
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
            self.url = f"https://localhost:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()


@contextlib.contextmanager
def servers() -> Iterator[Callable[..., Server]]:
    """A function that starts a `Server`; all of them end with the context."""
    with contextlib.ExitStack() as stack:

        def start(answer: Callable[[Request], Reply | None], **more: Any) -> Server:
            server = Server(answer, **more)
            stack.callback(server.close)
            return server

        yield start


NOT_FOUND = Reply({"detail": "Not Found"}, 404)


def images_in(body: Any) -> list[str]:
    """The base64 of every image in a request, wherever it stands."""
    text = json.dumps(body)
    return [part.split('"')[0] for part in text.split("data:image/jpeg;base64,")[1:]] + [
        asset["data_base64"] for asset in body.get("assets", {}).values()
    ]


def chat_reply(body: Any, content: str, logprobs: Any = None) -> Reply:
    """A chat completion as vLLM and SGLang send it; an image has 64 tokens."""
    text = "".join(part.get("text", "") for message in body["messages"] for part in message["content"])
    read = len(text.split()) + 64 * len(images_in(body))
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    if logprobs is not None:
        choice["logprobs"] = {"content": logprobs}
    return Reply(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "choices": [choice],
            "usage": {"prompt_tokens": read, "completion_tokens": 2, "total_tokens": read + 2},
        }
    )


def position(tokens: dict[str, float]) -> dict[str, Any]:
    """One position of logprobs; the first token is the one that was said."""
    top = [{"token": token, "logprob": math.log(p) if p else -9999.0} for token, p in tokens.items()]
    return {**top[0], "top_logprobs": top}


def constrained(knows: str | None) -> Callable[[Request], Reply | None]:
    """A chat server that holds the reply to labels by the field that it `knows` and ignores all others.

    The first label is the likeliest, each further one half as likely; without labels it says hello.
    """

    def answer(request: Request) -> Reply | None:
        body = request.body
        if request.path != "/v1/chat/completions":
            return NOT_FOUND
        if body.get("stream"):
            return words(body)
        text = body["messages"][0]["content"][-1]["text"]
        held = {
            "structured_outputs": lambda: body["structured_outputs"]["choice"],
            "guided_choice": lambda: body["guided_choice"],
            "regex": lambda: body["regex"].strip("()").split("|"),
        }
        if knows in body:
            labels = held[knows]()
        elif text.endswith("Yes or No only."):
            labels = ["Yes", "No"]
        elif text.endswith("only."):
            labels = [line[0] for line in text.splitlines() if line[1:3] == ". "]
        else:
            return chat_reply(body, "Hello there!", [position({"Hello": 0.9, "Yes": 0.1})])
        weights = {label: 0.5**i for i, label in enumerate(labels)}
        named = {label: weight / sum(weights.values()) for label, weight in weights.items()}
        end = position({"<|im_end|>": 1.0})
        return chat_reply(body, labels[0], [position({**named, "Hello": 0.0}), end] if body.get("logprobs") else None)

    return answer


def words(body: Any) -> Reply:
    said = [("A", 0.5), (" ball", 0.25), (".", 0.125)]
    events: list[Any] = [{"choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]}]
    for token, p in said:
        logprobs = {"content": [position({token: p})]} if body.get("logprobs") else None
        events.append({"choices": [{"index": 0, "delta": {"content": token}, "logprobs": logprobs}]})
    events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    lines = [f"data: {json.dumps(event)}\n\n" for event in events]
    return Reply("".join([*lines, "data: [DONE]\n\n"]).encode(), headers={"Content-Type": "text/event-stream"})


def system_one(request: Request) -> Reply | None:
    """SGLang ignores what it does not know, assets among them."""
    body = request.body
    if request.path != "/v1/systemone":
        return NOT_FOUND
    answers = {}
    for name, question in body["questions"].items():
        if question["type"] == "noul":
            answers[name] = {"type": "noul", "noul": 0.2, "x_label_mass": 1.0}
        elif question["type"] == "choice":
            p = dict(zip(question["criteria"], (0.1, 0.7, 0.2), strict=True))
            answers[name] = {"type": "choice", "choice": "left near", "confidence": 0.5, "probabilities": p}
        else:
            p = {str(level): p for level, p in enumerate((0.1, 0.2, 0.7))}
            answers[name] = {"type": "score", "score": 1.6, "probabilities": p, "legend": {}, "confidence": 0.5}
    read = 20 + 100 * len(body.get("images", []))
    return Reply({"model": "m", "answers": answers, "usage": {"input_tokens": read, "output_tokens": 0}})


def decisions(request: Request) -> Reply | None:
    body = request.body
    if request.path != "/v1/decisions":
        return NOT_FOUND
    answers: list[Any] = []
    for question in body["questions"]:
        name = question["name"]
        if question["type"] == "predicate":
            answers.append({"type": "predicate", "name": name, "probability": 0.9})
        elif question["type"] == "choice":
            values = [choice["value"] for choice in question["choices"]]
            p = [{"value": v, "probability": q} for v, q in zip(values, (0.33, 0.33, 0.33), strict=True)]  # rounded
            answers.append({"type": "choice", "name": name, "choice": "left", "confidence": 0, "probabilities": p})
        elif question["instructions"] == "refuse":
            answers.append({"type": "refusal", "name": name})
        else:
            p = [{"value": i, "label": level["label"], "probability": q} for i, (level, q) in enumerate(
                zip(question["levels"], (0.1, 0.8, 0.1), strict=True))]  # fmt: skip
            answers.append({"type": "score", "name": name, "score": 1.0, "confidence": 0.5, "probabilities": p})
    read = 20 + 100 * len(images_in(body))
    return Reply({"model": "m", "answers": answers, "usage": {"input_tokens": read, "output_tokens": 0}})


def plain(reply: str) -> Callable[[Request], Reply | None]:
    """A chat server without any extension that says the same to everything."""

    def answer(request: Request) -> Reply | None:
        known = {"model", "messages", "max_tokens", "temperature"}
        if request.path != "/v1/chat/completions":
            return NOT_FOUND
        if request.body.keys() - known:
            return Reply({"detail": f"Unexpected fields in the request: {request.body.keys() - known}"}, 422)
        return chat_reply(request.body, reply)

    return answer


class Fault:
    """`answer`, but the first of `replies` are said before, once this is `armed`."""

    def __init__(self, *replies: Reply | Callable[[], None] | None, answer: Any = None) -> None:
        self.replies = list(replies)
        self.armed = False
        self._answer = answer or constrained("regex")

    def __call__(self, request: Request) -> Reply | None:
        if self.armed and self.replies:
            reply = self.replies.pop(0)
            if not callable(reply):
                return reply
            reply()
        return self._answer(request)
