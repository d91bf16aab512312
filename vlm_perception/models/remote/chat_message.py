"""Chat completions: the request about an image, and the text of the reply."""

from __future__ import annotations

import math

from vlm_perception.models.remote.image_file import EncodedImage
from vlm_perception.models.remote.response import FORM_ERRORS, Body, RefusedError, wrong_form

PATH = "/v1/chat/completions"
MAX_LOG_PROBABILITY = 0.01
"""Highest log-probability that is believed: float16 makes a little more than 0 of 0."""
THINKS = (
    "the model thinks aloud before it answers (reasoning), and has no tokens left for the answer: turn thinking off at "
    "the server (llama.cpp: --reasoning-budget 0, vLLM: --default-chat-template-kwargs with enable_thinking false), or "
    "choose a model that does not think"
)


def chat_request(image: EncodedImage | None, text: str, max_tokens: int) -> Body:
    """Return a greedy chat completion's request, without the model's name."""
    content: list[Body] = [{"type": "image_url", "image_url": {"url": image.url}}] if image else []
    content.append({"type": "text", "text": text})
    return {"messages": [{"role": "user", "content": content}], "max_tokens": max_tokens, "temperature": 0.0}


def message_of(response: Body) -> Body:
    """Return a chat completion's message. Raises RefusedError when `response` is no chat completion."""
    try:
        message = response["choices"][0]["message"]
        if isinstance(message, dict):
            return message
    except (LookupError, TypeError):
        pass
    raise wrong_form(ValueError("no chat completion"), response)


def thinks(message: Body) -> bool:
    """Whether `message`, or a part of one, has a thought."""
    return bool(message.get("reasoning_content") or message.get("reasoning"))


def content_of(message: Body) -> str | None:
    """Return the text of a message or of a part of one, None without. Raises TypeError when it is no text."""
    content = message.get("content")
    if isinstance(content, list):  # in parts, as some servers send it
        content = "".join(str(part.get("text") or "") for part in content)
    if not isinstance(content, str | None):
        raise TypeError(f"content is a {type(content).__name__}")
    return content


def without_thought(text: str) -> str:
    """Return the `text` after the model's thought. Raises RefusedError when the thought has no end."""
    text = text.strip()
    if text.startswith("<think>"):
        _, end, text = text.partition("</think>")
        if not end:
            raise RefusedError(THINKS)
    return text.strip()


def reply_of(response: Body) -> str:
    """Return a chat completion's text without the thought. Raises RefusedError when it has none."""
    message = message_of(response)
    try:
        reply = content_of(message)
    except FORM_ERRORS as error:
        raise wrong_form(error, response) from None
    if not reply and thinks(message):
        raise RefusedError(THINKS)
    if reply is None:
        raise wrong_form(ValueError("no chat completion"), response)
    return without_thought(reply)


def log_probability(entry: Body) -> float:
    """Return the log-probability of a token's `entry`. ValueError when it is none.

    Some servers write null for minus infinity.
    """
    number = entry["logprob"]
    logarithm = -math.inf if number is None else float(number)
    if not logarithm <= MAX_LOG_PROBABILITY:  # also true for NaN
        raise ValueError(f"{logarithm} is no log-probability")
    return logarithm
