"""What a server's JSON says: a body, an error in words, counts of tokens.

A server may send anything. What has an unexpected form becomes a RefusedError. Its text may be long and may hold a key,
which this module does not know: remove the key first, then shorten the text, before you show it.
"""

from __future__ import annotations

import json
import re
from typing import Any

Body = dict[str, Any]
"""A JSON object, sent or received."""
MAX_TOKENS = 2**32 - 1
"""Highest count of tokens that is believed."""
MAX_REASON = 4000
"""Most characters of an error that are read."""
FORM_ERRORS = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
"""What reading raises when an answer has another form than expected."""


class RefusedError(Exception):
    """A server does not support a way to ask: it refused the request, or its answer has another form."""


def parse(text: str | bytes) -> Any:
    """Return what the JSON `text` says. Raises RefusedError when it is no JSON or nested too deeply."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise RefusedError("its answer is no JSON") from None


def is_error(body: Body) -> bool:
    """Whether `body` reports an error, whatever the HTTP status says."""
    return bool(body.get("error")) or body.get("object") == "error"


def reason(text: str) -> str:
    """Return the message of an error response in one line. `text` may be JSON of several forms, HTML or plain text."""
    try:
        error = json.loads(text)
        for _ in range(8):
            if isinstance(error, dict):
                names = ("error", "detail", "message", "msg", "title")
                error = next(error[name] for name in names if error.get(name))
            elif isinstance(error, list):
                error = error[0]
        text = str(error)
    except (ValueError, LookupError, StopIteration, RecursionError):
        pass
    text = text[:MAX_REASON]
    if re.search(r"<(html|!doctype)", text, re.IGNORECASE):
        text = re.sub(r"<[^<>]*>", " ", re.sub(r"(?is)<(style|script)\b.*?</\1>", " ", text))
    return " ".join(text.split())


def wrong_form(error: Exception, response: Any) -> RefusedError:
    """Return the error for a `response` that has another form than expected; `error` says where."""
    try:
        shown = json.dumps(response, ensure_ascii=False)
    except (ValueError, RecursionError):
        shown = "it is nested too deep"
    return RefusedError(f"its answer has another form ({type(error).__name__} {error}): {shown}")


def token_counts(response: Body) -> tuple[int, int]:
    """Return how many tokens the server read and how many it generated. RefusedError when it does not say."""
    usage = response.get("usage")
    try:
        read = token_count(usage, "input_tokens", "prompt_tokens")
        return read, token_count(usage, "output_tokens", "completion_tokens")
    except (StopIteration, ValueError):
        raise RefusedError(f"its answer has no count of tokens (usage): {usage!r}") from None


def token_count(usage: Any, *names: str) -> int:
    """Return the count of tokens under the first of `names` in `usage`. StopIteration or ValueError without one."""
    count = next(usage[name] for name in names if name in usage) if isinstance(usage, dict) else None
    if type(count) is not int or not 0 <= count <= MAX_TOKENS:
        raise ValueError(f"{count!r} is no count of tokens")
    return count
