"""Texts of servers, models, file names and exceptions, made fit for a message or the log."""

from __future__ import annotations

import re
import unicodedata

_ESCAPE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)?")
"""Escape sequences of a terminal: colours, the cursor, its title."""
_DIRECTIONS = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that change the direction of text, and so can disguise a line."""


def printable(text: str) -> str:
    """Return `text` as valid Unicode without control characters; line feeds and tabs stay.

    Two surrogates, as of an emoji that was streamed, become one character again. A single one becomes U+FFFD, since ROS
    messages and the logger do not accept it.
    """
    if text.isascii() and text.isprintable():
        return text
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\x85", "\n")
    text = _ESCAPE.sub("", text)
    return "".join(c for c in text if c in "\n\t" or (unicodedata.category(c) != "Cc" and c not in _DIRECTIONS))


def one_line(text: str, limit: int = 2000) -> str:
    """Return `text` as one `printable` line, cut to at most `limit` characters."""
    words = " ".join(printable(text).split())
    return words if len(words) <= limit else words[: limit - 1] + "…"


def without_numbers(words: str) -> str:
    """Return `words` with a placeholder for every number, so that only other changes are seen."""
    return re.sub(r"\d+([.,]\d+)?", "#", words)
